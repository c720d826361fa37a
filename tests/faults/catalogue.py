"""The catalogue: each fault by name, the facts' rows that it stands for, the code that names it, and how it is made.

``KERNEL``: made in a running lab, with real programs, maps and filters. ``OBJECTS``: made in the API objects, or in
the document of a node, of a healthy lab. ``also``: codes that follow truly from the fault and may be told as well.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.world import Objects
from tests.lab import bpfsys
from tests.lab.agent import Agent
from tests.lab.article import NGINX, NGINX_IP, NODE
from tests.lab.cluster import LabCluster
from tests.lab_selftest.helpers import connects

Json = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One way to be broken. ``rows``: of user-pain section 1 (`P1`) and of agent facts section 9 (`A30`)."""

    name: str
    rows: str
    code: str
    make: Callable[[Any], None]
    also: frozenset[str] = frozenset()
    lab: dict[str, Any] = field(default_factory=dict)


KERNEL: list[Fault] = []
OBJECTS: list[Fault] = []


def kernel(code: str, rows: str, *also: str, **lab: Any) -> Callable[[Callable[[LabCluster], None]], Any]:
    """A fault of a running lab."""

    def keep(make: Callable[[LabCluster], None]) -> Callable[[LabCluster], None]:
        KERNEL.append(Fault(make.__name__, rows, code, make, frozenset(also), lab))
        return make

    return keep


def objects(code: str, rows: str, *also: str) -> Callable[[Callable[[Objects], None]], Any]:
    """A fault of API objects."""

    def keep(make: Callable[[Objects], None]) -> Callable[[Objects], None]:
        OBJECTS.append(Fault(make.__name__, rows, code, make, frozenset(also)))
        return make

    return keep


# ---- PINNED


def _label(lab: LabCluster, pod: str, label: str) -> None:
    lab.kubectl("label", "pod", pod, label, "--overwrite")
    lab.settle()


@kernel("NPE301", "P12 A46")
def an_update_of_the_map_is_lost(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("skip_map_update")
    _label(lab, "accessfalse", "access=true")


@kernel("NPE302", "P12 A47")
def an_entry_stays_in_the_map(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("skip_map_update")
    _label(lab, "accesstrue", "access=false")


@kernel("NPE303", "P12 A46")
def the_ports_of_an_entry_stay_old(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("skip_map_update")
    patch = '[{"op":"add","path":"/spec/ingress/0/ports","value":[{"port":80}]}]'
    lab.kubectl("patch", "networkpolicy", "access-nginx", "--type=json", "-p", patch)
    lab.settle()


@kernel("NPE301", "P23 A38 A39", family=6)
def an_update_of_an_ipv6_map_is_lost(lab: LabCluster) -> None:
    an_update_of_the_map_is_lost(lab)


def _agent_sleeps(lab: LabCluster) -> None:
    """It repairs nothing any more, as one that lost its watch."""
    lab.agents[NODE].sync = lambda *_: None  # type: ignore[method-assign]


@kernel("NPE301", "A37 A38")
def the_direction_without_a_policy_is_closed(lab: LabCluster) -> None:
    _agent_sleeps(lab)
    with lab.agents[NODE].open_map("default", NGINX, "egress_map") as fd:
        for key in bpfsys.map_keys(fd, 8):
            if key[:4] == b"\0\0\0\0":
                bpfsys.map_delete(fd, key)


@kernel("NPE304", "P3 A35 A36")
def the_pod_state_is_missing(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("drop_pod_state")
    lab.sync_agents()


@kernel("NPE304", "A35")
def the_second_key_of_the_pod_state_is_missing(lab: LabCluster) -> None:
    _agent_sleeps(lab)
    for direction in ("ingress", "egress"):
        with lab.agents[NODE].open_map("default", NGINX, f"{direction}_pod_state_map") as fd:
            bpfsys.map_delete(fd, b"\1\0\0\0")


@kernel("NPE305", "P14 A43")
def the_pod_state_stays_open(lab: LabCluster) -> None:
    _agent_sleeps(lab)
    for direction in ("ingress", "egress"):
        with lab.agents[NODE].open_map("default", NGINX, f"{direction}_pod_state_map") as fd:
            bpfsys.map_update(fd, b"\0\0\0\0", b"\1")


@kernel("NPE305", "P14 P15")
def a_pod_without_policies_is_closed_in_standard_mode(lab: LabCluster) -> None:
    for direction in ("ingress", "egress"):
        with lab.agents[NODE].open_map("default", "accesstrue", f"{direction}_pod_state_map") as fd:
            bpfsys.map_update(fd, b"\0\0\0\0", b"\2")


@kernel("NPE306", "P21 A48")
def pins_stay_when_the_pod_goes(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("leave_pins")
    lab.kubectl("delete", "pod", "accessfalse", "--grace-period=1")
    lab.server.wait_gone("Pod", "accessfalse")
    lab.settle()


@kernel("NPE307", "A27 A29 A80a", "NPE401")
def the_pins_of_a_pod_are_gone(lab: LabCluster) -> None:
    lab.agents[NODE].remove_pins("default", NGINX)


@kernel("NPE308", "A54", "NPE409")
def a_migration_left_both_forms_of_the_identifier(lab: LabCluster) -> None:
    lab.agents[NODE].pin_other_form("default", NGINX)


@kernel("NPE309", "P27", generation="1.4.1")
def a_newer_agent_took_over_maps_of_an_older_one(lab: LabCluster) -> None:
    _agent_image(lab, "v1.4.2-eksbuild.1", "v1.23.1")


def _agent_image(lab: LabCluster, agent: str, cni: str) -> None:
    """What runs is said to be another release, in the DaemonSet and in its pods."""

    def edit(containers: list[Json]) -> None:
        for container in containers:
            name = container["image"].rpartition(":")[0]
            container["image"] = f"{name}:{agent if 'policy-agent' in name else cni}"

    lab.server.change(
        "DaemonSet", "aws-node", lambda o: edit(o["spec"]["template"]["spec"]["containers"]), "kube-system"
    )
    for pod in lab.server.list("Pod", "kube-system", "k8s-app=aws-node"):
        lab.server.change("Pod", pod["metadata"]["name"], lambda o: edit(o["spec"]["containers"]), "kube-system")


# ---- ATTACHED


@kernel("NPE401", "P1 A30", "NPE403")
def the_old_program_still_runs(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("stale_program")
    _label(lab, "accessfalse", "access=true")


@kernel("NPE401", "P1 A30", "NPE304")
def another_load_of_the_program_runs(lab: LabCluster) -> None:
    lab.agents[NODE].reload_filter("default", NGINX, "ingress")


@kernel("NPE402", "P2 A20 A80a")
def nothing_is_attached_to_a_new_pod(lab: LabCluster) -> None:
    lab.agents[NODE].faults.add("no_attach")
    lab.server.controllers.name_hook = None
    lab.kubectl("run", "web", "--image=nginx", "--labels", "app=nginx")
    lab.server.wait_running("web")
    lab.settle()


@kernel("NPE402", "P2 A20")
def only_one_hook_has_its_filter(lab: LabCluster) -> None:
    lab.agents[NODE].remove_filter("default", NGINX, "ingress")


@kernel("NPE402", "P2 A20")
def the_qdisc_is_gone(lab: LabCluster) -> None:
    lab.agents[NODE].remove_clsact("default", NGINX)


@kernel("NPE403", "A50", "NPE302", "NPE305")
def the_pins_are_those_of_another_pod(lab: LabCluster) -> None:
    lab.agents[NODE].swap_map_pins(("default", NGINX), ("default", "accesstrue"))


@kernel("NPE404", "A32", "NPE401")
def the_program_has_no_maps(lab: LabCluster) -> None:
    agent = lab.agents[NODE]
    agent.remove_filter("default", NGINX, "ingress")
    agent.add_foreign_filter("default", NGINX, "ingress", 0, filter_name="handle_ingress")


@kernel("NPE405", "A50", "NPE401")
def the_program_of_the_other_direction_runs(lab: LabCluster) -> None:
    lab.agents[NODE].run_other_direction("default", NGINX, "ingress")


@kernel("NPE406", "P29 P13")
def a_filter_of_others_runs_first(lab: LabCluster) -> None:
    lab.agents[NODE].add_foreign_filter("default", NGINX, "ingress", 0)


@kernel("NPE406", "P29")
def an_xdp_or_tcx_program_of_others_runs_first(lab: LabCluster) -> None:
    lab.agents[NODE].add_tcx("default", NGINX, "ingress", 0)


@kernel("NPE407", "P1", "NPE402")
def the_filter_sees_no_packets(lab: LabCluster) -> None:
    lab.agents[NODE].replace_filter("default", NGINX, "ingress", "protocol", "arp")


@kernel("NPE408", "A23", links={"nginx": ["172.31.97.9"]})
def a_further_interface_is_not_filtered(lab: LabCluster) -> None:
    lab.agents[NODE].remove_clsact("default", NGINX, interface=1)


@kernel("NPE410", "A22", "NPE402")
def the_route_leads_to_another_link(lab: LabCluster) -> None:
    veth = lab.sandbox("default", "accesstrue").interfaces[0].host_name
    lab.agents[NODE].reroute(NGINX_IP, veth)


@kernel("NPE411", "P2 A20")
def a_pod_without_policies_has_no_filters(lab: LabCluster) -> None:
    lab.agents[NODE].remove_clsact("default", "accesstrue")


@kernel("NPE409", "P1 A50", "NPE306", "NPE403", "NPE503", "NPE504")
def programs_of_two_releases_are_loaded(lab: LabCluster) -> None:
    older = Agent(lab.nodes[NODE], "1.3.5")
    older._load("web-7d4b9c-shop")


# ---- CONNTRACK


@kernel("NPE501", "A69 A72 A78")
def an_established_flow_outlives_its_rule(lab: LabCluster) -> None:
    assert connects(lab.sandbox("default", "accesstrue"), NGINX_IP, 80) == "open"
    _label(lab, "accesstrue", "access=false")


@kernel("NPE310", "P16 A44", "NPE302")
def a_cluster_policy_denies_the_own_node(lab: LabCluster) -> None:
    key = struct.pack("<I", 16) + bytes((172, 31, 0, 0))
    value = struct.pack("<4I", 254, 10, 0, 0).ljust(384, b"\0")
    with lab.agents[NODE].open_map("default", NGINX, "cp_ingress_map") as fd:
        bpfsys.map_update(fd, key, value)
    for direction in ("ingress", "egress"):
        with lab.agents[NODE].open_map("default", NGINX, f"{direction}_pod_state_map") as fd:
            bpfsys.map_update(fd, b"\1\0\0\0", b"\0")
    _agent_sleeps(lab)


@kernel("NPE503", "A31 A77")
def the_conntrack_map_was_replaced(lab: LabCluster) -> None:
    lab.agents[NODE].replace_global_map()


@kernel("NPE503", "A31")
def the_pin_of_the_conntrack_map_is_gone(lab: LabCluster) -> None:
    _agent_sleeps(lab)
    agent = lab.agents[NODE]
    Path(f"{agent.node.root}/sys/fs/bpf/globals/aws/maps/global_aws_conntrack_map").unlink()


@kernel("NPE305", "P14")
def the_pod_state_is_a_number_that_means_nothing(lab: LabCluster) -> None:
    _agent_sleeps(lab)
    for direction in ("ingress", "egress"):
        with lab.agents[NODE].open_map("default", "accesstrue", f"{direction}_pod_state_map") as fd:
            bpfsys.map_update(fd, b"\0\0\0\0", b"\5")


@kernel("NPE504", "P26 A76", "NPE605", generation="1.3.5")
def conntrack_of_an_old_agent(lab: LabCluster) -> None:
    pass


@kernel("NPE116", "P15 A45", "NPE605", "NPE504", generation="1.2.7", mode="strict")
def strict_mode_of_an_agent_that_drops_replies_too(lab: LabCluster) -> None:
    pass


# ---- the API


def _policy(objects: Objects) -> Json:
    return objects.one("networkpolicies", "access-nginx")


def _endpoint(objects: Objects) -> Json:
    return objects.one("policyendpoints", "access-nginx")


@objects("NPE601", "P13 A1")
def the_controller_is_switched_off(objects: Objects) -> None:
    objects.one("configmaps", "amazon-vpc-cni")["data"]["enable-network-policy-controller"] = "false"
    objects.drop("policyendpoints")
    _maps_of_nobody(objects)


def _maps_of_nobody(objects: Objects) -> None:
    """The kernel part is not asked: it was made when there were PolicyEndpoints."""
    objects.nodes.clear()


@objects("NPE201", "P13 A1")
def the_controller_made_nothing_of_a_policy(objects: Objects) -> None:
    objects.drop("policyendpoints")
    _maps_of_nobody(objects)


@objects("NPE201", "P13 A1")
def the_endpoints_are_gone_and_the_maps_still_hold(objects: Objects) -> None:
    objects.drop("policyendpoints")


@objects("NPE601", "P13 A1")
def the_controller_is_off_and_the_maps_still_hold(objects: Objects) -> None:
    objects.one("configmaps", "amazon-vpc-cni")["data"]["enable-network-policy-controller"] = "false"
    objects.drop("policyendpoints")


@objects("NPE607", "P13")
def there_is_no_daemonset_of_the_cni(objects: Objects) -> None:
    objects.drop("daemonsets", "aws-node")


@objects("NPE202", "P11 A19 A12")
def the_endpoints_are_behind_the_policy(objects: Objects) -> None:
    _policy(objects)["spec"]["ingress"].append({"from": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]})


@objects("NPE203", "P9 P11 A18")
def a_selected_pod_is_not_listed(objects: Objects) -> None:
    twin = {**objects.one("pods", NGINX)}
    twin["metadata"] = {**twin["metadata"], "name": "nginx-f8d9c6576-zzzzz", "uid": "another"}
    twin["status"] = {**twin["status"], "podIP": "172.31.98.77", "podIPs": [{"ip": "172.31.98.77"}]}
    objects.lists["pods"].append(twin)
    _maps_of_nobody(objects)


@objects("NPE204", "P9")
def the_endpoint_keeps_the_old_selector(objects: Objects) -> None:
    _policy(objects)["spec"]["podSelector"] = {"matchLabels": {"access": "true"}}
    _maps_of_nobody(objects)


@objects("NPE205", "P9 P28 A17")
def the_policy_is_gone_and_its_endpoints_stay(objects: Objects) -> None:
    objects.drop("networkpolicies", "access-nginx")


@objects("NPE206", "A3")
def a_policy_is_stuck_in_terminating(objects: Objects) -> None:
    _policy(objects)["metadata"] |= {
        "deletionTimestamp": "2026-01-02T02:00:00Z",
        "finalizers": ["networking.k8s.aws/resources"],
    }


@objects("NPE207", "P19 A10")
def an_older_controller_narrows_all_ports(objects: Objects) -> None:
    peer = _policy(objects)["spec"]["ingress"][0]["from"]
    _policy(objects)["spec"]["ingress"].append({"from": peer, "ports": [{"protocol": "TCP", "port": 80}]})
    for entry in _endpoint(objects)["spec"]["ingress"]:
        entry["ports"] = [{"protocol": "TCP", "port": 80}]
    _maps_of_nobody(objects)


@objects("NPE208", "A12 A18 A19")
def the_endpoint_lists_the_pod_by_an_old_address(objects: Objects) -> None:
    for entry in _endpoint(objects)["spec"]["podSelectorEndpoints"]:
        entry["podIP"] = "172.31.98.200"


@objects("NPE107", "P25 A14")
def two_kinds_of_policies_share_a_name(objects: Objects) -> None:
    other = {**_policy(objects), "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": []}]}}
    objects.lists["applicationnetworkpolicies"].append(other)
    objects.absent.discard("applicationnetworkpolicies")
    _maps_of_nobody(objects)


@objects("NPE102", "P7 A8")
def a_named_port_that_no_container_has(objects: Objects) -> None:
    _policy(objects)["spec"]["ingress"][0]["ports"] = [{"protocol": "TCP", "port": "htpp"}]
    _endpoint(objects)["spec"]["ingress"] = []
    _maps_of_nobody(objects)


@objects("NPE109", "P9")
def the_pod_selector_has_a_typing_error(objects: Objects) -> None:
    _policy(objects)["spec"]["podSelector"] = {"matchLabels": {"app": "ngnix"}}
    _endpoint(objects)["spec"] |= {"podSelector": {"matchLabels": {"app": "ngnix"}}, "podSelectorEndpoints": []}
    _maps_of_nobody(objects)


@objects("NPE109", "P9")
def the_peer_selector_has_a_typing_error(objects: Objects) -> None:
    _policy(objects)["spec"]["ingress"][0]["from"] = [{"podSelector": {"matchLabels": {"acess": "true"}}}]
    _endpoint(objects)["spec"]["ingress"] = []
    _maps_of_nobody(objects)


@objects("NPE110", "P13 P17 A13")
def a_policy_selects_a_pod_on_the_host_network(objects: Objects) -> None:
    pod = {**objects.one("pods", "accessfalse")}
    pod["metadata"] = {**pod["metadata"], "name": "logger", "labels": {"app": "nginx"}}
    pod["spec"] = {**pod["spec"], "hostNetwork": True}
    pod["status"] = {**pod["status"], "podIP": pod["status"]["hostIP"]}
    objects.lists["pods"].append(pod)


@objects("NPE111", "P15 A11")
def rules_of_a_direction_that_policy_types_does_not_list(objects: Objects) -> None:
    rule = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    _policy(objects)["spec"] |= {"policyTypes": ["Ingress"], "egress": [rule]}
    _endpoint(objects)["spec"]["egress"] = [{"cidr": "0.0.0.0/0"}]


@objects("NPE112", "A15")
def rules_for_domain_names(objects: Objects) -> None:
    policy = {
        "metadata": {"name": "names", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "nginx"}},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"domainNames": ["example.com"]}]},
                {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "UDP", "port": 53}]},
                {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 53}]},
            ],
        },
    }
    objects.lists["applicationnetworkpolicies"].append(policy)
    objects.absent.discard("applicationnetworkpolicies")
    endpoint = {
        "metadata": {"name": "names-abcde", "namespace": "default"},
        "spec": {
            **_endpoint(objects)["spec"],
            "policyRef": {"name": "names", "namespace": "default"},
            "ingress": [],
            "podIsolation": ["Egress"],
            "egress": [
                {"domainName": "example.com"},
                {
                    "cidr": "0.0.0.0/0",
                    "ports": [{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}],
                },
            ],
        },
    }
    objects.lists["policyendpoints"].append(endpoint)
    _maps_of_nobody(objects)


@objects("NPE113", "P23")
def blocks_of_the_other_family_only(objects: Objects) -> None:
    _policy(objects)["spec"]["ingress"] = [{"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}]
    _endpoint(objects)["spec"]["ingress"] = [{"cidr": "2001:db8::/32"}]
    _maps_of_nobody(objects)


def _egress(objects: Objects, rules: list[Json], entries: list[Json]) -> None:
    """An egress policy for the client, resolved."""
    pod = objects.one("pods", "accesstrue")
    selector = {"matchLabels": {"access": "true"}}
    metadata = {"name": "client", "namespace": "default"}
    spec = {"podSelector": selector, "policyTypes": ["Egress"], "egress": rules}
    objects.lists["networkpolicies"].append({"metadata": metadata, "spec": spec})
    listed = {
        "name": "accesstrue",
        "namespace": "default",
        "podIP": pod["status"]["podIP"],
        "hostIP": pod["status"]["hostIP"],
    }
    endpoint = {
        "policyRef": metadata,
        "podSelector": selector,
        "podSelectorEndpoints": [listed],
        "podIsolation": ["Egress"],
        "egress": entries,
    }
    objects.lists["policyendpoints"].append(
        {"metadata": {"name": "client-abcde", "namespace": "default"}, "spec": endpoint}
    )
    _maps_of_nobody(objects)


DNS_RULE: Json = {
    "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
DNS_ENTRY: Json = {
    "cidr": "10.100.0.10",
    "ports": [{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}],
}


@objects("NPE103", "P8 A9")
def egress_without_dns(objects: Objects) -> None:
    _egress(
        objects,
        [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}],
        [{"cidr": "10.9.0.0/16"}],
    )


@objects("NPE101", "P6 P7 A5")
def a_service_whose_selector_does_not_satisfy_the_peer(objects: Objects) -> None:
    objects.one("pods", NGINX)["metadata"]["labels"]["tier"] = "web"
    _egress(
        objects,
        [{"to": [{"podSelector": {"matchLabels": {"tier": "web"}}}]}, DNS_RULE],
        [{"cidr": NGINX_IP}, DNS_ENTRY],
    )


@objects("NPE101", "P7 A6")
def a_service_port_that_is_not_the_containers(objects: Objects) -> None:
    service = objects.one("services", "nginx")
    service["spec"]["ports"] = [{"name": "web", "port": 8080, "targetPort": 80, "protocol": "TCP"}]
    service["spec"]["ports"].insert(0, {"name": "old", "port": 80, "targetPort": 80, "protocol": "TCP"})
    ports = [{"protocol": "TCP", "port": 80}]
    address = service["spec"]["clusterIP"]
    _egress(
        objects,
        [{"to": [{"podSelector": {"matchLabels": {"app": "nginx"}}}], "ports": ports}, DNS_RULE],
        [{"cidr": NGINX_IP, "ports": ports}, {"cidr": address, "ports": ports}, DNS_ENTRY],
    )


@objects("NPE101", "P7 A7")
def a_named_target_port_that_is_another_one_on_an_ended_pod(objects: Objects) -> None:
    service = objects.one("services", "nginx")
    service["spec"]["ports"] = [{"name": "web", "port": 8080, "targetPort": "web", "protocol": "TCP"}]
    pod = objects.one("pods", NGINX)
    pod["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": 80, "protocol": "TCP"}]
    ended = copy.deepcopy(pod)
    ended["metadata"] |= {"name": "nginx-f8d9c6576-ended", "uid": "ended"}
    ended["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090
    ended["status"] |= {"phase": "Succeeded", "podIP": "172.31.98.78", "podIPs": [{"ip": "172.31.98.78"}]}
    objects.lists["pods"].append(ended)
    ports = [{"protocol": "TCP", "port": 80}]
    _egress(
        objects,
        [{"to": [{"podSelector": {"matchLabels": {"app": "nginx"}}}], "ports": ports}, DNS_RULE],
        [{"cidr": NGINX_IP, "ports": ports}, DNS_ENTRY],
    )


@objects("NPE104", "P8 A57")
def an_except_of_one_rule_denies_what_another_allows(objects: Objects) -> None:
    ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    _egress(
        objects,
        [
            {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16"]}}]},
            {"to": [{"ipBlock": {"cidr": "192.0.0.0/4"}}], "ports": ports},
        ],
        [{"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16"]}, {"cidr": "192.0.0.0/4", "ports": ports[::-1]}],
    )


@objects("NPE105", "P18 A55")
def more_ports_than_fit(objects: Objects) -> None:
    ports = [{"protocol": "TCP", "port": 1000 + n} for n in range(30)]
    _egress(
        objects,
        [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": ports}, DNS_RULE],
        [{"cidr": "10.9.0.0/16", "ports": ports}, DNS_ENTRY],
    )


@objects("NPE106", "P19 A59", "NPE605")
def one_block_written_in_two_ways(objects: Objects) -> None:
    objects.container("aws-eks-nodeagent")["image"] = "x/aws-network-policy-agent:v1.4.1-eksbuild.1"
    objects.container("aws-node")["image"] = "x/amazon-k8s-cni:v1.23.0-eksbuild.1"
    one, other = [{"protocol": "TCP", "port": 80}], [{"protocol": "TCP", "port": 443}]
    _egress(
        objects,
        [
            {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": one},
            {"to": [{"ipBlock": {"cidr": "10.9.1.1/16"}}], "ports": other},
            DNS_RULE,
        ],
        [{"cidr": "10.9.0.0/16", "ports": one}, {"cidr": "10.9.1.1/16", "ports": other}, DNS_ENTRY],
    )


@objects("NPE108", "P10 A25")
def two_pods_share_an_identifier_and_not_their_policies(objects: Objects) -> None:
    pod = objects.one("pods", "accessfalse")
    twin = {**pod, "metadata": {**pod["metadata"], "name": "nginx-f8d9c6576-zzzzz", "uid": "another"}}
    twin["status"] = {**pod["status"], "podIP": "172.31.98.77", "podIPs": [{"ip": "172.31.98.77"}]}
    objects.lists["pods"].append(twin)
    _maps_of_nobody(objects)


@objects("NPE108", "P10 A26", "NPE605")
def two_namespaces_share_an_identifier(objects: Objects) -> None:
    objects.container("aws-eks-nodeagent")["image"] = "x/aws-network-policy-agent:v1.3.7-eksbuild.1"
    objects.container("aws-node")["image"] = "x/amazon-k8s-cni:v1.22.3-eksbuild.1"
    pod = objects.one("pods", "accessfalse")
    name = {"name": "nginx-x", "namespace": "f8d9c6576-default", "uid": "another"}
    twin = {**pod, "metadata": {**pod["metadata"], **name}}
    twin["status"] = {**pod["status"], "podIP": "172.31.98.77", "podIPs": [{"ip": "172.31.98.77"}]}
    objects.lists["pods"].append(twin)
    objects.lists["namespaces"].append({"metadata": {"name": "f8d9c6576-default"}})
    _maps_of_nobody(objects)


@objects("NPE116", "P15 A44")
def strict_mode_without_policies(objects: Objects) -> None:
    objects.env("NETWORK_POLICY_ENFORCING_MODE", "strict")
    _maps_of_nobody(objects)


@objects("NPE117", "P13")
def a_policy_for_pods_on_fargate(objects: Objects) -> None:
    labels = objects.one("nodes", NODE)["metadata"].setdefault("labels", {})
    labels["eks.amazonaws.com/compute-type"] = "fargate"
    _maps_of_nobody(objects)


# ---- the configuration


@objects("NPE602", "P13 P28 A2", "NPE613")
def the_agent_is_switched_off(objects: Objects) -> None:
    objects.flag("enable-network-policy", "false")


@objects("NPE613", "P28", "NPE302", "NPE305")
def the_feature_was_switched_off_with_policies_in_place(objects: Objects) -> None:
    objects.flag("enable-network-policy", "false")
    objects.drop("networkpolicies")
    objects.drop("policyendpoints")


@objects("NPE603", "P13 P14 A4")
def the_crd_is_missing(objects: Objects) -> None:
    objects.absent.add("policyendpoints")
    _maps_of_nobody(objects)


@objects("NPE603", "P14 A4")
def the_crd_of_cluster_policies_is_missing(objects: Objects) -> None:
    objects.absent.add("clusterpolicyendpoints")


@objects("NPE604", "P13")
def kubernetes_is_too_old(objects: Objects) -> None:
    objects.lists["versions"] = [{"metadata": {"name": "kubernetes"}, "gitVersion": "v1.24.17-eks-1"}]


@objects("NPE605", "P5 P14 A33 A74")
def a_release_with_known_defects(objects: Objects) -> None:
    objects.container("aws-eks-nodeagent")["image"] = "x/aws-network-policy-agent:v1.3.0-eksbuild.1"
    objects.container("aws-node")["image"] = "x/amazon-k8s-cni:v1.21.0-eksbuild.1"
    _maps_of_nobody(objects)


@objects("NPE605", "P4 P5 A78 A80")
def a_release_that_forgets_replies_at_the_start(objects: Objects) -> None:
    objects.container("aws-eks-nodeagent")["image"] = "x/aws-network-policy-agent:v1.1.6-eksbuild.1"
    objects.container("aws-node")["image"] = "x/amazon-k8s-cni:v1.19.2-eksbuild.1"
    _maps_of_nobody(objects)


@objects("NPE606", "P14")
def the_agent_may_not_read_cluster_policy_endpoints(objects: Objects) -> None:
    role = objects.one("clusterroles", "aws-node")
    role["rules"] = [r for r in role["rules"] if "clusterpolicyendpoints" not in r["resources"]]


@objects("NPE607", "P14 P21 A49 A51")
def the_agent_does_not_run(objects: Objects) -> None:
    [agent] = [
        c for c in objects.one("pods", "aws-node")["status"]["containerStatuses"] if c["name"] == "aws-eks-nodeagent"
    ]
    agent |= {"ready": False, "restartCount": 12, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}


@objects("NPE608", "P21")
def the_agent_runs_out_of_memory(objects: Objects) -> None:
    [agent] = [
        c for c in objects.one("pods", "aws-node")["status"]["containerStatuses"] if c["name"] == "aws-eks-nodeagent"
    ]
    agent |= {"restartCount": 2, "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}


@objects("NPE609", "P13")
def the_bandwidth_plugin_is_on(objects: Objects) -> None:
    objects.env("ENABLE_BANDWIDTH_PLUGIN", "true")


@objects("NPE610", "A22")
def the_prefix_of_host_veths_is_another(objects: Objects) -> None:
    objects.env("AWS_VPC_K8S_CNI_VETHPREFIX", "veth")


@objects("NPE611", "P23 A70")
def ipv4_leaves_an_ipv6_cluster(objects: Objects) -> None:
    _egress(objects, [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], [{"cidr": "0.0.0.0/0"}])
    objects.flag("enable-ipv6", "true")
    objects.env("ENABLE_V4_EGRESS", "true")


@objects("NPE612", "P29")
def calico_is_still_there(objects: Objects) -> None:
    objects.lists["daemonsets"].append({"metadata": {"name": "calico-node", "namespace": "calico-system"}, "spec": {}})


@objects("NPE611", "P23")
def ipv6_leaves_an_ipv4_cluster(objects: Objects) -> None:
    _egress(objects, [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], [{"cidr": "0.0.0.0/0"}])
    objects.env("ENABLE_V6_EGRESS", "true")


@objects("NPE619", "P15")
def the_enforcing_mode_is_misspelt(objects: Objects) -> None:
    objects.env("NETWORK_POLICY_ENFORCING_MODE", "sstrict")


@objects("NPE117", "P13", "NPE614", "NPE605")
def a_cluster_policy_under_an_agent_that_knows_none(objects: Objects) -> None:
    objects.container("aws-eks-nodeagent")["image"] = "agent:v1.2.7"
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "nginx"}}}}
    policy = {"metadata": {"name": "deny"}, "spec": {"tier": "Admin", "priority": 10, "subject": subject}}
    objects.lists["clusternetworkpolicies"].append(policy)
    listed = objects.one("policyendpoints", "access-nginx")["spec"]["podSelectorEndpoints"]
    spec = {"policyRef": {"name": "deny"}, "tier": "Admin", "priority": 10, "podSelectorEndpoints": listed}
    objects.lists["clusterpolicyendpoints"].append({"metadata": {"name": "deny-abcde"}, "spec": spec})
    _maps_of_nobody(objects)


@objects("NPE117", "P13")
def a_policy_for_pods_on_hybrid_nodes(objects: Objects) -> None:
    for node in objects.lists["nodes"]:
        node["metadata"].setdefault("labels", {})["eks.amazonaws.com/compute-type"] = "hybrid"
    objects.nodes.clear()


@objects("NPE614", "P14")
def cni_and_agent_do_not_go_together(objects: Objects) -> None:
    objects.container("aws-node")["image"] = "x/amazon-k8s-cni:v1.22.4-eksbuild.1"


@objects("NPE616", "A42")
def pods_cannot_be_created(objects: Objects) -> None:
    pod = objects.one("pods", "accessfalse")
    twin = {**pod, "metadata": {**pod["metadata"], "name": "waiting", "uid": "another"}}
    twin["status"] = {"phase": "Pending", "hostIP": pod["status"]["hostIP"]}
    objects.lists["pods"].append(twin)
    objects.lists["events"].append(
        {
            "metadata": {"name": "waiting.1", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "waiting"},
            "reason": "FailedCreatePodSandBox",
            "message": 'plugin type="aws-cni" failed (add): add cmd: failed to setup network policy',
        }
    )
    _maps_of_nobody(objects)


@objects("NPE617", "P15")
def the_cni_may_not_annotate_pods(objects: Objects) -> None:
    objects.env("ANNOTATE_POD_IP", "true")


@objects("NPE618", "P13")
def the_kernel_is_too_old(objects: Objects) -> None:
    info = objects.one("nodes", NODE)["status"].setdefault("nodeInfo", {})
    info["kernelVersion"] = "4.14.355-275.572.amzn2.x86_64"


# ---- in the document of a node


@objects("NPE311", "P12 P3")
def the_agent_logs_that_it_could_not_write(objects: Objects) -> None:
    line = "Ingress Pod State Map update failed: unable to update map: invalid argument"
    objects.nodes[NODE]["agent"]["errors"] = [{"line": line, "count": 3, "file": "network-policy-agent.log"}]


@objects("NPE412", "P27 A79")
def a_map_of_an_unknown_layout(objects: Objects) -> None:
    for row in objects.nodes[NODE]["maps"]:
        if (row["type"], row["value_size"]) == (11, 288):
            row |= {"value_size": 576, "contents": None}


@objects("NPE502", "P5 A75")
def the_conntrack_map_is_nearly_full(objects: Objects) -> None:
    for row in objects.nodes[NODE]["maps"]:
        if row["type"] == 9 and row["contents"] is not None:
            row["contents"]["total"] = row["max_entries"] * 95 // 100
