"""The help of every verb as one Markdown page: ``docs/cli.md`` is made of it, and a test compares the two."""

from __future__ import annotations

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


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    parts = [HEAD, *_verb(root, PROGRAM, None)]
    with root.make_context(PROGRAM, [], **_SETTINGS) as context:
        for name, command in root.commands.items():
            parts += _verb(command, name, context)
    return "\n".join(parts) + "\n"


def _verb(command: Any, name: str, parent: Any) -> Iterator[str]:
    with command.make_context(name, [], parent=parent, **_SETTINGS) as context:
        yield f"\n## {name}\n\n```\n{context.get_help().rstrip()}\n```"
    hidden = [p for p in command.params if getattr(p, "hidden", False)]
    if hidden:
        yield "\nkubectl's other connection flags work too:\n"
        yield from (f"- `{', '.join(p.opts)}`: {p.help}" for p in hidden)


if __name__ == "__main__":
    print(page(), end="")
