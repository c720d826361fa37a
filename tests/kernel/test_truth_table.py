"""Random policies and pods, programmed by the models, and real connections between all pairs of pods on all ports.

NETPOL_TRUTH_SEEDS is the number of clusters for each generation and family; NETPOL_SEED repeats a run from a seed on.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Any

import pytest

from kubectl_netpol.kernel import encode
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.policy import endpoints
from kubectl_netpol.policy.world import on_host_network, ref
from tests.kernel.modelled_lab import NETWORKS, Model, Scene
from tests.kernel.truth_table import SHOWN, Table
from tests.lab import controller
from tests.lab.agent import GENERATIONS, cp_entries, np_direction
from tests.lab.require import require_lab
from tests.random_cluster import random_cluster

Json = dict[str, Any]

ENOUGH = 4
"""Clusters of which it can be said that something passes and something is dropped."""
CLUSTERS = int(os.environ.get("NETPOL_TRUTH_SEEDS") or ENOUGH)
ASKED = 40
"""Cells of a cluster about which the whole product is asked."""
UNDER_TEST = [(generation, family) for generation in ("1.2.7", "1.3.5", "1.4.1", "1.4.2") for family in (4, 6)]


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one each time; NETPOL_SEED repeats a run."""
    return int(os.environ.get("NETPOL_SEED") or secrets.randbits(32))


def _tables(generation: str, family: int, first: int) -> Iterator[tuple[int, Table]]:
    """A filled table of each cluster, with its seed."""
    for seed in range(first, first + CLUSTERS):
        choose = random.Random(f"{seed} {generation} {family}")
        tiers = GENERATIONS[generation].has_cluster_policy
        model = Model(random_cluster(choose, family=family, network=NETWORKS[family], tiers=tiers))
        with Scene(model, generation, family, choose) as scene:
            table = Table(scene)
            table.fill()
            yield seed, table


@pytest.mark.parametrize(("generation", "family"), UNDER_TEST, ids=[f"{g}-v{f}" for g, f in UNDER_TEST])
def test_predictions_and_packets_are_equal(generation: str, family: int, seed: int) -> None:
    require_lab()
    counted: Counter[str] = Counter()
    for own, table in _tables(generation, family, seed):
        again = f"NETPOL_SEED={own} NETPOL_TRUTH_SEEDS=1, agent {generation}, IPv{family}"
        print(again)
        if table.mismatches():
            pytest.fail(f"{again}\n{table.text()}", pytrace=False)
        _none(table.unexplained(), f"{again}: INTENT differs from the maps, and no deviation says why")
        askable = [cell for cell in table.cells if table.can_be_asked(cell)]
        sample = random.Random(own).sample(askable, min(ASKED, len(askable)))
        _none(table.disputed(sample), f"{again}: the whole product says otherwise than the packets")
        _none(table.miscounted(), f"{again}: tc and the programs count other drops")
        counted += table.counted
    print(dict(counted))
    if CLUSTERS >= ENOUGH:
        # A generator that only ever makes one kind of answer would prove nothing, nor a model that leaves much open.
        assert min(counted["pass"], counted["egress"] + counted["ingress"]) > counted["cells"] / 100, counted
        assert counted["open"] < counted["cells"] / 4, counted


def _none(problems: Iterable[str], what: str) -> None:
    found = list(problems)
    if found:
        pytest.fail("\n".join([what, *found[:SHOWN]]), pytrace=False)


@pytest.mark.parametrize("family", [4, 6])
def test_the_lab_s_own_controller_and_agent_say_the_same(family: int, seed: int) -> None:
    """They share no code with the models, and what both make of a policy decides what the packets are to prove."""
    for number in range(seed, seed + 10 * CLUSTERS):
        objects = random_cluster(random.Random(number), family=family, network=NETWORKS[family], policies=6)
        model, where = Model(objects), f"NETPOL_SEED={number} IPv{family}"
        _compare_endpoints(model, objects, where)
        for pod in model.living():
            if not on_host_network(pod):
                for direction in Direction:
                    _compare_maps(model, pod, direction, f"{where} {ref(pod)} {direction}")


def _compare_endpoints(model: Model, objects: Mapping[str, list[Json]], where: str) -> None:
    """Of NetworkPolicies: the lab resolves no others."""
    ours = {_policy_of(endpoint): endpoint["spec"] for endpoint in model.world.snapshot.items("policyendpoints")}
    policies, pods, namespaces, services = (objects[k] for k in ("networkpolicies", "pods", "namespaces", "services"))
    # In one slice, as the model has it.
    for endpoint in controller.resolve(policies, pods, namespaces, services, chunk=1 << 20):
        mine, theirs = ours[_policy_of(endpoint)], endpoint["spec"]
        listed = [{(e["namespace"], e["name"]) for e in s.get("podSelectorEndpoints") or ()} for s in (mine, theirs)]
        assert listed[0] == listed[1], (where, theirs["policyRef"])
        assert mine["podIsolation"] == theirs["podIsolation"], (where, theirs["policyRef"])
        for direction in Direction:
            assert _entries(mine, direction) == _entries(theirs, direction), (where, theirs["policyRef"], direction)


def _policy_of(endpoint: Json) -> tuple[str, str]:
    return endpoint["metadata"]["namespace"], endpoint["spec"]["policyRef"]["name"]


def _entries(spec: Json, direction: Direction) -> dict[tuple[str, frozenset[str]], set[object]]:
    """Ports by prefix and excepts, whatever the order and the spelling of hosts; all ports swallow the rest."""
    found: dict[tuple[str, frozenset[str]], set[object]] = {}
    for element in spec.get(direction.value) or ():
        key = str(ip_network(element["cidr"])), frozenset(element.get("except") or ())
        ports: list[object] = [(p.get("protocol"), p.get("port"), p.get("endPort")) for p in element.get("ports") or ()]
        found.setdefault(key, set()).update(ports or ["all"])
    return {key: {"all"} if "all" in ports else ports for key, ports in found.items()}


def _compare_maps(model: Model, pod: Json, direction: Direction, where: str) -> None:
    maps, node = model.maps(pod, direction), pod["status"]["hostIP"]
    slices = list(endpoints.of_identifier(model.world, pod))
    theirs = np_direction(slices, direction.value, node) if slices else {}
    ours = {encode.lpm_key(prefix): frozenset(map(tuple, one.slots)) for prefix, one in maps.rules.items()}
    assert ours == {key: frozenset(slots) for key, slots in theirs.items()}, where
    cluster = list(endpoints.cluster_of_identifier(model.world, pod))
    theirs_of_tiers = cp_entries(cluster, direction.value, node)
    ours_of_tiers = {encode.lpm_key(p): sorted(map(tuple, one.slots)) for p, one in maps.tiers.items()}
    assert ours_of_tiers == {key: sorted(slots) for key, slots in theirs_of_tiers.items()}, where
