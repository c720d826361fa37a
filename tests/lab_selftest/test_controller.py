"""The controller stand-in, against agent facts 6.2 to 6.5. No kernel needed."""

from __future__ import annotations

from typing import Any

from tests.lab.controller import endpoint_name, resolve

Json = dict[str, Any]
NAMESPACES: list[Json] = [
    {"metadata": {"name": "shop", "labels": {"team": "a"}}},
    {"metadata": {"name": "dns", "labels": {"team": "b"}}},
]


def pod(name: str, ip: str | None, namespace: str = "shop", ports: Json | None = None, **labels: str) -> Json:
    listed = [{"name": n, "containerPort": p, "protocol": "TCP"} for n, p in (ports or {}).items()]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"ports": listed}]},
        "status": {"phase": "Running", "podIP": ip, "hostIP": "10.0.0.10"},
    }


def policy(selector: Json | None = None, **spec: Any) -> Json:
    return {
        "metadata": {"name": "p", "namespace": "shop", "uid": "u-1"},
        "spec": {"podSelector": selector or {}, **spec},
    }


def service(name: str, ip: str | None, selector: Json | None, *ports: Json, namespace: str = "shop") -> Json:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "selector": selector, "ports": list(ports)},
    }


WEB = pod("web-1", "10.0.1.1", ports={"http": 8080}, app="web")
DB = pod("db-1", "10.0.1.2", ports={"http": 9090}, app="db")
DNS = pod("dns-1", "10.0.1.3", "dns", app="dns")


def spec_of(rule: Json, *pods: Json, services: tuple[Json, ...] = ()) -> Json:
    (found,) = resolve([rule], pods or (WEB, DB, DNS), NAMESPACES, services)
    return dict(found["spec"])


def labelled(**labels: str) -> Json:
    return {"podSelector": {"matchLabels": labels}}


def tcp(port: int | str, **more: Any) -> Json:
    return {"protocol": "TCP", "port": port, **more}


def test_object() -> None:
    (found,) = resolve([policy({"matchLabels": {"app": "web"}}, ingress=[])], [WEB, DB], NAMESPACES, [])
    assert found["metadata"]["name"] == endpoint_name("shop", "p", 0)
    assert found["metadata"]["name"].startswith("p-")
    assert len(found["metadata"]["name"]) == 7
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
        "NetworkPolicy",
        "p",
        "u-1",
        True,
    )
    listed = {"hostIP": "10.0.0.10", "podIP": "10.0.1.1", "name": "web-1", "namespace": "shop"}
    assert found["spec"] == {
        "policyRef": {"name": "p", "namespace": "shop"},
        "podSelector": {"matchLabels": {"app": "web"}},
        "podIsolation": ["Ingress"],
        "podSelectorEndpoints": [listed],
    }


def test_long_names_lose_their_end() -> None:
    name = endpoint_name("shop", "x" * 70, 0)
    assert len(name) == 63
    assert name[:58] == "x" * 58


def test_which_pods_are_selected() -> None:
    done, waiting = pod("job-1", "10.0.1.9"), pod("new-1", None)
    done["status"]["phase"] = "Succeeded"
    annotated, host = pod("ann-1", None), pod("host-1", "10.0.0.10")
    annotated["metadata"]["annotations"] = {"vpc.amazonaws.com/pod-ips": "10.0.1.7"}
    host["spec"]["hostNetwork"] = True
    leaving = pod("bye-1", "10.0.1.8")
    leaving["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    spec = spec_of(policy(ingress=[{"from": [{"podSelector": {}}]}]), done, waiting, annotated, host, leaving)
    assert [e["podIP"] for e in spec["podSelectorEndpoints"]] == ["10.0.1.7", "10.0.1.8"]
    assert [e["cidr"] for e in spec["ingress"]] == ["10.0.1.7", "10.0.0.10", "10.0.1.8"]


def test_everywhere_is_both_families() -> None:
    spec = spec_of(policy(ingress=[{}], egress=[{"ports": [tcp(53)]}]))
    assert spec["ingress"] == [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]
    assert [e["ports"] for e in spec["egress"]] == [[tcp(53)]] * 2
    assert spec["podIsolation"] == ["Ingress", "Egress"]


def test_blocks_are_copied_verbatim() -> None:
    block = {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}}
    spec = spec_of(policy(ingress=[{"from": [block], "ports": [tcp(80, endPort=90)]}]))
    assert spec["ingress"] == [{"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"], "ports": [tcp(80, endPort=90)]}]


def test_rules_of_a_direction_that_is_not_a_type_are_shipped() -> None:
    spec = spec_of(policy(policyTypes=["Ingress"], egress=[{"to": [labelled(app="db")]}]))
    assert spec["podIsolation"] == ["Ingress"]
    assert spec["egress"] == [{"cidr": "10.0.1.2"}]


def test_namespace_selectors() -> None:
    by_label = {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}}
    assert spec_of(policy(ingress=[{"from": [by_label]}]))["ingress"] == [{"cidr": "10.0.1.3"}]
    by_name = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
        **labelled(app="db"),
    }
    assert spec_of(policy(ingress=[{"from": [by_name]}]))["ingress"] == [{"cidr": "10.0.1.2"}]
    assert "ingress" not in spec_of(policy(ingress=[{"from": [labelled(app="dns")]}]))


def test_named_port_of_ingress_is_the_union_of_the_selected_pods() -> None:
    spec = spec_of(policy(ingress=[{"from": [labelled(app="db")], "ports": [tcp("http")]}]))
    assert spec["ingress"] == [{"cidr": "10.0.1.2", "ports": [tcp(8080), tcp(9090)]}]
    rule = policy({"matchLabels": {"app": "web"}}, ingress=[{"ports": [tcp("nothing")]}])
    assert "ingress" not in spec_of(rule)


def test_named_port_of_egress_is_each_peers_own() -> None:
    rule = {"to": [{"podSelector": {}}], "ports": [tcp("http")]}
    bare = pod("bare-1", "10.0.1.5")
    assert spec_of(policy(egress=[rule]), WEB, DB, bare)["egress"] == [
        {"cidr": "10.0.1.1", "ports": [tcp(8080)]},
        {"cidr": "10.0.1.2", "ports": [tcp(9090)]},
    ]
    block = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [tcp("http"), tcp(80)]}
    assert spec_of(policy(egress=[block]))["egress"] == [{"cidr": "10.9.0.0/16", "ports": [tcp(80)]}]
    assert "egress" not in spec_of(policy(egress=[{"ports": [tcp("http")]}]))


def egress_cidrs(peer: Json, ports: list[Json], *services: Json) -> dict[str, list[Json]]:
    rule: Json = {"to": [peer]} | ({"ports": ports} if ports else {})
    found = spec_of(policy(egress=[rule]), services=services).get("egress", [])
    return {e["cidr"]: e.get("ports", []) for e in found if e["cidr"].startswith("172.")}


def test_services_of_egress() -> None:
    numeric = service("web", "172.20.0.1", {"app": "web"}, {"port": 80, "targetPort": 8080})
    named = service("named", "172.20.0.2", {"app": "web"}, {"port": 81, "targetPort": "http"})
    headless = service("less", "None", {"app": "web"}, {"port": 82})
    no_selector = service("api", "172.20.0.4", None, {"port": 443})
    every = (numeric, named, headless, no_selector)
    web = labelled(app="web")
    assert egress_cidrs(web, [], *every) == {"172.20.0.1": [], "172.20.0.2": []}
    assert egress_cidrs({"podSelector": {}}, [], *every) == {
        "172.20.0.1": [],
        "172.20.0.2": [],
        "172.20.0.4": [],
    }
    assert egress_cidrs(web, [tcp(8080)], *every) == {"172.20.0.1": [tcp(80)], "172.20.0.2": [tcp(81)]}
    assert egress_cidrs(web, [tcp("http")], *every) == {"172.20.0.1": [tcp(80)], "172.20.0.2": [tcp(81)]}
    assert egress_cidrs(web, [tcp(80)], *every) == {}, "the policy has to name the target port"
    assert egress_cidrs(labelled(app="web", tier="fe"), [], *every) == {}, "the Service's selector is less"


def test_service_with_two_ports_on_one_target_gives_the_first() -> None:
    double = service(
        "web",
        "172.20.0.1",
        {"app": "web"},
        {"port": 80, "targetPort": 8080},
        {"port": 81, "targetPort": 8080},
    )
    assert egress_cidrs(labelled(app="web"), [tcp(8080)], double) == {"172.20.0.1": [tcp(80)]}


def test_named_target_port_that_means_another_number_elsewhere() -> None:
    named = service("all", "172.20.0.2", {"kind": "x"}, {"port": 81, "targetPort": "http"})
    one = pod("one-1", "10.0.1.1", ports={"http": 8080}, kind="x")
    two = pod("two-1", "10.0.1.2", ports={"http": 9090}, kind="x")
    peer = labelled(kind="x")
    found = spec_of(policy(egress=[{"to": [peer], "ports": [tcp(8080)]}]), one, two, services=(named,))["egress"]
    assert [e["cidr"] for e in found] == ["10.0.1.1", "10.0.1.2"]
    both = [tcp(8080), tcp(9090)]
    found = spec_of(policy(egress=[{"to": [peer], "ports": both}]), one, two, services=(named,))["egress"]
    assert found[-1]["cidr"] == "172.20.0.2"


def test_equal_blocks_are_merged() -> None:
    def rules(*ports: list[Json]) -> list[Json]:
        return [{"from": [labelled(app="db")], **({"ports": p} if p else {})} for p in ports]

    merged = spec_of(policy(ingress=rules([tcp(80)], [tcp(81), tcp(80)])))["ingress"]
    assert merged == [{"cidr": "10.0.1.2", "ports": [tcp(80), tcp(81)]}]
    assert spec_of(policy(ingress=rules([tcp(80)], [])))["ingress"] == [{"cidr": "10.0.1.2"}]
    assert spec_of(policy(ingress=rules([], [tcp(80)])))["ingress"] == [{"cidr": "10.0.1.2"}]
    blocks = [
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    ]
    assert len(spec_of(policy(ingress=[{"from": blocks}]))["ingress"]) == 2, "except is part of the key"


def test_slices() -> None:
    pods = [pod(f"p-{i}", f"10.0.2.{i}") for i in range(5)]
    rule = policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}])
    found = resolve([rule], pods, NAMESPACES, [], chunk=2)
    assert [len(e["spec"]["podSelectorEndpoints"]) for e in found] == [2, 2, 1]
    assert [len(e["spec"].get("ingress", [])) for e in found] == [1, 0, 0]
    assert len({e["metadata"]["name"] for e in found}) == 3
    assert resolve([rule], pods, NAMESPACES, [], chunk=2) == found
