"""The pages of the verbs, made of their help: docs/cli.md and docs/verbs/."""

from __future__ import annotations

import re
from pathlib import Path

from kubectl_netpol import helptext
from kubectl_netpol.cli import PROGRAM
from tests.docs import markdown
from tests.docs.commands import VERBS

INDEX = markdown.DOCS / "cli.md"
FOLDER = markdown.DOCS / "verbs"
BUNDLE = "--bundle article.tar.gz"

# What each page shows on the shipped bundle: a sentence, and the command. A verb that needs a cluster has no command.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "explain": (
        ("One flow, layer by layer:", f"explain pod/nginx --from pod/accessfalse --port 80 {BUNDLE}"),
        ("Both directions of a pod, rule by rule:", f"explain pod/nginx {BUNDLE}"),
        (
            "Without a node, from the API objects alone:",
            f"explain pod/nginx --from accesstrue --port 80 --api-only {BUNDLE}",
        ),
        ("What if ([the changed policy](../examples/mistyped.yaml)):", f"explain pod/nginx -f mistyped.yaml {BUNDLE}"),
    ),
    "maps": (("What packets to the pod meet:", f"maps pod/nginx --direction ingress {BUNDLE}"),),
    "check": (
        ("Everything:", f"check -A {BUNDLE}"),
        ("One pod, for a CI system:", f"check pod/nginx -o junit {BUNDLE}"),
    ),
    "doctor": (("In a cluster it also looks at your rights and starts one debug pod:", f"doctor {BUNDLE}"),),
    "conntrack": (("", f"conntrack pod/nginx {BUNDLE}"),),
    "drops": (("", f"drops pod/nginx {BUNDLE}"),),
    "capture": (
        (
            "Of a bundle that is there, what concerns one pod (in a cluster: without `--bundle`):",
            f"capture pod/nginx -f nginx.tar.gz {BUNDLE}",
        ),
        ("And any verb answers from it:", "conntrack pod/nginx --bundle nginx.tar.gz"),
    ),
    "cleanup": (
        (
            f"It needs a cluster, so there is nothing to show from a bundle. `{PROGRAM} cleanup` lists, "
            f"`{PROGRAM} cleanup --delete` deletes what nobody can use any more.",
            "",
        ),
    ),
    "completion": (("", "completion script"),),
    "version": (("", "version --client"),),
}
MORE: dict[str, str] = {
    "explain": "[How a verdict is derived](../verdicts.md), [near misses](../near-misses.md), [where EKS decides "
    "otherwise](../deviations.md), [what the words mean](../words.md)",
    "maps": "[How each layer is read](../layers.md), [which agent loaded a program](../generations.md)",
    "check": "[All findings](../findings/README.md), [the columns](../words.md#columns-of-check), "
    "[the faults by which it was tried](../faults.md)",
    "doctor": "[Its topics](../doctor.md), [rights](../rbac.md)",
    "conntrack": "[How a verdict is derived](../verdicts.md#3-established-flows)",
    "drops": "[Kinds and formats](../drops.md)",
    "capture": "[The file](../bundle-format.md), [what is never in it](../bundle-format.md#what-is-never-in-it)",
    "cleanup": "[What the debug pod is](../rbac.md)",
}


def made() -> dict[Path, str]:
    """Each page that is made of the help, its examples without output."""
    return {INDEX: index(), **{FOLDER / f"{verb}.md": page(verb) for verb in VERBS}}


def index() -> str:
    parts = [helptext.HEAD, f"## {PROGRAM}", *helptext.blocks()[:1]]
    for verb in VERBS:
        lead = helptext.paragraphs(verb)[0]
        parts.append(f"## {verb}\n\n{code(lead)} [Flags, exit codes, examples](verbs/{verb}.md)")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def page(verb: str) -> str:
    parts = [f"# {verb}", *map(code, helptext.paragraphs(verb)), *examples(verb)]
    parts += ["## Exit codes", exit_codes(verb), "## Flags", *helptext.blocks(verb)]
    parts += [f"kubectl's other connection flags work too:\n\n{hidden}"] if (hidden := helptext.hidden(verb)) else []
    parts += [f"## See also\n\n{MORE[verb]}"] if verb in MORE else []
    return "\n\n".join(parts) + "\n"


def examples(verb: str) -> list[str]:
    parts = ["## Examples"] if verb in EXAMPLES else []
    if any(BUNDLE in command for _, command in EXAMPLES.get(verb, ())):
        parts.append("On the [shipped bundle](../tutorial.md#the-bundle).")
    for sentence, command in EXAMPLES.get(verb, ()):
        parts += [sentence] if sentence else []
        parts += [f"```console\n$ {PROGRAM} {command}\n```"] if command else []
    return parts


def exit_codes(verb: str) -> str:
    """The rows of docs/exit-codes.md that name the verb."""
    table = (markdown.DOCS / "exit-codes.md").read_text().split("| verb |")[1]
    head, *rows = re.findall(r"^\|.+\|$", table, re.MULTILINE)
    own = [row for row in rows if re.search(rf"`{verb}\b", row.split("|")[1])]
    lines = ["| | 0 | 1 | 3 |", head, *own, ""] if own else []
    return "\n".join([*lines, "2 is wrong usage, 130 interrupted: [all exit codes](../exit-codes.md)."])


def code(text: str) -> str:
    """Flags stand out; nothing else of a help text is Markdown, but what it has between backquotes."""
    parts = re.split(r"(`[^`]+`)", text)
    for number in range(0, len(parts), 2):
        escaped = re.sub(r"([\\*_<>\[\]])", r"\\\1", parts[number])
        parts[number] = re.sub(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", r"`\1`", escaped)
    return "".join(parts)
