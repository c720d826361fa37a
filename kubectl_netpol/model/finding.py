"""A finding: one fault, or one thing to know, with its evidence and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kubectl_netpol.model.flow import Direction


class Severity(StrEnum):
    """How bad it is for packets."""

    ERROR = "error"
    """Packets meet something else than the policies mean, now."""
    WARNING = "warning"
    """They do in some cases, or will after the next change."""
    INFO = "info"
    """As it is meant to be on EKS, and often not what people expect."""


class Where(StrEnum):
    """The layer that a finding is about: where it has to be mended."""

    INTENT = "INTENT"
    ENDPOINTS = "ENDPOINTS"
    PINNED = "PINNED"
    ATTACHED = "ATTACHED"
    CONNTRACK = "CONNTRACK"
    CONFIG = "CONFIG"
    """No layer of its own: versions, settings and rights of the VPC CNI, its agent and controller."""


@dataclass(frozen=True)
class Kind:
    """One sort of finding. ``code`` is stable: it is never given to another sort."""

    code: str
    severity: Severity
    where: Where
    summary: str
    """What it says of any cluster, in one sentence without names."""

    @property
    def page(self) -> str:
        return f"docs/findings/{self.code}.md"


@dataclass(frozen=True)
class Evidence:
    """One value and where it was read. Findings about a difference have two of them."""

    source: str
    """`tc egress hook of eni1234`, `pin programs/web@shop_handle_ingress`, `NetworkPolicy shop/web spec.egress[0]`."""
    value: str


@dataclass(frozen=True)
class Remedy:
    """A command for the user to paste, and what else it does. The tool runs none of them."""

    command: str
    effect: str
    """Its side effect, `none: it only reads` where there is none."""


NO_EFFECT = "none: it only reads"


@dataclass(frozen=True)
class Finding:
    """One finding of one cluster."""

    kind: Kind
    title: str
    """One sentence with the real names in it."""
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    subject: str = ""
    """What it is about: `pod shop/web-1`, `policy shop/deny`, `node ip-10-0-0-1`, `cluster`."""
    pods: frozenset[tuple[str, str]] = frozenset()
    """(namespace, name) of the pods whose rows tell of it."""
    node: str = ""
    """The node whose pods it concerns, all of them; empty where ``pods`` says which."""
    everywhere: bool = False
    """It concerns all pods of the cluster."""
    directions: tuple[Direction, ...] = ()
    """Of its pods; empty: both, or none in particular."""
    parts: frozenset[str] = frozenset()
    """What it consists of, such as prefixes: of two findings alike that share none the second is another one."""

    @property
    def code(self) -> str:
        return self.kind.code

    @property
    def severity(self) -> Severity:
        return self.kind.severity


@dataclass(frozen=True)
class InProgress:
    """A difference that was not there at every look: something was under way, and nothing is known to be wrong."""

    what: str
    """What one look saw, in one sentence with the real names in it."""
    code: str = ""
    """The finding that it would be if it stayed; empty for none."""
    subject: str = ""
    apart_ns: int = 0
    """From the look that saw it to the one that did not, or the other way round."""
    pods: frozenset[tuple[str, str]] = frozenset()
    came: bool = False
    """The later of the two looks saw it, and no third one was made."""

    @property
    def text(self) -> str:
        """`NPE301 ...: otherwise 1.6 s later`, without the words "in progress"."""
        code = f"{self.code} " if self.code else ""
        when = (
            f"not so {self.apart_ns / 1e9:.1f} s before"
            if self.came
            else f"otherwise {self.apart_ns / 1e9:.1f} s later"
        )
        return f"{code}{self.what}{f': {when}' if self.apart_ns else ''}"
