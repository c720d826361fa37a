"""Bundles that earlier versions wrote: each of them still answers. None of these files is ever written anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kubectl_netpol import bundle
from kubectl_netpol.cli import run

HERE = Path(__file__).resolve().parents[1] / "bundles"
KEPT = sorted(HERE.glob("*.tar.gz"))
NEWEST = "format-1-0.1.0", "format-2-0.1.0"
"""Of each format the last one: it has all that the others lack."""


def test_one_of_each_format_is_kept() -> None:
    formats = {int(path.name.split("-")[1]) for path in KEPT}
    assert formats == set(bundle.FORMATS)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_the_article_is_answered(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*arguments: str) -> tuple[int, dict[str, object]]:
        code = run([*arguments, "--bundle", str(path), "-o", "json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = ask("explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    assert (code, found["verdict"]) == (1, "DROP")
    code, found = ask("explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80")
    assert (code, found["verdict"]) == (0, "ALLOW")
    assert ask("explain", "pod/nginx")[0] == 0
    assert ask("maps", "pod/nginx")[0] == 0
    code, found = ask("conntrack", "pod/nginx")
    assert code == 0 and found["maps"]
    whole = any(path.name.startswith(name) for name in NEWEST)
    # What a bundle does not have is unknown, and not fine.
    assert ask("check", "-A")[0] == (0 if whole else 3)
    assert ask("doctor")[0] == (0 if whole else 3)
    assert ask("drops", "pod/nginx")[0] == (1 if whole else 3)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_it_can_be_written_in_the_format_of_now(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.tar.gz"
    assert run(["capture", "-A", "-f", str(out), "--bundle", str(path)]) == 0
    before, after = bundle.read(str(path)), bundle.read(str(out))
    assert after.nodes == before.nodes
    assert all(after.get(kind) == found for kind, found in before.collections.items())
