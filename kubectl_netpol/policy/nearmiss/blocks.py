"""Near misses of address blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from itertools import islice
from typing import Any

from kubectl_netpol.model.flow import Address, Network
from kubectl_netpol.policy import networkpolicy as np
from kubectl_netpol.policy.nearmiss import typos
from kubectl_netpol.policy.nearmiss.case import Case, fronts, with_peer
from kubectl_netpol.policy.nearmiss.record import Candidate, candidate
from kubectl_netpol.policy.networkpolicy import RulePeer
from kubectl_netpol.policy.world import finished, labels_of, name_of, namespace_of, ref

Json = dict[str, Any]

NEAR = 1 << 16
"""Addresses at most between a block and one that is just outside; never more than the block has itself."""
SMALL = 1 << 8
"""Addresses of the largest block that is looked through for pods."""
OF_ONE_REPLICASET = ("pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name")
"""Labels that tell generations and replicas of one workload apart."""


def candidates(case: Case) -> Iterator[Candidate]:
    for rule in case.wrong_peer:
        block = (rule.peer or {}).get("ipBlock")
        network = np.parse_network(block.get("cidr")) if block else None
        if block and network is not None:
            yield from islice(_of_block(case, rule, block, network), 1)


def _of_block(case: Case, rule: RulePeer, block: Json, network: Network) -> Iterator[Candidate]:
    """The best explanation comes first, and is the only one that is taken."""
    address = case.judged.peer
    if network.version != address.version:
        yield from _family(case, rule, network)
        return
    if address in network:
        yield from _excepted(case, rule, block)
        return
    yield from _service(case, rule, network)
    yield from _pods(case, rule, network)
    yield from _one_address(case, rule, network)
    yield from _edge(case, rule, network)
    yield from _typo(case, rule, network)


def _mended(rule: RulePeer, network: Network) -> Json:
    return {"ipBlock": {**((rule.peer or {}).get("ipBlock") or {}), "cidr": str(network)}}


def _family(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    if network.prefixlen:
        return
    version = case.judged.peer.version
    everybody = ip_network("::/0" if version == 6 else "0.0.0.0/0")
    text = f"{case.where(rule)} allows {network}, which holds no IPv{version} address such as {case.judged.peer}"
    yield candidate(
        "BLOCK_FAMILY", 0, f"{text}: {everybody} does", with_peer(rule, {"ipBlock": {"cidr": str(everybody)}})
    )


def _excepted(case: Case, rule: RulePeer, block: Json) -> Iterator[Candidate]:
    address = case.judged.peer
    texts = [str(text) for text in block.get("except") or ()]
    inside = [text for text in texts if (n := np.parse_network(text)) and n.version == address.version and address in n]
    if not inside:
        return
    text = f"{case.where(rule)} allows {block.get('cidr')} but excepts {', '.join(inside)}, and {address} is in there"
    mended = {"ipBlock": {"cidr": block.get("cidr"), "except": [text for text in texts if text not in inside]}}
    yield candidate("EXCEPT", 0, text, with_peer(rule, mended))


def _one_address(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    """`10.0.1.0/32`: the length of a host with the address of a network."""
    if network.version != 4 or network.prefixlen != network.max_prefixlen:
        return
    wider = next((n for n in (network.supernet(8), network.supernet(16)) if _begins(n, network)), None)
    if wider is None or case.judged.peer not in wider:
        return
    text = f"{case.where(rule)} allows {network}, which is one address; {case.judged.peer} would be in {wider}"
    yield candidate("BLOCK_ONE_ADDRESS", 1, text, with_peer(rule, _mended(rule, wider)))


def _begins(wider: Network, network: Network) -> bool:
    return wider.network_address == network.network_address


def _typo(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    if network.num_addresses < SMALL or not network.prefixlen:
        return
    own = ip_network(f"{case.judged.peer}/{network.prefixlen}", strict=False)
    if not typos.one_edit(str(own.network_address), str(network.network_address)):
        return
    text = f"{case.where(rule)} allows {network}; {case.judged.peer} is in {own}, one character off"
    yield candidate("BLOCK_TYPO", 2, text, with_peer(rule, _mended(rule, own)))


def _edge(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    address, first, last = case.judged.peer, network.network_address, network.broadcast_address
    after = int(address) > int(last)
    distance = int(address) - int(last) if after else int(first) - int(address)
    if distance > min(network.num_addresses, NEAR) or network.num_addresses == 1:
        return
    end = f"ends at {last}" if after else f"begins at {first}"
    text = f"{case.where(rule)} allows {network}, which {end}; {address} is just {'after' if after else 'before'} it"
    yield candidate("BLOCK_EDGE", 2, text, with_peer(rule, _mended(rule, _holding(network, address))))


def _holding(network: Network, address: Address) -> Network:
    """The smallest block with both."""
    while address not in network:
        network = network.supernet()
    return network


# ---- blocks that stand for pods


def _pods(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    """The addresses of pods like the other end: they had these when the rule was written."""
    other = case.other
    if other is None or network.num_addresses > SMALL:
        return
    alike = next((pod for pod in _living(case, network) if _alike(pod, other)), None)
    if alike is None:
        return
    text = (
        f"{case.where(rule)} allows {network}, where pod {case.called(alike)} is; {case.called(other)} has "
        f"{case.judged.peer}: a podSelector means pods whatever their address"
    )
    yield candidate("BLOCK_OF_PODS", 0, text, with_peer(rule, _selecting(other)))


def _living(case: Case, network: Network) -> Iterable[Json]:
    found = (case.world.pod_by_ip.get(address) for address in network)
    return (pod for pod in found if pod is not None and not finished(pod))


def _alike(pod: Json, other: Json) -> bool:
    """Of one workload, as far as labels tell."""
    left, right = _workload(pod), _workload(other)
    return bool(left) and left == right and namespace_of(pod) == namespace_of(other) and name_of(pod) != name_of(other)


def _workload(pod: Json) -> Json:
    return {key: value for key, value in labels_of(pod).items() if key not in OF_ONE_REPLICASET}


def _selecting(pod: Json) -> Json:
    space = {"matchLabels": {"kubernetes.io/metadata.name": namespace_of(pod)}}
    return {"podSelector": {"matchLabels": _workload(pod)}, "namespaceSelector": space}


def _service(case: Case, rule: RulePeer, network: Network) -> Iterator[Candidate]:
    other = case.other
    if not case.incoming or other is None or network.prefixlen != network.max_prefixlen:
        return
    service = case.world.service_by_ip.get(network.network_address)
    if service is None or namespace_of(service) != namespace_of(other) or not fronts(service, other):
        return
    text = (
        f"{case.where(rule)} allows {network.network_address}, the ClusterIP of service {ref(service)}: connections "
        f"never come from a ClusterIP, but from the pod's own address, here {case.judged.peer} of {case.called(other)}"
    )
    yield candidate("BLOCK_OF_SERVICE", 0, text, with_peer(rule, _selecting(other)))
