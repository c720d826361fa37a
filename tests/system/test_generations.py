"""Every generation of the agent, in IPv4 and IPv6 clusters: packets, the verdicts and the program itself agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import article
from tests.lab.agent import GENERATIONS
from tests.lab.cluster import LabCluster
from tests.lab.require import require_lab, require_tools
from tests.lab_selftest.helpers import connects
from tests.system.conftest import User

LOADED_BY = {
    "1.0.1": "1.0.1 to 1.0.4",
    "1.0.4": "1.0.1 to 1.0.4",
    "1.0.5": "1.0.5 to 1.1.6",
    "1.1.6": "1.0.5 to 1.1.6",
    "1.2.1": "1.2.0 to 1.2.7",
    "1.2.3": "1.2.0 to 1.2.7",
    "1.2.7": "1.2.0 to 1.2.7",
    "1.3.5": "1.3.0 to 1.3.5",
    "1.3.7": "1.3.7 to 1.4.1",
    "1.4.1": "1.3.7 to 1.4.1",
    "1.4.2": ">= 1.4.2",
}


@pytest.fixture(scope="module", params=[(g, f) for g in GENERATIONS for f in (4, 6)], ids=lambda p: f"{p[0]}-v{p[1]}")
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, LabCluster]]:
    require_lab()
    require_tools("kubectl", "wget")
    generation, family = request.param
    with article.cluster(generation=generation, family=family) as lab:
        article.build(lab)
        yield generation, family, lab
        assert not lab.server.errors


def ask(user: User, *arguments: str) -> tuple[int, Any]:
    done = user.run(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_packets_model_and_program_agree(cluster: tuple[str, int, LabCluster], plugin_bin: Path) -> None:
    _, family, lab = cluster
    user = User(lab, plugin_bin)
    nginx = article.addresses(family)["nginx"]
    for pod, passes in (("accesstrue", True), ("accessfalse", False)):
        assert (connects(lab.sandbox("default", pod), nginx, 80) == "open") is passes
        flow = ("explain", "pod/nginx", "--from", f"pod/{pod}", "--port", "80", "--ask-kernel")
        code, answer = ask(user, *flow)
        assert (code, answer["verdict"]) == ((0, "ALLOW") if passes else (1, "DROP"))
        ingress = {layer["layer"]: layer["verdict"] for layer in answer["legs"][0]["layers"]}
        word = "ALLOW" if passes else "DROP"
        assert (ingress["PINNED"], ingress["ATTACHED"], ingress["TEST RUN"]) == (word, word, word)
    assert user.debug_pods() == []


def test_the_pod_agrees_with_its_yaml(cluster: tuple[str, int, LabCluster], plugin_bin: Path) -> None:
    _, family, lab = cluster
    code, answer = ask(User(lab, plugin_bin), "explain", "pod/nginx")
    assert (code, answer["layersAgree"]) == (0, True), answer["answer"]
    rows = {row["who"]: row["prefix"] for row in answer["directions"][0]["rows"]}
    assert rows["pod default/accesstrue"] == f"{article.addresses(family)['accesstrue']}/{32 if family == 4 else 128}"


def test_maps_name_the_generation(cluster: tuple[str, int, LabCluster], plugin_bin: Path) -> None:
    generation, family, lab = cluster
    code, found = ask(User(lab, plugin_bin), "maps", "pod/nginx")
    assert code == 0
    assert found["podIdentifier"] == f"nginx-f8d9c6576{'@' if generation >= '1.4' else '-'}default"
    assert found["nodeDifferences"] == found["differences"] == []
    for side in found["directions"]:
        assert (side["loadedByAgent"], side["differences"]) == (LOADED_BY[generation], [])
        assert all(f"IPv{family}" in m["layout"] for m in side["maps"] if "rules" in m["layout"])


def test_established_flows(cluster: tuple[str, int, LabCluster], plugin_bin: Path) -> None:
    """One real connection, as the kernel, `conntrack` and `explain --source-port` see it."""
    generation, family, lab = cluster
    user = User(lab, plugin_bin)
    addresses = article.addresses(family)
    assert connects(lab.sandbox("default", "accesstrue"), addresses["nginx"], 80) == "open"
    code, found = ask(user, "conntrack", "pod/nginx")
    assert code == 0
    flows = [f for f in found["flows"] if f["direction"] == "ingress" and f["protocol"] == "TCP"]
    assert flows
    flow = flows[0]
    assert (flow["source"], flow["destination"], flow["port"]) == (addresses["accesstrue"], addresses["nginx"], 80)
    assert (flow["sourceName"], flow["passes"], flow["rulesNow"]) == ("pod default/accesstrue", True, "ALLOW")
    assert (flow["lastSeenAgoNs"] is not None) is (generation == "1.4.2")
    under = {"1.0": None, "1.1": None, "1.2": "POLICIES_APPLIED"}.get(generation[:3], "POLICIES_APPLIED (cluster")
    assert flow["madeUnder"] == under if under is None else flow["madeUnder"].startswith(under)
    asked = ("--from", "pod/accesstrue", "--port", "80", "--source-port", str(flow["sourcePort"]))
    code, answer = ask(user, "explain", "pod/nginx", *asked)
    assert (code, answer["verdict"]) == (0, "ALLOW")
    established = next(x for x in answer["legs"][0]["layers"] if x["layer"] == "CONNTRACK")
    assert established["code"] == "ESTABLISHED"
    assert re.search(rf":{flow['sourcePort']} -> .*:80 TCP", established["evidence"][0])
