"""`python -m tests.docs.update` (scripts/update-docs): writes the pages of the verbs, and the output in every page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.docs import markdown, verb_pages
from tests.docs.commands import Session


def expected() -> dict[Path, str]:
    """Every page that is made of something, as it has to be now."""
    texts = {page: page.read_text() for page in markdown.pages()} | verb_pages.made()
    return {page: filled(text) if "```console" in text else text for page, text in texts.items()}


def filled(text: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        return Session(Path(directory)).fill(text)


def write() -> None:
    for page, text in expected().items():
        if not page.exists() or page.read_text() != text:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text)
            print(f"wrote {markdown.name(page)}")
    for page in verb_pages.FOLDER.glob("*.md"):
        if page not in verb_pages.made():
            page.unlink()
            print(f"removed {markdown.name(page)}: there is no such verb")


if __name__ == "__main__":
    write()
