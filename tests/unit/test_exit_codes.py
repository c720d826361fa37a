"""Exit codes: one enum, documented for each verb, and the same meaning in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kubectl_netpol import bundle
from kubectl_netpol.cli import app, run
from kubectl_netpol.errors import ExitCode
from tests.faults.world import Objects

BUNDLE = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
PAGE = Path(__file__).parents[2] / "docs" / "exit-codes.md"
VERBS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def _open(objects: Objects) -> None:
    """A policy applies and nothing is attached; the agent is told not to enforce."""
    for document in objects.nodes.values():
        document["filters"] = []
    objects.flag("enable-network-policy", "false")


def _unread(objects: Objects) -> None:
    """No node and no DaemonSet."""
    objects.nodes.clear()
    objects.lists["daemonsets"], objects.unread["daemonsets"] = [], "forbidden"


def _as_it_is(_: Objects) -> None:
    pass


FLOW = ("explain", "nginx", "--port", "80", "--from")
CASES: list[tuple[int, tuple[str, ...], Callable[[Objects], None]]] = [
    (0, (*FLOW, "accesstrue"), _as_it_is),
    (1, (*FLOW, "accessfalse"), _as_it_is),
    (2, (*FLOW, "nobody"), _as_it_is),
    (3, (*FLOW, "accesstrue"), _unread),
    (0, ("explain", "nginx"), _as_it_is),
    (1, ("explain", "nginx"), _open),
    (3, ("explain", "nginx"), _unread),
    (1, (*FLOW, "accesstrue", "--without", "access-nginx", "-f", "{deny}"), _as_it_is),
    (0, (*FLOW, "accessfalse", "--without", "access-nginx"), _as_it_is),
    (0, ("check", "-A"), _as_it_is),
    (0, ("check", "nginx"), _as_it_is),
    (1, ("check", "-A"), _open),
    (1, ("check", "nginx", "--fail-on", "warning"), _open),
    (0, ("check", "-A", "--ignore", "NPE402", "--ignore", "NPE602"), _open),
    (2, ("check", "nobody"), _as_it_is),
    (2, ("check", "-A", "--fail-on", "fatal"), _as_it_is),
    (3, ("check", "-A"), _unread),
    (0, ("check", "-A", "--api-only"), lambda o: o.nodes.clear()),
    (0, ("doctor",), _as_it_is),
    (1, ("doctor",), _open),
    (2, ("doctor", "--node", ""), _as_it_is),
    (3, ("doctor",), _unread),
    (1, ("drops", "nginx"), _as_it_is),
    (0, ("drops", "accesstrue"), lambda o: None),
    (2, ("drops", "nginx", "--since", "yesterday"), _as_it_is),
    (3, ("drops", "nginx"), _unread),
    (0, ("maps", "nginx"), _as_it_is),
    (2, ("maps", "nobody"), _as_it_is),
    (3, ("maps", "nginx"), _unread),
    (0, ("conntrack", "nginx"), _as_it_is),
    (2, ("conntrack", "nginx", "--direction", "up"), _as_it_is),
    (3, ("conntrack", "nginx"), _unread),
    (0, ("capture", "nginx", "-f", "{out}"), _as_it_is),
    (2, ("capture", "nginx"), _as_it_is),
    (3, ("capture", "nginx", "-f", "{out}"), _unread),
]
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""


@pytest.mark.parametrize(("code", "arguments", "change"), CASES, ids=[f"{c}-{'-'.join(a[:2])}" for c, a, _ in CASES])
def test_the_code_of_an_answer(
    code: int,
    arguments: tuple[str, ...],
    change: Callable[[Objects], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    objects = Objects.of(bundle.read(str(BUNDLE)))
    for document in objects.nodes.values():
        # Whom the lines are of: the bundle was captured for nginx.
        document["flow_log"]["addresses"] += [p["status"]["podIP"] for p in objects.lists["pods"]]
    change(objects)
    path, deny, out = tmp_path / "b.tar.gz", tmp_path / "deny.yaml", tmp_path / "out.tar.gz"
    bundle.write(objects.snapshot(), str(path))
    deny.write_text(DENY)
    words = [word.format(deny=deny, out=out) for word in arguments]
    found = run([*words, "--bundle", str(path)])
    said = capsys.readouterr()
    assert found == code, said
    assert "Traceback" not in said.err
    assert bool(said.out) == (code != 2 and arguments[0] != "capture") or code == 3


def test_each_verb_is_tried_for_each_code_that_it_has() -> None:
    judging = {"explain", "check", "doctor", "drops"}
    tried = {(arguments[0], code) for code, arguments, _ in CASES}
    # Those without --bundle: tests/system/test_cleanup.py, tests/system/test_completion.py, tests/unit/test_version.py.
    wanted = {(verb, code) for verb in VERBS - {"version", "completion", "cleanup"} for code in (0, 2, 3)}
    assert tried == wanted | {(verb, 1) for verb in judging}


def test_the_page_has_all_codes_and_all_verbs() -> None:
    text = PAGE.read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [int(code) for code in ExitCode]
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    assert {verb for row in rows for verb in re.findall(r"`(\w+)[ `]", row)} == VERBS
