"""`maps POD`: what the kernel holds for one pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubectl_netpol.kernel.generation import generation_of
from kubectl_netpol.kernel.layouts import MAP_TYPE_NAMES
from kubectl_netpol.model.finding import InProgress
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import Difference, DirectionView, MapView, PodKernel
from kubectl_netpol.policy.world import World, node_of, pod_ips, ref
from kubectl_netpol.report import kernel as kernel_report
from kubectl_netpol.report.output import API_VERSION
from kubectl_netpol.report.text import Block, clean_lines, indent, table

Json = dict[str, Any]


def only_own(view: MapView, pod: Json) -> MapView:
    """The conntrack map less the flows of other pods of the node."""
    if view.conntrack is None:
        return view
    own = set(pod_ips(pod))
    # A flow between two pods of a node has an entry for each: the owner is the pod whose program made it.
    kept = tuple(flow for flow in view.conntrack if flow.owner in own)
    return MapView(**{**vars(view), "conntrack": kept, "reason": view.reason or "flows of this pod only"})


def as_text(
    pod: Json,
    kernel: PodKernel,
    directions: Sequence[Direction],
    world: World,
    wide: bool,
    with_headers: bool,
    odd: Sequence[Difference] = (),
    moved: Sequence[InProgress] = (),
) -> str:
    """``odd``: what is odd about the node as a whole. ``moved``: what not every look saw."""
    lines = [
        f"{ref(pod)} on node {node_of(pod)}",
        *(f"  {line}" for line in kernel_report.node_lines(pod, world, wide)),
        *(f"  {line}" for line in kernel_report.header_lines(kernel)),
    ]
    for direction in directions:
        view = kernel.directions[direction]
        lines += ["", *kernel_report.direction_lines(view, kernel.veth)]
        lines += _direction_tables(pod, view, world, wide, with_headers)
    more = kernel_report.other_interface_lines(kernel, directions)
    lines += ["", *more] if more else []
    lines += ["", "NODE", *(f"  ! {found.code}: {found.text}" for found in odd)] if odd else []
    lines += ["", "IN PROGRESS", *kernel_report.in_progress_lines(moved)] if moved else []
    return "\n".join(clean_lines(lines))


def _direction_tables(pod: Json, view: DirectionView, world: World, wide: bool, with_headers: bool) -> list[str]:
    """The maps that packets meet; behind them, where they are others, those that the agent writes."""
    blocks = []
    for title, found in (
        ("", kernel_report.maps_of(view)),
        ("  what the agent writes, and this program does not use:", kernel_report.pinned_elsewhere(view)),
    ):
        maps = [only_own(m, pod) for m in found]
        if maps:
            blocks += ["", title] if title else []
            blocks += ["", indent(_overview(maps, view, wide, with_headers))]
            blocks += _entries(maps, view, world, wide, with_headers)
    return blocks


def _overview(maps: Sequence[MapView], view: DirectionView, wide: bool, with_headers: bool) -> Block:
    rows = []
    for m in maps:
        row = [
            kernel_report.map_label(m, view.direction),
            m.id,
            kernel_report.size_text(m),
            m.pin or "(no pin)",
        ]
        if wide:
            kind = MAP_TYPE_NAMES.get(m.type, str(m.type))
            row += [kind, m.key_size, m.value_size, m.max_entries, m.layout]
        rows.append([*row, m.reason])
    headers = [
        "MAP",
        "ID",
        "ENTRIES",
        "PIN",
        *(["TYPE", "KEY", "VALUE", "MAX", "LAYOUT"] if wide else []),
        "NOTE",
    ]
    if not any(m.reason for m in maps):
        headers.pop()
        rows = [row[:-1] for row in rows]
    return table(headers, rows, with_headers=with_headers)


def _entries(maps: Sequence[MapView], view: DirectionView, world: World, wide: bool, with_headers: bool) -> list[str]:
    generation = generation_of(view.maps, view.other_maps)
    rows = [row for m in maps for row in kernel_report.entry_rows(m, view.direction, world, wide, generation)]
    if not rows:
        return []
    columns = ["MAP", "ID", "ENTRY", "WHO", "ALLOWS"]
    return ["", indent(table(columns, rows, with_headers=with_headers))]


def as_data(
    pod: Json,
    kernel: PodKernel,
    directions: Sequence[Direction],
    world: World,
    odd: Sequence[Difference] = (),
    moved: Sequence[InProgress] = (),
) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Maps",
        "pod": ref(pod),
        "node": node_of(pod),
        "nodeInfo": kernel_report.node_data(pod, world),
        **(kernel_report.kernel_data(kernel) or {}),
        "nodeDifferences": [kernel_report.difference_data(found) for found in odd],
        "inProgress": kernel_report.in_progress_data(moved),
        "directions": [_direction_data(pod, kernel.directions[d], world) for d in directions],
    }


def _direction_data(pod: Json, view: DirectionView, world: World) -> Json:
    generation = generation_of(view.maps, view.other_maps)
    return {
        **kernel_report.direction_data(view),
        "maps": [
            kernel_report.map_data(only_own(m, pod), view.direction, world, generation)
            for m in kernel_report.maps_of(view)
        ],
        "pinnedMaps": [
            kernel_report.map_data(only_own(m, pod), view.direction, world, generation)
            for m in kernel_report.pinned_elsewhere(view)
        ],
    }
