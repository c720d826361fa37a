"""The help of every verb as text for pages: docs/cli.md and docs/verbs/ are made of it, and a test compares them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from kubectl_netpol.cli import PROGRAM, app

HEAD = f"""# Commands

Made from the help texts by `scripts/update-docs`. kubectl wants its own flags behind the plugin's name:
`{PROGRAM} explain pod/nginx -n shop`, not `kubectl -n shop netpol-ebpf …`.

Exit codes, the same for all verbs: 0 clean, or the flow is allowed; 1 a finding at the threshold, or the flow is
dropped; 2 wrong usage or a name that does not exist; 3 could not be read or decided; 130 interrupted. What that means
for each verb: [exit-codes.md](exit-codes.md). Colours are for terminals; `NO_COLOR` turns them off.
`NETPOL_EBPF_DEBUG=1` shows the traceback of an internal error.
"""

# Help is wrapped to the terminal's width; the page must not depend on it.
_SETTINGS: dict[str, Any] = {"resilient_parsing": True, "terminal_width": 80}


def blocks(verb: str = "") -> list[str]:
    """What `--help` prints of a verb, or of the program, as a fenced block; then those of its own verbs."""
    root: Any = typer.main.get_command(app)
    with root.make_context(PROGRAM, [], **_SETTINGS) as context:
        return list(_blocks(root.commands[verb], verb, context) if verb else _blocks(root, PROGRAM, None))


def _blocks(command: Any, name: str, parent: Any) -> Iterator[str]:
    with command.make_context(name, [], parent=parent, **_SETTINGS) as context:
        yield f"```\n{context.get_help().rstrip()}\n```"
        for own, further in getattr(command, "commands", {}).items():
            if not further.hidden:
                yield from _blocks(further, own, context)


def paragraphs(verb: str) -> list[str]:
    """What a verb is for: the paragraphs of its help, each on one line."""
    text = inspect.cleandoc(_command(verb).help or "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def hidden(verb: str) -> str:
    """Flags that `--help` leaves out since kubectl has them, as a list."""
    flags = (parameter for parameter in _command(verb).params if getattr(parameter, "hidden", False))
    return "\n".join(f"- `{', '.join(flag.opts)}`: {flag.help}" for flag in flags)


def _command(verb: str) -> Any:
    root: Any = typer.main.get_command(app)
    return root.commands[verb]
