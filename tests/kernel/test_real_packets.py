"""A sample of the random cases with real packets: what the model says, and what arrives on the other side of a veth.

Frames are sent from the eth0 of one pod, routed by the node, judged on the host veth of the pod under test, and watched
for by packet sockets where they should come out. Nothing is mocked between.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from kubectl_netpol.kernel.packet import frame
from kubectl_netpol.kernel.verdict import decide
from kubectl_netpol.model.flow import Direction, Flow
from kubectl_netpol.model.kernel import MapView
from kubectl_netpol.model.verdict import Decision, Layer
from tests.kernel import agreement
from tests.lab import bpfsys
from tests.lab.agent import GENERATIONS, Agent
from tests.lab.datapath_variant import VariantLayout
from tests.lab.node import Fabric, Node, PodSandbox
from tests.lab.require import require_lab

WORLDS, FLOWS = 8, 15
SILENCE = 0.15
"""Seconds after which a packet that was sent counts as dropped; those that pass take well below a millisecond."""
ETH_ALL = 3
NAMES = {
    4: ("10.7.0.0/20", "10.7.0.9", "10.7.1.1", ["10.7.1.2", "10.7.1.3", "10.7.2.2"]),
    6: (
        "2001:db8:7::/48",
        "2001:db8:7::9",
        "2001:db8:7:1::1",
        ["2001:db8:7:1::2", "2001:db8:7:1::3", "2001:db8:7:2::2"],
    ),
}
LENGTHS = {4: [0, 8, 20, 24, 31, 32, 32], 6: [0, 32, 48, 64, 127, 128, 128]}
# Not ICMP: the pods' own kernels send it too, as errors for the rest, and it has no ports to tell it apart.
PROTOCOLS = [6, 17, 132, 47, 253]
PORTS = [1, 80, 81, 443, 65535]


@dataclass
class Scene:
    """One node with a pod under test and peers, all of them with programs of one generation."""

    agent: Agent
    layout: VariantLayout
    pod: PodSandbox
    peers: list[PodSandbox]
    ifindex: int
    taps: dict[str, socket.socket]
    """By a pod's address, a packet socket on its eth0. Opened once: closing one waits for the whole kernel."""

    @contextmanager
    def maps(self, direction: Direction) -> Iterator[dict[str, int]]:
        """Descriptors of the maps of the pod's program, by name."""
        names = [f"{direction}_map", "aws_conntrack_map"]
        names += [f"{direction}_pod_state_map"] if self.layout.pod_state_keys else []
        names += [f"cp_{direction}_map"] if self.layout.has_cluster_policy else []
        with ExitStack() as stack:
            yield {name: stack.enter_context(self.agent.open_map("ns", "pod-0", name)) for name in names}


@pytest.fixture(
    params=[(generation, family) for generation in GENERATIONS for family in (4, 6)],
    ids=lambda p: f"{p[0]}-v{p[1]}",
)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    require_lab()
    generation, family = request.param
    network, node_ip, own, others = NAMES[family]
    with Fabric(network) as fabric:
        node = Node("n", node_ip, fabric)
        agent = Agent(node, generation, conntrack_size=4096)
        pods = [node.add_pod("ns", f"pod-{n}" if not n else f"peer{n}-0", ip) for n, ip in enumerate([own, *others])]
        for pod in pods:
            agent.pod_added("ns", pod.name)
        # Agents up to 1.1.6 attach to pods with a policy only.
        agent.sync([_endpoint(node_ip, pods[0])])
        layout = VariantLayout(GENERATIONS[generation].npa_gen, family == 6)
        with ExitStack() as stack:
            taps = {pod.ip: stack.enter_context(_tap(pod)) for pod in pods}
            yield Scene(agent, layout, pods[0], pods[1:], pods[0].interfaces[0].host_index, taps)


def _endpoint(node_ip: str, pod: PodSandbox) -> dict[str, object]:
    listed = {"hostIP": node_ip, "podIP": pod.ip, "name": pod.name, "namespace": "ns"}
    spec = {"policyRef": {"name": "p", "namespace": "ns"}, "podIsolation": ["Ingress", "Egress"]}
    return {"metadata": {"name": "p-1", "namespace": "ns"}, "spec": {**spec, "podSelectorEndpoints": [listed]}}


def test_packets_do_what_the_model_says(scene: Scene) -> None:
    seed = int(os.environ.get("NETPOL_SEED") or secrets.randbits(32))
    print(f"NETPOL_SEED={seed}")
    choose = random.Random(seed)
    counted = {True: 0, False: 0}
    for number in range(WORLDS):
        direction = list(Direction)[number % 2]
        with scene.maps(direction) as maps:
            # Each flow once: a packet that passes makes a conntrack entry, which would let its twin pass too.
            flows = list(dict.fromkeys(_flow(scene, direction, choose) for _ in range(FLOWS)))
            _fill(scene, direction, maps, choose)
            for flow in choose.sample(flows, choose.randrange(4)):
                _establish(scene, direction, flow, maps["aws_conntrack_map"], choose)
            views = agreement.views(maps.values())
            expected = {flow: _passes(scene, direction, flow, views) for flow in flows}
            arrived = _send(scene, direction, flows)
        for flow, passes in expected.items():
            assert (flow in arrived) is passes, f"NETPOL_SEED={seed} {direction}: {flow}, maps {views}"
            counted[passes] += 1
    assert min(counted.values()) >= WORLDS, counted


def _passes(scene: Scene, direction: Direction, flow: Flow, views: dict[str, MapView]) -> bool:
    found = decide(Layer.ATTACHED, direction, flow, views, (), scene.ifindex)
    assert found.decision is not Decision.UNKNOWN, found
    return found.decision is Decision.ALLOW


def _fill(scene: Scene, direction: Direction, maps: dict[str, int], choose: random.Random) -> None:
    for fd in maps.values():
        bpfsys.map_clear(fd)
    layout, addresses = scene.layout, [pod.ip for pod in scene.peers]
    family = 6 if layout.ipv6 else 4
    for _ in range(choose.randrange(1, 5)):
        slots = [_slot(scene, choose) for _ in range(choose.randrange(4))]
        key = layout.lpm_key(f"{choose.choice(addresses)}/{choose.choice(LENGTHS[family])}")
        bpfsys.map_update(maps[f"{direction}_map"], key, layout.np_value(*slots))
    # One peer that some packets of each world may pass from, or to.
    key = layout.lpm_key(f"{choose.choice(addresses)}/{LENGTHS[family][-1]}")
    bpfsys.map_update(maps[f"{direction}_map"], key, layout.np_value((254, 0, 0)))
    for state_key in range(layout.pod_state_keys):
        # Mostly APPLIED: the other states leave little to the rules.
        state = choose.choice([0, 0, 0, 1, 2])
        bpfsys.map_update(maps[f"{direction}_pod_state_map"], struct.pack("<I", state_key), bytes([state]))
    if layout.has_cluster_policy and choose.random() < 0.5:
        protocol, start, end = _slot(scene, choose)
        word = choose.choice([10, 1000, 20000]) + choose.choice([0, 1, 2])
        key = layout.lpm_key(f"{choose.choice(addresses)}/{choose.choice(LENGTHS[family])}")
        bpfsys.map_update(maps[f"cp_{direction}_map"], key, layout.cp_value((protocol, word, start, end)))


def _slot(scene: Scene, choose: random.Random) -> tuple[int, int, int]:
    """Ports for any protocol too, but not in 1.2.x: its maps leave open what these mean."""
    protocol = choose.choice([6, 17, 132, 254, 255])
    if protocol == 255 or (protocol == 254 and 10200 <= scene.layout.npa_gen < 10300):
        return protocol, 0, 0
    return protocol, choose.choice([0, *PORTS]), choose.choice([0, 0, 443, 65535])


def _establish(scene: Scene, direction: Direction, flow: Flow, table: int, choose: random.Random) -> None:
    """An entry for the flow, or for the one that it answers; sometimes another pod's or another veth's."""
    if choose.random() < 0.5:
        flow = Flow(flow.destination, flow.source, flow.protocol, flow.source_port or 0, flow.port)
    layout = scene.layout
    owner = choose.choice([scene.pod.ip] * 3 + [scene.peers[0].ip])
    ifindex = choose.choice([scene.ifindex] * 3 + [scene.ifindex + 1])
    ends = str(flow.source), flow.source_port or 0, str(flow.destination), flow.port
    key = layout.conntrack_key(*ends, flow.protocol, owner, ifindex)
    states = (0, 1) if layout.pod_state_keys == 1 else range(2, 8) if layout.pod_state_keys else (1,)
    bpfsys.map_update(table, key, layout.conntrack_value(choose.choice(states), owner))


def _flow(scene: Scene, direction: Direction, choose: random.Random) -> Flow:
    ends = [ip_address(choose.choice(scene.peers).ip), ip_address(scene.pod.ip)]
    if direction is Direction.EGRESS:
        ends.reverse()
    protocol = choose.choice(PROTOCOLS)
    ports = (choose.choice(PORTS), choose.randrange(30000, 60000)) if protocol in (6, 17, 132) else (0, 0)
    return Flow(*ends, protocol, *ports)


def _send(scene: Scene, direction: Direction, flows: list[Flow]) -> set[Flow]:
    """Send the first packet of each flow; those that came out of the veth on the other side."""
    pods = {ip_address(pod.ip): pod for pod in (scene.pod, *scene.peers)}
    watchers = [scene.taps[pod.ip] for pod in ([scene.pod] if direction is Direction.INGRESS else scene.peers)]
    for tap in scene.taps.values():
        _drain(tap)
    for flow in flows:
        pod = pods[flow.source]
        scene.taps[pod.ip].send(_to_gateway(pod, frame(flow, flow.source_port or 0)))
    wanted, arrived = set(flows), set()
    deadline = time.monotonic() + SILENCE
    while (left := deadline - time.monotonic()) > 0 and wanted - arrived:
        for ready in select.select(watchers, [], [], left)[0]:
            flow = _parsed(ready.recv(65536))
            if flow in wanted:
                arrived.add(flow)
    return arrived


def _drain(tap: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while tap.recv(65536, socket.MSG_DONTWAIT):
            pass


def _tap(pod: PodSandbox) -> socket.socket:
    """A packet socket on the pod's eth0."""
    tap = pod.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
    tap.bind(("eth0", ETH_ALL))
    return tap


def _to_gateway(pod: PodSandbox, packet: bytes) -> bytes:
    """The frame with the address of the host veth, which is the pod's only neighbour."""
    return pod.node._netlink.link(pod.interfaces[0].host_name).mac + packet[6:]


def _parsed(packet: bytes) -> Flow | None:
    """The flow of a frame; None where it is none of ours."""
    kind = struct.unpack_from("!H", packet, 12)[0]
    if kind == 0x0800:
        protocol, source, destination, start = packet[23], packet[26:30], packet[30:34], 34
    elif kind == 0x86DD:
        protocol, source, destination, start = packet[20], packet[22:38], packet[38:54], 54
    else:
        return None
    sport, dport = struct.unpack_from("!HH", packet, start) if protocol in (6, 17, 132) else (0, 0)
    return Flow(ip_address(source), ip_address(destination), protocol, dport, sport)
