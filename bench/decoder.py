"""The plugin's side of a reading: takes the reader's answer and decodes it as the verbs do.

It runs in the process that measures, as it does in the plugin: that one waits for the answer anyway, with all its
modules loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.node import transport


def node_view(answer: bytes) -> NodeView:
    """All checks of the document, and its indexes."""
    return NodeView(transport.parse_answer(ExecResult(answer, b"", 0), "the node"))


def read_map(answer: bytes, number: int) -> MapView:
    """One map, decoded. Ends the benchmark where it was not read whole."""
    view = node_view(answer).map(number)
    if view.reason or not view.complete:
        raise SystemExit(f"map {number} was not read: {view.reason}")
    return view


def one_lookup(answer: bytes, number: int) -> None:
    """What a question about a flow needs of a rule map: the longest prefix, and its slots."""
    table = read_map(answer, number).lpm
    assert table is not None
    entry = table.lookup(ip_network("10.1.2.3/32"))
    assert entry is not None
    assert entry.slots


def every_entry(answer: bytes, number: int, expected: int) -> None:
    """What a listing needs: every entry made."""
    view = read_map(answer, number)
    found = view.lpm.entries if view.lpm is not None else view.conntrack
    assert found is not None
    assert len(found) == expected, f"{len(found)} of {expected} entries"


def flows_of_one_pod(answer: bytes, number: int, address: str) -> None:
    """What a question about a pod needs of conntrack: its own flows."""
    own = ip_address(address)
    flows = [flow for flow in read_map(answer, number).conntrack or () if flow.owner == own]
    assert flows


def all_pods(answer: bytes, pods: Iterable[tuple[str, str, str]]) -> None:
    """The views of all pods (namespace, name, address), with every entry of their maps."""
    node = node_view(answer)
    for namespace, name, address in pods:
        kernel = node.pod(namespace, name, [address])
        for direction in kernel.directions.values():
            if not direction.maps or direction.reason:
                raise SystemExit(f"{namespace}/{name} {direction.direction}: {direction.reason or 'no maps'}")
            for view in direction.maps.values():
                len(view.lpm.entries if view.lpm is not None else view.conntrack or view.states or ())
