"""What runs against what the agent believes: the differences between attached programs and pins.

The agent writes the maps behind its pins, packets meet the program behind the tc filter. Where these are not the
same objects, the agent's changes have no effect (aws-network-policy-agent issues 514, 588, 646 and 676).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubectl_netpol.kernel import layouts
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import Difference, DirectionView, MapView, ProgramView

NOT_ATTACHED = Difference(
    "NOT_ATTACHED", "nothing is attached or pinned: right where no policy selects the pod (agents before 1.2.0)"
)
GLOBAL_ROLES = ("conntrack", "events")


def differences(
    view: DirectionView, opposite: DirectionView, veth: str, identifier: str, *, pins_known: bool
) -> tuple[Difference, ...]:
    """All of one direction. ``identifier``: the pod's, empty where nothing is pinned under it."""
    if view.reason:
        return ()
    return (*_attachment(view, opposite, veth), *(_against_pins(view, identifier) if pins_known else ()))


def made_for_the_other(program: ProgramView | None, maps: Mapping[str, MapView], direction: Direction) -> str:
    """What tells that a program belongs to the opposite direction: it reads the other end of a packet as the peer."""
    if program is None:
        return ""
    other = next(one for one in Direction if one is not direction)
    for pin in (program.pin, *program.more_pins):
        if pin.endswith(f"_{other.program_name}"):
            return f"the {direction} filter runs program {program.id}, which is pinned as {pin}"
    rules = maps.get("np")
    for pin in (rules.pin, *rules.more_pins) if rules else ():
        if pin.endswith(f"_{layouts.map_name('np', other)}"):
            return f"the {direction} filter runs program {program.id}, whose rules are pinned as {pin}"
    return ""


def _attachment(view: DirectionView, opposite: DirectionView, veth: str) -> Iterator[Difference]:
    hook = f"tc {view.direction.tc_hook} hook of {veth}"
    name = view.direction.program_name
    pinned = view.pinned_program
    ours = [one for one in view.filters if one.name == name or (pinned is not None and one.program_id == pinned.id)]
    for one in ours:
        if one is not view.filter and not (one.sees(view.protocols) and view.filter is not None):
            text = f"{one.text} (kind {one.kind}, protocol {one.protocol:#06x}, chain {one.chain}) on the {hook}"
            yield Difference("NEVER_RUNS", f"{text} is the agent's, and no packet of the pod meets it")
    if view.other_direction:
        yield Difference("OTHER_DIRECTION", view.other_direction)
    if view.filter is None:
        if view.clsact is False:
            yield Difference("NO_CLSACT", f"{veth} has no clsact qdisc: no filter can be attached, nothing is filtered")
        else:
            open_hook = "" if view.foreign else ": nothing is filtered in this direction"
            yield Difference("NO_FILTER", f"no filter {name} on the {hook}{open_hook}")
        if opposite.filter is not None:
            other = opposite.direction
            yield Difference("ONE_HOOK_ONLY", f"{other} has its filter and {view.direction} has none")
        for left in view.filters:
            if left in ours:
                continue
            yield Difference(
                "FOREIGN_FILTER", f"{left.text} on the {hook} has neither the agent's name nor the pinned program"
            )
        for number in view.tcx:
            yield Difference("FOREIGN_TCX", f"tcx program {number} on the {hook} is not the agent's")
        for number in view.xdp:
            yield Difference("FOREIGN_XDP", f"XDP program {number} of {veth} is not the agent's")
        return
    for first in view.in_front:
        yield Difference("FOREIGN_FIRST", f"{first} runs before {name} on the {hook} and may decide first")
    if not view.filter.direct_action:
        yield Difference("NOT_DIRECT_ACTION", f"filter {name} lacks direct-action: its program does not decide")
    if view.program is not None and not view.program.map_ids:
        yield Difference("NO_MAPS", f"program {view.program.id} uses no maps at all: it cannot enforce a policy")


def _against_pins(view: DirectionView, identifier: str) -> Iterator[Difference]:
    program, pinned = view.program, view.pinned_program
    if program is None:
        return
    if pinned is None:
        yield Difference("NO_PROGRAM_PIN", f"program {program.id} runs, and no pin of the pod identifier holds one")
    elif pinned.id != program.id:
        yield Difference(
            "OTHER_PROGRAM",
            f"the filter runs program {program.id}, the pin {pinned.pin} is program {pinned.id}: "
            "the agent updates maps that no packet meets",
        )
    for role, view_of in view.maps.items():
        yield from _map(view_of, view.pinned_maps.get(role), view.direction, identifier)
    for other in view.other_maps:
        if not other.pin and other.type:
            yield Difference("UNPINNED_MAP", f"map {other.id} ({other.layout}) is used, and no pin holds it")


def _map(used: MapView, pinned: MapView | None, direction: Direction, identifier: str) -> Iterator[Difference]:
    name = layouts.map_name(used.role, direction)
    if pinned is not None and pinned.id != used.id:
        held = f"pinned as {used.pin}" if used.pin else "held by no pin"
        yield Difference("OTHER_MAP", f"the program uses {name} {used.id}, {held}; the agent writes map {pinned.id}")
    elif not used.pin:
        yield Difference("UNPINNED_MAP", f"the program uses {name} {used.id}, which no pin holds")
    elif used.role not in GLOBAL_ROLES and identifier and not _held_by(used, identifier):
        yield Difference("PIN_OF_ANOTHER", f"the program uses {name} {used.id}, which is pinned as {used.pin}")


def _held_by(used: MapView, identifier: str) -> bool:
    return any(path.startswith(f"maps/{identifier}_") for path in (used.pin, *used.more_pins))


def of_pod(
    directions: Mapping[Direction, DirectionView], identifiers: tuple[str, ...], pinned: tuple[str, ...]
) -> Iterator[Difference]:
    """Differences of the pod as a whole. ``identifiers``: all forms; ``pinned``: those that pins use."""
    if len(pinned) > 1:
        text = f"pins of both forms of the pod identifier: {' and '.join(pinned)}; the agent writes one of them"
        yield Difference("BOTH_FORMS", text)
    agents = {view.direction: view.agents for view in directions.values() if view.agents}
    if len(set(agents.values())) > 1:
        words = ", ".join(f"{direction}: agents {text}" for direction, text in agents.items())
        yield Difference("TWO_GENERATIONS", f"the two directions run programs of different generations ({words})")
    if not pinned and not any(view.filter for view in directions.values()):
        yield Difference("NO_PIN", f"nothing is pinned under {' or '.join(identifiers)}")
