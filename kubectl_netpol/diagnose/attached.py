"""ATTACHED: what the programs on a host veth do with the first packet of a flow."""

from __future__ import annotations

from dataclasses import replace

from kubectl_netpol.kernel import verdict as kernel_verdict
from kubectl_netpol.model.flow import Flow
from kubectl_netpol.model.kernel import DirectionView, InterfaceView
from kubectl_netpol.model.verdict import Decision, Layer, Verdict

LAYER = Layer.ATTACHED
NOT_THE_PROGRAM = (
    "HOST_NETWORK",
    "NOT_READ",
    "NO_VETH",
    "VETH_DISPUTED",
    "NO_FILTER",
    "FOREIGN_FIRST",
    "FOREIGN_ONLY",
    "NOT_DIRECT_ACTION",
)
"""Codes of a verdict that does not come from the agent's program: established flows do not change it."""


def verdict(interface: InterfaceView, view: DirectionView, flow: Flow) -> Verdict:
    """The verdict of one direction (``view``) of a veth for a new flow, however its source port is known."""
    if interface.ifindex is None:
        return Verdict(LAYER, Decision.UNKNOWN, "NO_VETH", "; ".join(interface.evidence))
    if interface.disputed:
        return Verdict(LAYER, Decision.UNKNOWN, "VETH_DISPUTED", interface.disputed)
    if view.reason:
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", view.reason)
    hook = f"tc {view.direction.tc_hook} hook of {interface.veth}"
    if view.filter is None:
        return _no_filter(view, hook)
    return _of_program(view, hook, replace(flow, source_port=None))


def _of_program(view: DirectionView, hook: str, flow: Flow) -> Verdict:
    assert view.filter is not None
    found = kernel_verdict.decide(LAYER, view.direction, flow, view.maps, view.other_maps)
    found = _with_caveat(replace(found, evidence=(_program_text(view, hook), *found.evidence)), view)
    if not view.filter.direct_action:
        why = f"filter {view.filter.name} has no direct-action: what its program returns decides nothing"
        return replace(found, decision=Decision.UNKNOWN, code="NOT_DIRECT_ACTION", why=why)
    if view.in_front:
        why = (
            f"{' and '.join(view.in_front)} runs first on the {hook} and may decide; if it passes the packet on, "
            f"the agent's program says {found.word}: {found.why}"
        )
        return replace(found, decision=Decision.UNKNOWN, code="FOREIGN_FIRST", why=why)
    if view.other_direction:
        return replace(found, decision=Decision.UNKNOWN, code="OTHER_DIRECTION", why=view.other_direction)
    return found


def _no_filter(view: DirectionView, hook: str) -> Verdict:
    name = view.direction.program_name
    if view.foreign:
        why = f"no {name} filter on the {hook}, and what {', '.join(view.foreign)} does there is not known"
        return Verdict(LAYER, Decision.UNKNOWN, "FOREIGN_ONLY", why)
    if view.clsact is None:
        why = f"no {name} filter was seen on the {hook}, whose qdiscs could not be read"
        return Verdict(LAYER, Decision.UNKNOWN, "NOT_READ", why)
    qdisc = "" if view.clsact else " (there is no clsact qdisc)"
    why = f"no {name} filter on the {hook}{qdisc}: nothing is filtered here"
    return _with_caveat(Verdict(LAYER, Decision.ALLOW, "NO_FILTER", why), view)


def _with_caveat(found: Verdict, view: DirectionView) -> Verdict:
    """Where what runs before tc could not be read (tc does not show it), each verdict says so."""
    if not view.tcx_unread or found.decision is Decision.UNKNOWN:
        return found
    fact = f"what runs before tc filters was not read ({view.tcx_unread})"
    why = f"{found.why} (unless a program that runs before tc filters decides, which could not be read)"
    return replace(found, why=why, evidence=(*found.evidence, fact))


def _program_text(view: DirectionView, hook: str) -> str:
    assert view.program is not None
    text = f"{hook}: filter {view.direction.program_name} runs program {view.program.id}"
    pinned = view.pinned_program
    if pinned is not None and pinned.id != view.program.id:
        text += f", but the pin is program {pinned.id}: the agent writes maps that no packet meets"
    return text
