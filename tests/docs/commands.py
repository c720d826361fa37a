"""Command lines in pages: every one has to parse, and those of `console` blocks are run and their output compared.

A block that begins with ```console is a session on the shipped bundle: its lines with `$ ` are run, in one directory
for each page that holds article.tar.gz and docs/examples/, and what stands below a line is what it prints. A command
that needs a cluster belongs into a block without a language.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from kubectl_netpol.cli import PROGRAM, app, run
from tests.docs import markdown

BUNDLE = markdown.ROOT / "kubectl_netpol" / "examples" / "article.tar.gz"
EXAMPLES = markdown.DOCS / "examples"
ROOT_COMMAND: Any = typer.main.get_command(app)
VERBS: dict[str, Any] = {name: verb for name, verb in ROOT_COMMAND.commands.items() if not verb.hidden}
"""Those that people are shown; a verb may have verbs of its own."""
# What a reader has besides the plugin: shows files, changes nothing.
TOOLS = ("cat", "ls", "tar")


class Session:
    """One page's commands, run one after the other in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.code = 0
        # No cluster is ever asked, whatever the machine knows of one.
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
        shutil.copy(BUNDLE, directory)
        for file in EXAMPLES.iterdir():
            shutil.copy(file, directory)

    def fill(self, text: str) -> str:
        """The page, with the output below each command as it is now."""
        found = [block for block in markdown.blocks(text) if block.language == "console"]
        for block in found:
            assert block.body.startswith("$ "), f"a console block begins with a command: {block.body[:60]!r}"
        bodies = ["".join(self.answered(line) for line in commands_of(block.body)) for block in found]
        for block, body in reversed(list(zip(found, bodies, strict=True))):
            text = text[: block.start] + body + text[block.end :]
        return text

    def answered(self, command: str) -> str:
        output = self.output(command)
        assert "```" not in output, f"{command}: its output would end the block"
        return f"$ {command}\n" + "".join(f"{line.rstrip()}\n" for line in output.splitlines())

    def output(self, command: str) -> str:
        """stdout and stderr in one, as a terminal shows them."""
        if command == "echo $?":
            return f"{self.code}\n"
        words = shlex.split(command)
        if words[:2] == PROGRAM.split():
            return self._plugin(words[2:])
        assert words[0] in TOOLS, f"{command}: only {PROGRAM}, echo $? and {', '.join(TOOLS)} are run in console blocks"
        done = subprocess.run(words, cwd=self.directory, capture_output=True, text=True, check=True)
        return done.stdout

    def _plugin(self, words: list[str]) -> str:
        screen = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, self.environment, clear=True))
            stack.enter_context(contextlib.chdir(self.directory))
            stack.enter_context(contextlib.redirect_stdout(screen))
            stack.enter_context(contextlib.redirect_stderr(screen))
            self.code = int(run(words))
        return screen.getvalue()


def commands_of(body: str) -> list[str]:
    return [line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ ")]


def lines(text: str) -> Iterator[str]:
    """Every command line of the plugin in a page: in blocks one a line, in prose between backquotes."""
    for block in markdown.blocks(text):
        # Of a session the commands only: output may begin like one.
        found = commands_of(block.body) if block.language == "console" else block.body.splitlines()
        for line in found:
            yield from _line(line.removeprefix("$ "))
    rest = markdown.FENCE.sub("", text)
    for line in rest.splitlines():
        if line.startswith("    "):
            yield from _line(line.strip())
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest):
        yield from _line(" ".join(code.split()))


def _line(line: str) -> Iterator[str]:
    if line.startswith(f"{PROGRAM} ") and "[OPTIONS]" not in line:
        yield line


def parse(line: str) -> None:
    """Whether verb and flags are there; names, files and clusters are not asked for.

    Raises:
        AssertionError: the line is not one that the plugin takes.
    """
    words = shlex.split(line.partition(" | ")[0], comments=True)[2:]
    if not words or words[0] in ("-h", "--help"):
        return
    verb, rest = ROOT_COMMAND, words
    while commands := getattr(verb, "commands", None):
        assert rest and rest[0] in commands, f"{line}: there is no verb {' '.join(rest[:1]) or 'at its end'}"
        verb, rest = commands[rest[0]], rest[1:]
    try:
        given, _, _ = verb.make_parser(verb.context_class(verb)).parse_args(rest)
    except Exception as error:
        raise AssertionError(f"{line}: {error}") from None
    for parameter in verb.params:
        choices = getattr(parameter.type, "choices", ())
        if parameter.name in given and choices:
            values = given[parameter.name]
            wrong = {values} - {str(getattr(choice, "value", choice)) for choice in choices}
            assert not wrong or any(value.isupper() for value in wrong), f"{line}: {parameter.opts[0]} {wrong}"
