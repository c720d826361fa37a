"""Pages of `-o html` for tests: of the shipped bundle, and of what can be wrong with it."""

from __future__ import annotations

import base64
import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from kubectl_netpol import bundle
from kubectl_netpol.diagnose import explain as explainer
from kubectl_netpol.diagnose import plan as planning
from kubectl_netpol.diagnose.check import Check, Report, asked_pods
from kubectl_netpol.diagnose.explain import Explanation
from kubectl_netpol.manifests import read_policies
from kubectl_netpol.model.snapshot import NodeReading, Snapshot
from kubectl_netpol.policy.changes import Changes, imagine
from kubectl_netpol.policy.world import World
from kubectl_netpol.progress import Progress
from kubectl_netpol.report.html import About
from kubectl_netpol.source import SnapshotSource
from kubectl_netpol.verbs import read_question
from tests.faults.catalogue import OBJECTS
from tests.faults.world import Objects

Json = dict[str, Any]

SHIPPED = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
POLICY = Path(__file__).parent / "golden" / "policy.yaml"
ABOUT = About("1.2.3", "2026-01-02T03:04:05Z", "bundle article.tar.gz", (("Captured by", "version 1.2.3"),))
LISTED = "172.31.101.218"
"""Of accesstrue, which nginx admits."""


@cache
def shipped() -> Snapshot:
    return bundle.read(str(SHIPPED))


def broken(*faults: str) -> Snapshot:
    """Faults of the catalogue that are made in objects, together."""
    objects = Objects.of(shipped())
    found = {one.name: one for one in OBJECTS}
    for name in faults:
        found[name].make(objects)
    return objects.snapshot()


def without_entry(snapshot: Snapshot) -> Snapshot:
    """The ingress map of nginx has lost the pod that it should list: EXPECTED and PINNED differ."""
    nodes = {name: NodeReading(_without_entry(one.document or {})) for name, one in shipped().nodes.items()}
    return dataclasses.replace(snapshot, nodes=nodes)


def _without_entry(document: Json) -> Json:
    document = copy.deepcopy(document)
    address = bytes(map(int, LISTED.split(".")))
    lost = 0
    for row in document["maps"]:
        # A plain dict: the checked one keeps what it has unpacked.
        contents = row["contents"] = dict(row["contents"] or {}) or None
        if row["type"] != 11 or not contents or not contents.get("count"):
            continue
        count = contents["count"]
        parts = [_cut(base64.b64decode(contents[name]), count) for name in ("keys", "values")]
        kept = [(key, value) for key, value in zip(*parts, strict=True) if key[4:8] != address]
        lost += count - len(kept)
        for name, found in zip(("keys", "values"), zip(*kept, strict=True), strict=True):
            contents[name] = base64.b64encode(b"".join(found)).decode()
        contents["count"] = contents["total"] = len(kept)
    assert lost == 1
    return document


def _cut(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count
    return [data[at : at + size] for at in range(0, len(data), size)]


def explained(snapshot: Snapshot, pod: str = "nginx", *, changed: bool = False, **question: Any) -> Explanation:
    source = SnapshotSource(snapshot)
    plan, read = read_question(source, planning.Question(pod, **question), Progress(enabled=False))
    changes = Changes(read_policies([str(POLICY)], "default")[0], (), (POLICY.name,)) if changed else None
    return explainer.explain(plan, read, imagine(read, changes, "default") if changes else None)


def checked(snapshot: Snapshot) -> Report:
    world = World(snapshot)
    found = Check(world, asked_pods(snapshot.items("pods")), whole=True)
    for name in found.by_node:
        found.node(name, snapshot.nodes.get(name, NodeReading(None, "the exec failed")))
    return found.report()


FLOW = {"source": "accesstrue", "port": "80"}
MANY = ("egress_without_dns", "the_agent_does_not_run", "a_named_port_that_no_container_has", "calico_is_still_there")

EXPLANATIONS: dict[str, Callable[[], Explanation]] = {
    "drop": lambda: explained(shipped(), source="accessfalse", port="80"),
    "service": lambda: explained(shipped(), "accesstrue", destination="svc/nginx"),
    "pod": lambda: explained(shipped()),
    "api-only": lambda: explained(shipped(), **FLOW, api_only=True),
    "api-only-pod": lambda: explained(shipped(), api_only=True),
    "what-if": lambda: explained(shipped(), changed=True, **FLOW),
    "what-if-pod": lambda: explained(shipped(), changed=True),
    "lost-entry": lambda: explained(without_entry(shipped()), **FLOW),
    "lost-entry-pod": lambda: explained(without_entry(shipped())),
    "stale-endpoints": lambda: explained(broken("the_endpoints_are_behind_the_policy")),
    "many-faults-pod": lambda: explained(without_entry(broken(*MANY))),
    "unread-node": lambda: explained(dataclasses.replace(shipped(), nodes={}), **FLOW),
    "dns": lambda: explained(broken("egress_without_dns"), "accesstrue"),
}
REPORTS: dict[str, Callable[[], Report]] = {
    "check": lambda: checked(shipped()),
    "check-broken": lambda: checked(without_entry(broken(*MANY))),
    "check-unread": lambda: checked(dataclasses.replace(shipped(), nodes={})),
}


# ---- reading a page

VOID = {"meta"}


class Page(HTMLParser):
    """What a page is made of. Raises where its elements are not nested as they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: list[str] = []
        """Of the body, one for each element that has its own."""
        self.other: list[str] = []
        """Comments, processing instructions, declarations."""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "body" in self._open and data.strip():
            self.texts.append(" ".join(data.split()))

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def handle_decl(self, decl: str) -> None:
        self.other.append(decl)

    def handle_pi(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)

    def values(self, name: str) -> Iterator[str]:
        for _, attributes in self.tags:
            yield from (value or "" for key, value in attributes if key == name)
