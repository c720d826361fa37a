"""What a layer decides for a flow, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Layer(StrEnum):
    """The five places that decide, in the order in which one makes the next."""

    INTENT = "INTENT"
    ENDPOINTS = "ENDPOINTS"
    PINNED = "PINNED"
    ATTACHED = "ATTACHED"
    CONNTRACK = "CONNTRACK"
    TEST_RUN = "TEST RUN"
    """Not a place of its own: the attached program, asked with a packet (`--ask-kernel`)."""
    EXPECTED = "EXPECTED"
    """Not a place of its own either: the maps that the agent should write by its own rules."""


KERNEL_LAYERS = (Layer.EXPECTED, Layer.PINNED, Layer.ATTACHED, Layer.CONNTRACK, Layer.TEST_RUN)


class Decision(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    UNKNOWN = "unknown"
    """It could not be found out; the verdict's reason says why. Never to be shown as allow."""
    NONE = "none"
    """The layer has nothing to say (no conntrack entry: the rules decide)."""


@dataclass(frozen=True)
class Step:
    """What one tier says on the way to a decision."""

    tier: str
    """Admin | NetworkPolicy | Baseline | default."""
    outcome: str
    """Accept | Deny | Pass | not isolated | nothing matches | Allow."""
    by: str = ""
    """The policy, and where in it: `block-metadata (priority 10) spec.egress[0]`."""

    @property
    def text(self) -> str:
        return f"{self.tier}: {self.outcome}" + (f" by {self.by}" if self.by else "")


def chain_text(steps: tuple[Step, ...]) -> str:
    """`Admin: Pass by allow-team (priority 10) spec.ingress[0] -> NetworkPolicy: Deny by default-deny`."""
    return " -> ".join(step.text for step in steps)


@dataclass(frozen=True)
class Verdict:
    """One layer's decision. ``code`` is stable for scripts, ``why`` is for people."""

    layer: Layer
    decision: Decision
    code: str
    why: str
    evidence: tuple[str, ...] = ()
    """Short facts, each with where it was read."""
    decided: Mapping[str, Any] = field(default_factory=dict)
    """Of kernel layers, what decided: mapId, prefix, slot (its number), slotText, tier, podState, conntrack."""
    chain: tuple[Step, ...] = ()
    """Of INTENT and ENDPOINTS, the tiers that were asked, in their order."""

    @property
    def word(self) -> str:
        """ALLOW, DENY (API layers) or DROP (kernel layers), UNKNOWN, or -."""
        if self.decision is Decision.DENY:
            return "DROP" if self.layer in KERNEL_LAYERS else "DENY"
        return {"allow": "ALLOW", "unknown": "UNKNOWN", "none": "-"}[self.decision.value]
