"""Commands, pages and menu are in step; nothing is built for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.docs import commands, markdown, update, verb_pages

PAGES = markdown.pages()
MENU = markdown.menu()
# Shown by GitHub in the place of the site's start page.
NOT_IN_MENU = {"README.md"}


def test_every_page_is_in_the_menu_once() -> None:
    menu = Counter(MENU)
    missing = {markdown.name(page) for page in PAGES} - set(menu) - NOT_IN_MENU
    assert not missing, f"add {', '.join(sorted(missing))} to docs/toc.yml, under the caption that fits"
    gone = [entry for entry in menu if not (markdown.ROOT / entry).exists()]
    assert not gone, f"docs/toc.yml names {', '.join(gone)}, and there is no such page"
    assert not [entry for entry, times in menu.items() if times > 1], "a page stands in docs/toc.yml twice"


@pytest.mark.parametrize("verb", commands.VERBS)
def test_every_verb_has_a_page_in_the_menu(verb: str) -> None:
    page = verb_pages.FOLDER / f"{verb}.md"
    assert page.exists(), f"scripts/update-docs makes docs/verbs/{verb}.md"
    assert markdown.name(page) in MENU
    assert f"](verbs/{verb}.md)" in verb_pages.INDEX.read_text(), "run scripts/update-docs"


def test_there_is_no_page_of_a_verb_that_is_gone() -> None:
    assert {page.stem for page in verb_pages.FOLDER.glob("*.md")} == set(commands.VERBS), "run scripts/update-docs"
    assert not {*verb_pages.EXAMPLES, *verb_pages.MORE} - set(commands.VERBS), "of verbs that are gone"


@pytest.mark.parametrize("verb", commands.VERBS)
def test_every_verb_has_an_example_and_exit_codes(verb: str) -> None:
    assert verb in verb_pages.EXAMPLES, f"give {verb} an example in tests/docs/verb_pages.py, then scripts/update-docs"
    assert "| |" in verb_pages.exit_codes(verb), f"give {verb} a row in docs/exit-codes.md, then scripts/update-docs"


@pytest.mark.parametrize("verb", commands.VERBS)
def test_every_flag_is_on_the_page_of_its_verb(verb: str) -> None:
    page = (verb_pages.FOLDER / f"{verb}.md").read_text()
    command = commands.VERBS[verb]
    for one in (command, *getattr(command, "commands", {}).values()):
        assert one.help, f"{one.name} has no help"
        for parameter in one.params:
            assert parameter.help, f"{one.name} {parameter.name} has no help"
            for flag in parameter.opts if parameter.param_type_name == "option" else ():
                assert flag in page, f"docs/verbs/{verb}.md lacks {flag}: run scripts/update-docs"


@pytest.mark.parametrize("page", PAGES, ids=markdown.name)
def test_every_command_line_is_one_that_the_plugin_takes(page: Path) -> None:
    for line in commands.lines(page.read_text()):
        commands.parse(line)


def test_command_lines_are_found_where_people_read_them() -> None:
    text = "`kubectl netpol-ebpf\nmaps POD`\n\n```\n$ kubectl netpol-ebpf version # x\n```\n\n"
    text += "    kubectl netpol-ebpf doctor\n\n```console\n$ echo $?\nkubectl netpol-ebpf is output\n```\n"
    assert sorted(commands.lines(text)) == [
        "kubectl netpol-ebpf doctor",
        "kubectl netpol-ebpf maps POD",
        "kubectl netpol-ebpf version # x",
    ]
    assert sum(1 for page in PAGES for _ in commands.lines(page.read_text())) > 50


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("kubectl netpol-ebpf explode pod/x", "there is no verb explode"),
        ("kubectl netpol-ebpf maps pod/x --colour", "--colour"),
        ("kubectl netpol-ebpf maps pod/x -o xml", "-o"),
        ("kubectl netpol-ebpf maps pod/x --via ssh", "--via"),
        ("kubectl netpol-ebpf maps pod/x --bundel x", "--bundel"),
    ],
)
def test_a_wrong_command_line_is_told(line: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        commands.parse(line)


@pytest.mark.parametrize("page", PAGES, ids=markdown.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target in markdown.links(page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{markdown.name(page)}: there is no {target}"
        assert found.is_relative_to(markdown.ROOT), f"{markdown.name(page)}: {target} is outside of the project"
        if anchor:
            known = sorted(markdown.anchors(found))
            assert anchor in known, f"{markdown.name(page)}: {path or 'it'} has no section #{anchor}, but {known}"


def test_pages_that_are_made_are_as_they_would_be_made_now(request: pytest.FixtureRequest) -> None:
    """The help on the verbs' pages, and the output of every command in a console block."""
    if request.config.getoption("--update"):
        update.write()
    for page, text in update.expected().items():
        assert page.exists(), f"run scripts/update-docs: it makes {markdown.name(page)}"
        assert page.read_text() == text, f"{markdown.name(page)} is not what the commands say: run scripts/update-docs"


def test_a_changed_output_would_be_seen() -> None:
    page = "x\n\n```console\n$ kubectl netpol-ebpf check pod/nope --bundle article.tar.gz\n$ echo $?\n```\n"
    filled = update.filled(page)
    assert "\nerror: " in filled and filled.endswith("$ echo $?\n2\n```\n")
    assert update.filled(filled.replace("\n2\n", "\n0\n")) == filled
