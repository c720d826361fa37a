"""The whole lab in both families: objects by kubectl, and packets that agree with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import article
from tests.lab.article import NGINX, NODE
from tests.lab.cluster import LabCluster
from tests.lab.require import require_lab, require_tools

from .helpers import connects


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[LabCluster]:
    require_lab()
    require_tools("kubectl", "busybox", "nft", "wget")
    generation, family = request.param
    with article.cluster(generation=generation, family=family) as made:
        article.build(made)
        yield made


def wget(lab: LabCluster, pod: str, host: str) -> int:
    arguments = ("wget", "-q", "-T", "1", "-t", "1", "-O", "-", f"http://{host}/")
    done = lab.kubectl("exec", pod, "--", *arguments, check=False)
    assert (done.stdout == "welcome\n") == (done.returncode == 0)
    return done.returncode


@pytest.mark.parametrize(
    "lab", [("1.4.1", 4), ("1.4.1", 6), ("1.4.2", 6), ("1.2.7", 6), ("1.1.6", 6), ("1.0.4", 6), ("1.1.6", 4)],
    indirect=True, ids=lambda p: f"{p[0]}-v{p[1]}",
)  # fmt: skip
def test_article(lab: LabCluster) -> None:
    family, version = lab.family, f"IPv{lab.family}"
    addresses = article.addresses(family)
    nginx = lab.server.get("Pod", NGINX)["status"]
    node = article.NODE_IP if family == 4 else article.NODE_IP6
    assert (nginx["podIP"], nginx["podIPs"]) == (addresses["nginx"], [{"ip": addresses["nginx"]}])
    assert (nginx["hostIP"], nginx["hostIPs"]) == (node, [{"ip": node}])
    assert lab.server.get("Node", NODE)["status"]["addresses"][0] == {"type": "InternalIP", "address": node}
    spec = lab.server.get("Service", "nginx")["spec"]
    assert (spec["ipFamilies"], spec["clusterIPs"]) == ([version], [spec["clusterIP"]])
    assert spec["clusterIP"].startswith("10.100." if family == 4 else "fd30:1c53:5f8a::")
    (slice_,) = lab.server.list("EndpointSlice", "default")
    assert slice_["addressType"] == version
    (policy,) = lab.server.list("PolicyEndpoint")
    assert policy["spec"]["ingress"] == [{"cidr": addresses["accesstrue"]}]
    assert policy["spec"]["podSelectorEndpoints"][0] | {"name": ""} == {
        "hostIP": node, "podIP": addresses["nginx"], "name": "", "namespace": "default",
    }  # fmt: skip
    for host in ("nginx", f"[{addresses['nginx']}]" if family == 6 else addresses["nginx"]):
        assert wget(lab, "accesstrue", host) == 0
        assert wget(lab, "accessfalse", host) != 0
    # As a kubelet's probe.
    assert connects(lab.nodes[NODE], addresses["nginx"], 80) == "open"
    lab.kubectl("delete", "networkpolicy", "access-nginx")
    lab.settle()
    assert wget(lab, "accessfalse", "nginx") == 0
    lab.server.settle()
    assert lab.server.errors == []


def test_veths_and_further_interfaces_of_chosen_pods() -> None:
    require_lab()
    require_tools("kubectl")
    second = "2001:db8:1f:9600::77"
    with LabCluster(family=6, veth_prefixes={"sg": "vlan"}, links={"multi": [second]}) as lab:
        lab.add_node(NODE, article.NODE_IP6)
        for name in ("sg-1", "multi-1", "plain-1"):
            lab.kubectl("run", name, "--image=busybox", "--", "sleep", "infinity")
            lab.server.wait_running(name)
        veths = {name: str(lab.sandbox("default", name).veth)[:3] for name in ("sg-1", "multi-1", "plain-1")}
        assert veths == {"sg-1": "vla", "multi-1": "eni", "plain-1": "eni"}
        assert [len(lab.sandbox("default", name).interfaces) for name in veths] == [1, 2, 1]
        assert lab.sandbox("default", "multi-1").addresses[1] == second
