"""The site as scripts/docs builds it: broken links, anchors and pages that no menu names are errors there."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import markdown

NEEDS = ("sphinx", "myst_parser", "furo", "sphinx_external_toc")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]
REASON = f"not installed: {', '.join(MISSING)} (they are in the extras docs and test of setup.cfg)"
# Where nothing may be skipped, as in CI, the fixture fails with the reason instead.
REQUIRED = os.environ.get("NETPOL_LAB_REQUIRED") == "1"
pytestmark = pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=REASON)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert not MISSING, REASON
    folder = tmp_path_factory.mktemp("site")
    command = re.findall(r"^exec .*sphinx (.+)$", (markdown.ROOT / "scripts/docs").read_text(), re.MULTILINE)[0]
    options = command.replace('"$out"', str(folder / "html")).replace('"$@"', "").split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-d", str(folder / "trees"), *options],
        cwd=markdown.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_of_the_menu_is_there(site: Path) -> None:
    for page in markdown.menu():
        assert (site / page).with_suffix(".html").exists(), page
    assert 'url=docs/index.html"' in (site / "index.html").read_text()


def test_flags_are_not_typeset(site: Path) -> None:
    text = (site / "docs/verbs/explain.html").read_text()
    assert "--ask-kernel" in text and "–ask-kernel" not in text


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No font, script, style or picture of another host, in pages and in what they load."""
    for page in (site / "docs").rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* href=\"([^\"]+)\"", text)
        assert loaded
        assert not [url for url in loaded if re.match(r"(https?:)?//", url)], page.name
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style.name


def test_the_search_index_knows_the_pages_and_needs_no_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    # A script that a page loads, not data that it would have to fetch: browsers refuse that from a disk.
    assert index.startswith("Search.setIndex(")
    assert "docs/verbs/explain" in index and "NPE301" in index
