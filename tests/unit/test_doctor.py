"""`doctor`: each topic ok, failed and not told, on the cluster of the shipped bundle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubectl_netpol import bundle, doctoring
from kubectl_netpol.diagnose.doctor import NAMES, lines
from kubectl_netpol.diagnose.topics import TOPICS
from kubectl_netpol.model.doctor import Line, Probe, State
from kubectl_netpol.report import doctor as report
from tests.faults.world import Objects

Json = dict[str, Any]
BUNDLE = Path(bundle.__file__).parent / "examples" / "article.tar.gz"
NODE = "ip-172-31-103-129.ap-northeast-1.compute.internal"
DOCUMENT: Json = {"errors": [], "pins": [{}, {}]}
GOOD = Probe(NODE, "image:1", 2.04, document=DOCUMENT)


def healthy() -> Objects:
    found = Objects.of(bundle.read(str(BUNDLE)))
    found.lists["accessreviews"] = [review("list", "pods"), review("create", "pods", "kube-system")]
    found.unread.pop("accessreviews", None)
    return found


def review(verb: str, resource: str, namespace: str = "", allowed: bool = True, **more: str) -> Json:
    spec = {"verb": verb, "resource": resource, **({"namespace": namespace} if namespace else {}), **more}
    name = f"{verb} {resource}{f' in {namespace}' if namespace else ''}"
    return {"metadata": {"name": name}, "spec": spec, "status": {"allowed": allowed}}


def told(found: Objects, probe: Probe | None = GOOD, namespace: str = "kube-system", live: bool = True) -> list[Line]:
    return list(lines(found.snapshot(), namespace, probe, live=live))


def of(topic: str, found: list[Line]) -> Line:
    return next(one for one in found if one.topic == topic)


def test_a_healthy_cluster_is_ok() -> None:
    found = told(healthy())
    assert {one.state for one in found} == {State.OK}, [one for one in found if one.state is not State.OK]
    assert tuple(dict.fromkeys(one.topic for one in found)) == NAMES
    assert report.summary(found) == f"all {len(NAMES)} topics are ok."
    assert doctoring.exit_code(found) == 0
    assert of("debug pod", found).text == f"ran on node {NODE} after 2.0 s, with image image:1; it is removed again"
    assert of("reading", found).text.endswith(f"and 2 pins of node {NODE}")


def node(objects: Objects) -> Json:
    found: Json = objects.lists["nodes"][0]
    return found


def agent(objects: Objects) -> Json:
    pod = next(p for p in objects.lists["pods"] if p["metadata"]["namespace"] == "kube-system")
    found: Json = next(s for s in pod["status"]["containerStatuses"] if s["name"] == "aws-eks-nodeagent")
    return found


def _event(objects: Objects) -> None:
    waiting = {**objects.one("pods", "accesstrue"), "status": {"phase": "Pending"}}
    objects.drop("pods", "accesstrue")
    objects.lists["pods"].append(waiting)
    about = {"namespace": "default", "name": "accesstrue"}
    message = "add cmd: failed to setup network policy"
    event = {"metadata": {"name": "e"}, "involvedObject": about, "message": message}
    objects.lists["events"].append(event)


def _fargate(objects: Objects) -> None:
    node(objects)["metadata"]["labels"]["eks.amazonaws.com/compute-type"] = "fargate"


def _set(place: Json, key: str, value: Any) -> None:
    place[key] = value


def _version(objects: Objects, agent_tag: str, cni_tag: str) -> None:
    for name, tag in (("aws-eks-nodeagent", agent_tag), ("aws-node", cni_tag)):
        objects.container(name)["image"] = f"{name}:{tag}"


FAILED: list[tuple[str, str, Callable[[Objects], None], str]] = [
    (
        "Kubernetes",
        "1.24.3",
        lambda o: _set(o.lists["versions"][0], "gitVersion", "v1.24.3"),
        "aws eks update-cluster-version",
    ),
    ("VPC CNI", "1.13.4", lambda o: _version(o, "v1.0.1", "v1.13.4"), "aws eks update-addon"),
    ("VPC CNI", "is not installed", lambda o: o.drop("daemonsets"), "aws eks create-addon"),
    ("CNI and agent", "do not go together", lambda o: _version(o, "v1.4.0", "v1.23.1"), "aws eks update-addon"),
    (
        "known defects",
        "cleaner of the conntrack map",
        lambda o: _version(o, "v1.4.1", "v1.23.0"),
        "aws eks update-addon",
    ),
    (
        "add-on flag",
        "--enable-network-policy=false",
        lambda o: o.flag("enable-network-policy", "false"),
        """aws eks update-addon --cluster-name CLUSTER --addon-name vpc-cni --configuration-values """
        """'{"enableNetworkPolicy":"true"}'""",
    ),
    (
        "controller",
        'is off (enable-network-policy-controller: "false")',
        lambda o: _set(o.one("configmaps", "amazon")["data"], "enable-network-policy-controller", "false"),
        "kubectl -n kube-system patch configmap amazon-vpc-cni",
    ),
    ("CRDs", "clusterpolicyendpoints", lambda o: o.absent.add("clusterpolicyendpoints"), "kubectl apply -f"),
    (
        "rights of aws-node",
        "lacks the right to get, list, watch policyendpoints",
        lambda o: _set(o.one("clusterroles", "aws-node"), "rules", []),
        "aws eks update-addon",
    ),
    ("agent running", "(CrashLoopBackOff)", lambda o: agent(o).update(CRASHING), "kubectl -n kube-system logs"),
    ("agent restarts", "restarted 12 times", lambda o: _set(agent(o), "restartCount", 12), "kubectl -n kube-system"),
    (
        "enforcing mode",
        "strict, and no policy selects default/accessfalse",
        lambda o: o.env("NETWORK_POLICY_ENFORCING_MODE", "strict"),
        "kubectl -n default get networkpolicies",
    ),
    ("bandwidth plugin", "takes the tc hooks", lambda o: o.env("ENABLE_BANDWIDTH_PLUGIN", "true"), "kubectl -n kube"),
    ("veth prefix", "called cali", lambda o: o.env("AWS_VPC_K8S_CNI_VETHPREFIX", "cali"), "kubectl -n kube-system set"),
    (
        "other IP family",
        "IPv4 way out",
        lambda o: (o.env("ENABLE_V4_EGRESS", "true"), o.flag("enable-ipv6", "true"))[0],
        "kubectl -n",
    ),
    (
        "other engines",
        "calico-system/calico-node",
        lambda o: o.lists["daemonsets"].append({"metadata": {"name": "calico-node", "namespace": "calico-system"}}),
        "kubectl -n calico-system get daemonset calico-node",
    ),
    ("node kinds", "on Fargate, where nothing enforces them", _fargate, "kubectl get node"),
    (
        "node kernels",
        "has kernel 5.4.0",
        lambda o: _set(node(o)["status"]["nodeInfo"], "kernelVersion", "5.4.0-1.amzn2"),
        "aws eks update-nodegroup-version",
    ),
    ("pod creation", "default/accesstrue cannot be created", _event, "kubectl -n kube-system get pods"),
    (
        "rights: API",
        "not allowed: list daemonsets",
        lambda o: o.lists["accessreviews"].append(review("list", "daemonsets", allowed=False, group="apps")),
        "kubectl auth can-i list daemonsets.apps",
    ),
    (
        "rights: debug pod",
        "not allowed: create pods in x",
        lambda o: o.lists["accessreviews"].append(review("create", "pods", "x", False, subresource="exec")),
        "kubectl auth can-i create pods --subresource=exec -n x",
    ),
    (
        "PodSecurity",
        'enforces "restricted"',
        lambda o: _set(o.one("namespaces", "kube-system")["metadata"]["labels"], ENFORCE, "restricted"),
        "kubectl netpol-ebpf doctor --debug-namespace",
    ),
    ("PodSecurity", "does not exist", lambda o: o.drop("namespaces", "kube-system"), "kubectl netpol-ebpf doctor"),
]
MODE = "NETWORK_POLICY_ENFORCING_MODE"
FAILED += [
    ("enforcing mode", 'is "lax", neither', lambda o: o.env(MODE, "lax"), "kubectl -n kube-system set env"),
    ("enforcing mode", "is not set: the CNI", lambda o: o.env(MODE, ""), "kubectl -n kube-system set env"),
    (
        "other IP family",
        "IPv4 way out",
        lambda o: o.flag("enable-ipv6", "true"),
        "kubectl -n kube-system set env daemonset aws-node ENABLE_V4_EGRESS=false",
    ),
    (
        "other IP family",
        "IPv6 way out (ENABLE_V6_EGRESS)",
        lambda o: o.env("ENABLE_V6_EGRESS", "true"),
        "kubectl -n kube-system set env daemonset aws-node ENABLE_V6_EGRESS=false",
    ),
]
ENFORCE = "pod-security.kubernetes.io/enforce"
CRASHING = {"ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}


@pytest.mark.parametrize(("topic", "text", "fault", "command"), FAILED, ids=[f"{r[0]}-{r[1][:12]}" for r in FAILED])
def test_a_topic_that_failed(topic: str, text: str, fault: Callable[[Objects], None], command: str) -> None:
    objects = healthy()
    fault(objects)
    found = told(objects)
    failed = [one for one in found if one.topic == topic and one.state is State.FAILED]
    assert failed and text in failed[0].text, [one.text for one in found if one.topic == topic]
    assert failed[0].remedies and failed[0].remedies[0].command.startswith(command)
    assert all(remedy.effect for one in failed for remedy in one.remedies)
    assert doctoring.exit_code(found) == 1
    printed = report.as_text(found, (), False, True)
    assert f"try: {command}" in printed and "side effect: " in printed


UNKNOWN: list[tuple[str, str, str]] = [
    ("Kubernetes", "versions", ""),
    ("VPC CNI", "daemonsets", ""),
    ("CNI and agent", "daemonsets", ""),
    ("known defects", "daemonsets", ""),
    ("add-on flag", "daemonsets", ""),
    ("controller", "configmaps", ""),
    ("CRDs", "clusterpolicyendpoints", ""),
    ("rights of aws-node", "clusterroles", ""),
    ("agent running", "pods", ""),
    ("agent restarts", "nodes", ""),
    ("enforcing mode", "daemonsets", ""),
    ("bandwidth plugin", "daemonsets", ""),
    ("veth prefix", "daemonsets", ""),
    ("other IP family", "daemonsets", ""),
    ("other engines", "daemonsets", ""),
    ("node kinds", "nodes", ""),
    ("node kernels", "nodes", ""),
    ("pod creation", "events", ""),
    ("flow logs", "daemonsets", ""),
    ("rights: API", "accessreviews", ""),
    ("rights: debug pod", "accessreviews", ""),
    ("PodSecurity", "namespaces", ""),
]


@pytest.mark.parametrize(("topic", "kind", "_"), UNKNOWN)
def test_a_topic_whose_objects_were_not_read(topic: str, kind: str, _: str) -> None:
    objects = healthy()
    objects.lists[kind], objects.unread[kind] = [], "forbidden by the lab"
    found = told(objects)
    [one] = [line for line in found if line.topic == topic]
    assert (one.state, one.remedies) == (State.UNKNOWN, ()), one
    assert "forbidden by the lab" in one.text
    assert doctoring.exit_code(found) != 0


def test_every_topic_has_both_cases() -> None:
    probed = {"debug pod", "reading"}
    assert {topic for topic, *_ in UNKNOWN} == set(NAMES) - probed
    # Without flow logs nothing is enforced worse.
    assert {topic for topic, *_ in FAILED} == set(NAMES) - probed - {"flow logs"}


OF_AWS_NODE = [topic.name for topic in TOPICS if "daemonsets" in topic.needs and not topic.all_daemonsets]


@pytest.mark.parametrize("topic", OF_AWS_NODE)
def test_without_the_daemonset_nothing_is_said_to_be_fine(topic: str) -> None:
    objects = healthy()
    objects.drop("daemonsets")
    one = of(topic, told(objects))
    assert one.state is (State.FAILED if topic in ("VPC CNI", "agent running") else State.UNKNOWN)


# ---- what was read in part is not shown as fine


def _node_without_pods(objects: Objects) -> None:
    other = copy.deepcopy(node(objects))
    other["metadata"]["name"] = "other"
    other["status"]["nodeInfo"]["kernelVersion"] = "4.14.355"
    objects.lists["nodes"].append(other)


def _silent(objects: Objects) -> None:
    pod = next(p for p in objects.lists["pods"] if p["metadata"]["namespace"] == "kube-system")
    del pod["status"]["containerStatuses"]


def _unread(kind: str, *more: Callable[[Objects], None]) -> Callable[[Objects], None]:
    def fault(objects: Objects) -> None:
        for one in more:
            one(objects)
        objects.lists[kind], objects.unread[kind] = [], "forbidden by the lab"

    return fault


PARTLY: list[tuple[str, str, Callable[[Objects], None]]] = [
    ("agent running", "does not say whether its container aws-eks-nodeagent runs", _silent),
    ("agent restarts", "does not say whether its container aws-eks-nodeagent runs", _silent),
    (
        "CRDs",
        "whether the agent needs them is not known: forbidden by the lab",
        _unread("daemonsets", lambda o: o.absent.add("clusterpolicyendpoints")),
    ),
    (
        "enforcing mode",
        "strict, and whether policies select all pods is not known: clusternetworkpolicies: forbidden",
        _unread("clusternetworkpolicies", lambda o: o.env(MODE, "strict"), lambda o: o.drop("pods", "access")),
    ),
    ("node kinds", "whether policies select pods where nothing enforces them", _unread("networkpolicies", _fargate)),
    (
        "node kernels",
        '"new and shiny" is no release of a kernel',
        lambda o: _set(node(o)["status"]["nodeInfo"], "kernelVersion", "new and shiny"),
    ),
    (
        "rights of aws-node",
        "it may not get, list, watch clusterpolicyendpoints, and the tags of images",
        lambda o: (o.one("clusterroles", "aws-node")["rules"].pop(), _version(o, "edge", "v1.23.1"))[1],
    ),
    ("rights: API", "was asked for none", lambda o: o.lists["accessreviews"].clear()),
]


@pytest.mark.parametrize(("topic", "text", "fault"), PARTLY, ids=[row[0] for row in PARTLY])
def test_what_was_read_in_part_is_not_fine(topic: str, text: str, fault: Callable[[Objects], None]) -> None:
    objects = healthy()
    fault(objects)
    found = [one for one in told(objects) if one.topic == topic]
    assert found[0].state is State.UNKNOWN and text in found[0].text, found


def test_a_node_without_pods_has_a_kernel_too() -> None:
    objects = healthy()
    _node_without_pods(objects)
    [one] = [line for line in told(objects) if line.topic == "node kernels"]
    assert one.state is State.FAILED and "node other has kernel 4.14.355" in one.text


def test_kernels_are_told_where_the_agent_cannot_be() -> None:
    """An old kernel is one whatever is known of the DaemonSet and the pods."""
    objects = healthy()
    node(objects)["status"]["nodeInfo"]["kernelVersion"] = "4.14.355"
    for kind in ("pods", "daemonsets"):
        objects.lists[kind], objects.unread[kind] = [], "forbidden by the lab"
    assert of("node kernels", told(objects)).state is State.FAILED


def test_who_may_get_aws_node_alone_learns_its_settings() -> None:
    """docs/rbac.md: listing DaemonSets is needed for other engines only."""
    objects = healthy()
    objects.unread["daemonsets"] = "only kube-system/aws-node was read: forbidden by the lab"
    found = told(objects)
    assert {one.topic for one in found if one.state is not State.OK} == {"other engines"}
    assert of("other engines", found).state is State.UNKNOWN


def test_rights_and_crds_are_told_before_the_agent_is_switched_on() -> None:
    objects = healthy()
    objects.flag("enable-network-policy", "false")
    objects.one("clusterroles", "aws-node")["rules"] = []
    objects.absent.add("clusterpolicyendpoints")
    found = told(objects)
    assert of("rights of aws-node", found).state is of("CRDs", found).state is State.FAILED


def test_the_mode_of_releases_that_know_none_and_of_those_that_need_none() -> None:
    for cni, agent, text in (
        ("v1.16.0", "v1.0.7", "standard: a pod"),
        ("v1.19.2", "v1.1.6", "standard, as it is not set: a pod"),
    ):
        objects = healthy()
        _version(objects, agent, cni)
        objects.env(MODE, "")
        one = of("enforcing mode", told(objects))
        assert one.state is State.OK and one.text.startswith(text)


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "text"),
    [
        ("list", "pods", "", "the answers of all verbs have gaps"),
        ("list", "policyendpoints", "", "the answers of explain, check, drops and capture have gaps"),
        ("list", "daemonsets", "", "check and capture cannot tell all of the CNI's settings"),
        ("create", "pods", "kube-system", "maps, conntrack and drops need them, and explain and check go with --api"),
    ],
)
def test_which_verbs_lack_what(verb: str, resource: str, namespace: str, text: str) -> None:
    objects = healthy()
    objects.lists["accessreviews"].append(review(verb, resource, namespace, allowed=False))
    found = [one for one in told(objects) if one.topic.startswith("rights:") and one.state is State.FAILED]
    assert len(found) == 1 and text in found[0].text


# ---- nothing in a cluster or bundle ends it


WEIRD: list[Any] = [None, 5, -1, "x", "\x1b[31m", [], {}, [1], ["a"], {"a": 1}, True, [None], [{}], 1e99]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@pytest.mark.parametrize("kind", sorted(healthy().lists))
def test_objects_of_any_shape_are_answered(kind: str) -> None:
    """Each field of one object of each kind, with each kind of value, where all checks look."""
    base = healthy()
    base.env(MODE, "strict")
    _event(base)
    base.lists["nodes"].append({**copy.deepcopy(node(base)), "metadata": {"name": "f", "labels": FARGATE}})
    base.lists["pods"].append(
        {"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "f"}, "status": {"podIP": "10.0.0.1"}}
    )
    for path in [place for one in base.lists[kind][:1] for place in places(one)]:
        for value in WEIRD:
            objects = copy.copy(base)
            objects.lists = {**base.lists, kind: copy.deepcopy(base.lists[kind])}
            place = objects.lists[kind][0]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            found = told(objects)
            assert {one.topic for one in found} == set(NAMES)
            assert "\x1b" not in report.as_text(found, (), True, True)


FARGATE = {"eks.amazonaws.com/compute-type": "fargate"}


def test_an_object_of_another_shape_makes_its_topics_unknown() -> None:
    objects = healthy()
    objects.one("configmaps", "amazon")["data"] = "true"
    one = of("controller", told(objects))
    assert one.state is State.UNKNOWN
    assert one.text == "configmaps: amazon-vpc-cni does not have the shape of its kind"


def test_a_fault_of_all_nodes_is_told_of_some() -> None:
    objects = healthy()
    for number in range(9):
        other = copy.deepcopy(node(objects))
        other["metadata"]["name"] = f"node-{number}"
        other["status"]["nodeInfo"]["kernelVersion"] = "4.14.355"
        objects.lists["nodes"].append(other)
    found = told(objects)
    assert "node kernels" in report.as_text(found, (), False, True)
    assert report.as_text(found, (), False, True).count("has kernel 4.14") == 6
    assert "6 more like it; -o wide tells all" in report.as_text(found, (), False, True)
    assert report.as_text(found, (), True, True).count("has kernel 4.14") == 18
    assert report.summary(found) == f"1 of {len(NAMES)} topics failed."


def test_auto_mode_has_no_daemonset() -> None:
    objects = healthy()
    objects.drop("daemonsets")
    node(objects)["metadata"]["labels"]["eks.amazonaws.com/compute-type"] = "auto"
    found = told(objects)
    assert "EKS Auto Mode: CNI and agent are parts of the node" in of("VPC CNI", found).text
    assert of("VPC CNI", found).state is State.OK
    # What is read from the DaemonSet has no line: there is nothing to tell.
    topics = {one.topic for one in found}
    assert not topics & {"enforcing mode", "add-on flag", "known defects", "veth prefix"}
    assert {"Kubernetes", "controller", "node kinds", "pod creation", "other engines"} <= topics
    assert doctoring.exit_code(found) == 0


def test_a_value_that_comes_from_another_object_is_not_known() -> None:
    objects = healthy()
    env = objects.container("aws-node")["env"]
    for name in ("ENABLE_BANDWIDTH_PLUGIN", "AWS_VPC_K8S_CNI_VETHPREFIX", "ENABLE_V4_EGRESS"):
        env.append({"name": name, "valueFrom": {}})
    found = told(objects)
    for topic in ("bandwidth plugin", "veth prefix", "other IP family"):
        assert of(topic, found).state is State.UNKNOWN
    assert doctoring.exit_code(found) == 3
    assert report.summary(found) == f"none of {len(NAMES)} topics failed, and 3 could not be told."


def test_flow_logs_that_are_off_are_no_fault() -> None:
    objects = healthy()
    objects.flag("enable-policy-event-logs", "false")
    one = of("flow logs", told(objects))
    assert one.state is State.OK and "the agent logs no flows" in one.text


def test_nothing_is_enforced_is_told_before_there_is_a_policy() -> None:
    objects = healthy()
    for kind in ("networkpolicies", "policyendpoints"):
        objects.lists[kind] = []
    objects.flag("enable-network-policy", "false")
    objects.lists["configmaps"] = []
    found = told(objects)
    assert of("add-on flag", found).state is of("controller", found).state is State.FAILED


# ---- the debug pod


def test_a_debug_pod_that_does_not_start() -> None:
    probe = Probe(NODE, "image:1", error="the image image:1 cannot be pulled", hint="use a mirror with --image")
    found = told(healthy(), probe)
    one = of("debug pod", found)
    assert (one.state, one.text) == (State.FAILED, "the image image:1 cannot be pulled (use a mirror with --image)")
    assert [r.command for r in one.remedies] == [f"kubectl netpol-ebpf doctor --node {NODE} --image IMAGE"]
    assert "reading" not in {line.topic for line in found}


@pytest.mark.parametrize(
    ("node", "hint", "commands"),
    [
        (NODE, "choose one with --debug-namespace", [f"netpol-ebpf doctor --node {NODE} --debug-namespace NAMESPACE"]),
        (NODE, "needs a longer --start-timeout", [f"netpol-ebpf doctor --node {NODE} --start-timeout 180"]),
        (
            NODE,
            "with --image, or read it otherwise: --via tools",
            [f"netpol-ebpf doctor --node {NODE} --image IMAGE", f"netpol-ebpf doctor --node {NODE} --via tools"],
        ),
        (NODE, "`kubectl auth can-i create pods -n x` shows it", ["auth can-i create pods -n x"]),
        (NODE, "", [f"describe node {NODE}"]),
        ("", "", ["get nodes"]),
    ],
)
def test_what_mends_a_debug_pod_is_what_its_error_names(node: str, hint: str, commands: list[str]) -> None:
    one = of("debug pod", told(healthy(), Probe(node, "i", error="no", hint=hint)))
    assert [r.command for r in one.remedies] == [f"kubectl {command}" for command in commands]


def test_a_debug_pod_that_was_not_tried() -> None:
    """Which node to take could not be told: that is not a failure of debug pods."""
    found = told(healthy(), Probe("", "i", error="nodes: forbidden", tried=False))
    one = of("debug pod", found)
    assert (one.state, one.text) == (State.UNKNOWN, "nodes: forbidden; --node names a node to try")
    assert doctoring.exit_code(found) == 3


def test_a_reading_that_fails() -> None:
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, error="the image has no python3")))
    assert (one.state, one.text) == (State.FAILED, "the image has no python3")
    refused = {**DOCUMENT, "errors": [{"what": "programs", "error": "EPERM: refused"}, {"what": "maps", "error": "x"}]}
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, document=refused)))
    assert one.state is State.FAILED
    assert one.text == "part of it was refused: programs: EPERM: refused and 1 more"
    bottlerocket = healthy()
    node(bottlerocket)["status"]["nodeInfo"]["osImage"] = "Bottlerocket OS 1.20"
    one = of("reading", told(bottlerocket, Probe(NODE, "i", 1.0, document=refused)))
    assert "--selinux-type super_t" in one.text and one.remedies[0].command.endswith(
        f"--node {NODE} --selinux-type super_t"
    )


def test_what_a_minimal_pod_was_refused_has_the_other_profile_as_remedy() -> None:
    refused = {**DOCUMENT, "errors": [{"what": "tcx", "error": "EPERM: refused"}]}
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, minimal=True, document=refused)))
    assert one.state is State.FAILED and one.remedies[0].command.endswith("--debug-profile sysadmin")


def test_api_only_does_not_miss_rights_for_a_debug_pod() -> None:
    topics = {one.topic for one in lines(healthy().snapshot(), "kube-system", None, api_only=True)}
    assert topics == set(NAMES) - {"debug pod", "reading", "rights: debug pod"}


def test_what_the_tools_cannot_see_is_said_and_no_fault() -> None:
    tcx = {"what": "tcx", "error": "tc does not show programs that are attached by tcx"}
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, document={**DOCUMENT, "via": "tools", "errors": [tcx]})))
    assert one.state is State.OK and "tcx is not seen with --via tools" in one.text
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, document={**DOCUMENT, "errors": [tcx]})))
    assert (one.state, one.text.partition(":")[0]) == (State.FAILED, "part of it could not be read")
    pins = {"what": "pins", "error": "no bpffs"}
    document = {**DOCUMENT, "via": "tools", "errors": [tcx, pins]}
    one = of("reading", told(healthy(), Probe(NODE, "i", 1.0, document=document)))
    assert one.state is State.FAILED and one.remedies[0].command.endswith("--via python")


def test_without_a_debug_pod_and_of_a_bundle() -> None:
    topics = {one.topic for one in told(healthy(), None)}
    assert topics == set(NAMES) - {"debug pod", "reading"}
    topics = {one.topic for one in told(healthy(), None, live=False)}
    assert topics == set(NAMES) - {"debug pod", "reading", "rights: API", "rights: debug pod"}


def test_the_forms_are_clean_and_complete() -> None:
    objects = healthy()
    objects.container("aws-node")["image"] = "cni:\x1b[31mred"
    found = told(objects)
    for wide in (False, True):
        assert "\x1b" not in report.as_text(found, ["a note"], wide, True)
    data = report.as_data(found, ["a note"])
    assert [one["topic"] for one in data["topics"]] == [one.topic for one in found]
    assert sum(data["counts"].values()) == len({(one.topic, one.state) for one in found})
    assert "\x1b" not in str(data)
    assert "READ FROM" in report.as_text(found, (), True, True).splitlines()[2]
    assert "TOPIC" not in report.as_text(found, (), True, False)
