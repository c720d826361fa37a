"""The plugin's side of a reading: takes the reader's answer from stdin and decodes it as the verbs do.

python decoder.py lookup ID    one map, with one lookup: what a question about a flow needs
python decoder.py entries ID   one map, every entry made: what a listing needs
python decoder.py pods FILE    the views of all pods in FILE, one "namespace name address" per line, every entry
"""

from __future__ import annotations

import sys
from ipaddress import ip_network
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kubectl_netpol.cluster.stream import ExecResult
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.node import transport


def entries(view: MapView) -> int:
    """Make all entries; how many."""
    if view.lpm is not None:
        return len(view.lpm.entries)
    return len(view.conntrack or view.states or view.raw or ())


def decode_map(view: MapView, every: bool) -> None:
    if view.reason or not view.complete:
        raise SystemExit(f"map {view.id} was not read: {view.reason}")
    if every:
        entries(view)
    elif view.lpm is not None:
        view.lpm.lookup(ip_network("10.1.2.3/32"))


def decode_pods(node: NodeView, listing: str) -> None:
    for line in Path(listing).read_text().splitlines():
        namespace, name, address = line.split()
        pod = node.pod(namespace, name, [address])
        for direction in pod.directions.values():
            if not direction.maps or direction.reason:
                raise SystemExit(f"{namespace}/{name} {direction.direction}: {direction.reason or 'no maps'}")
            for view in direction.maps.values():
                entries(view)


def main(what: str, argument: str) -> None:
    answer = ExecResult(sys.stdin.buffer.read(), b"", 0)
    node = NodeView(transport.parse_answer(answer, "the node"))
    if what == "pods":
        decode_pods(node, argument)
    else:
        decode_map(node.map(int(argument)), every=what == "entries")


if __name__ == "__main__":
    main(*sys.argv[1:])
