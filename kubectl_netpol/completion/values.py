"""What the parameters of the verbs take: names of objects, words, codes or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kubectl_netpol.completion.protocol import Candidate

if TYPE_CHECKING:
    from kubectl_netpol.completion.names import Names


@dataclass
class Asked:
    """A value that is being typed, and what else stands on the line."""

    word: str
    given: Mapping[str, Any]
    connect: Callable[[], Names]
    """Where names come from; called only where some are needed."""


Values = Callable[[Asked], Iterator[Candidate]]

POD_KINDS = ("pod", "deploy", "sts", "ds", "svc", "rs", "job")
"""The short words of `policy/targets.py`, those that are used most first."""
POLICIES = {
    "networkpolicy": "networkpolicies",
    "anp": "applicationnetworkpolicies",
    "cnp": "clusternetworkpolicies",
}
SEVERITIES = ("error", "warning")


def _pods(asked: Asked) -> Iterator[Candidate]:
    return _targets(asked, POD_KINDS, "")


def _ends(asked: Asked, kinds: tuple[str, ...]) -> Iterator[Candidate]:
    """The other end of a flow: its names are of POD's namespace, as `explain` reads them."""
    from kubectl_netpol.policy.targets import KINDS

    parts = str(asked.given.get("pod") or "").split("/")
    own = parts[0] if len(parts) == 3 or (len(parts) == 2 and parts[0].lower() not in KINDS) else ""
    return _targets(asked, kinds, own)


def _targets(asked: Asked, kinds: tuple[str, ...], namespace: str) -> Iterator[Candidate]:
    """`NAME`, `KIND/NAME`, `NAMESPACE/NAME`, `NAMESPACE/KIND/NAME`."""
    from kubectl_netpol.completion.names import listed
    from kubectl_netpol.policy.targets import KINDS

    *before, last = asked.word.split("/")
    known = {alias for alias, kind in KINDS.items() if kind in {KINDS[short] for short in kinds}}
    if len(before) > 2 or (len(before) == 2 and before[1] not in known):
        return
    if before and before[-1] in known:
        where = before[0] if len(before) == 2 else namespace
        yield from _of_kind(asked.connect(), KINDS[before[-1]], where, "/".join(before) + "/")
        return
    head = "".join(f"{part}/" for part in before)
    # A node is in no namespace.
    offered = [kind for kind in kinds if not (before and KINDS[kind] == "node")]
    if last or not before:
        yield from (Candidate(f"{head}{kind}/") for kind in _kinds(last, offered, known))
    names = asked.connect()
    yield from _of_kind(names, "pod", before[0] if before else namespace, head)
    if last and not before:
        yield from (Candidate(f"{one.name}/", "namespace") for one in listed(names, "namespaces"))


def _kinds(begin: str, short: Sequence[str], known: set[str]) -> list[str]:
    """The short words, or who types another one gets that."""
    return [one for one in short if one.startswith(begin)] or sorted(one for one in known if one.startswith(begin))[:1]


def _of_kind(names: Names, kind: str, namespace: str, head: str) -> Iterator[Candidate]:
    from kubectl_netpol.completion.names import listed, workloads

    collection = {"pod": "pods", "service": "services", "node": "nodes"}.get(kind)
    if collection is None:
        yield from (Candidate(head + name) for name in workloads(names, kind, namespace))
    else:
        yield from (Candidate(head + one.name, one.note) for one in listed(names, collection, namespace))


def _objects(kind: str, asked: Asked) -> Iterator[Candidate]:
    from kubectl_netpol.completion.names import listed

    yield from (Candidate(one.name, one.note) for one in listed(asked.connect(), kind))


def _policies(asked: Asked) -> Iterator[Candidate]:
    """`NAME`, `KIND/NAME`, `NAMESPACE/NAME`, `NAMESPACE/KIND/NAME`; cluster policies have no namespace."""
    from kubectl_netpol.completion.names import listed
    from kubectl_netpol.policy.changes import KINDS

    *before, last = asked.word.split("/")
    of_kind = {alias: POLICIES[short] for alias, kind in KINDS.items() for short in POLICIES if KINDS[short] == kind}
    if len(before) > 2 or (len(before) == 2 and before[1] not in of_kind):
        return
    head = "".join(f"{part}/" for part in before)
    if before and before[-1] in of_kind:
        found = listed(asked.connect(), of_kind[before[-1]], before[0] if len(before) == 2 else "")
        yield from (Candidate(head + one.name, one.note) for one in found)
        return
    if last or not before:
        yield from (Candidate(f"{head}{kind}/") for kind in _kinds(last, [*POLICIES], set(of_kind)))
    names = asked.connect()
    found = listed(names, "networkpolicies", before[0] if before else "")
    yield from (Candidate(head + one.name, one.note) for one in found)
    if last and not before:
        yield from (Candidate(f"{one.name}/", "namespace") for one in listed(names, "namespaces"))


def _kubeconfig(section: str, asked: Asked) -> Iterator[Candidate]:
    from kubectl_netpol.completion.kubeconfig import names

    yield from map(Candidate, names(section, str(asked.given.get("kubeconfig") or "")))


def _findings(asked: Asked) -> Iterator[Candidate]:
    from kubectl_netpol.diagnose.findings import KINDS

    already = asked.given.get("ignore") or ()
    yield from (Candidate(code, kind.summary) for code, kind in KINDS.items() if code not in already)


def _directions(asked: Asked) -> Iterator[Candidate]:
    from kubectl_netpol.model.flow import Direction

    yield from map(Candidate, (*Direction, "both"))


def _severities(asked: Asked) -> Iterator[Candidate]:
    yield from map(Candidate, SEVERITIES)


NAMES: Mapping[str, Values] = {
    "pod": _pods,
    "source": partial(_ends, kinds=(*(kind for kind in POD_KINDS if kind != "svc"), "node")),
    "destination": partial(_ends, kinds=(*POD_KINDS, "node")),
    "namespace": partial(_objects, "namespaces"),
    "debug_namespace": partial(_objects, "namespaces"),
    "node": partial(_objects, "nodes"),
    "without": _policies,
}
"""Names of objects, by the name of the parameter."""
WORDS: Mapping[str, Values] = {
    "context": partial(_kubeconfig, "contexts"),
    "cluster": partial(_kubeconfig, "clusters"),
    "user": partial(_kubeconfig, "users"),
    "direction": _directions,
    "fail_on": _severities,
    "ignore": _findings,
}
"""What no cluster is asked for. Those with fixed values that the parser knows need no line here."""
FILES = frozenset(("bundle", "file", "redact_names", "kubeconfig", "directory")) | frozenset(
    ("certificate_authority", "client_certificate", "client_key")
)
"""Those whose values the shell completes."""
