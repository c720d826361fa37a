"""The topics of `doctor` about the cluster: which findings are about each, and what is so where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.diagnose import findings
from kubectl_netpol.diagnose.checks import config, intent
from kubectl_netpol.diagnose.checks.base import Scope
from kubectl_netpol.model.doctor import Line, State
from kubectl_netpol.model.finding import Finding, Kind, Remedy, Severity
from kubectl_netpol.policy import cni as settings
from kubectl_netpol.policy.nodes import AUTO_MODE, kind_of
from kubectl_netpol.policy.world import name_of

Json = dict[str, Any]

DAEMONSET = config.DAEMONSET
SHOWN = 4


@dataclass(frozen=True)
class Topic:
    name: str
    source: str
    kinds: tuple[Kind, ...]
    needs: tuple[str, ...]
    """Collections without which it cannot be told."""
    fine: Callable[[Scope], Line | str]
    """What is so where nothing is wrong; a Line where it is not known, or wrong in a way that is no finding."""
    takes: Callable[[Finding], bool] = lambda _: True
    """Of the findings of ``kinds`` those that are about this topic."""


def of_topic(topic: Topic, scope: Scope, found: Iterable[Finding]) -> Iterator[Line]:
    mine = [one for one in found if one.kind in topic.kinds and topic.takes(one)]
    failed = [one for one in mine if one.severity is not Severity.INFO]
    for one in failed:
        yield Line(topic.name, State.FAILED, one.title, topic.source, one.remedies, one)
    if failed:
        return
    why = _unread(topic, scope)
    if why:
        yield Line(topic.name, State.UNKNOWN, why, topic.source)
        return
    if mine:
        # As it is meant to be, and worth a word.
        yield Line(topic.name, State.OK, mine[0].title, topic.source, (), mine[0])
        return
    told = topic.fine(scope)
    yield told if isinstance(told, Line) else Line(topic.name, State.OK, told, topic.source)


def _unread(topic: Topic, scope: Scope) -> str:
    snapshot = scope.world.snapshot
    reasons = (f"{kind}: {one.reason}" for kind in topic.needs if (one := snapshot.get(kind)).reason)
    why = "; ".join(reasons)
    if why or "daemonsets" not in topic.needs or scope.cni.known or topic is _INSTALLED:
        return why
    return f"there is no {DAEMONSET}: how the agent is set up cannot be read"


def unknown(topic: str, source: str, text: str) -> Line:
    """It could not be told."""
    return Line(topic, State.UNKNOWN, text, source)


# ---- the CNI and its agent


def _kubernetes(scope: Scope) -> Line | str:
    version = settings.kubernetes_version(scope.world)
    if version is None:
        return unknown("Kubernetes", "/version", "the server's version is in a form that is not known")
    return f"{version}, and network policies need {settings.FIRST_KUBERNETES} or newer"


def _installed(scope: Scope) -> Line | str:
    cni, nodes = scope.cni, list(scope.world.nodes.values())
    if not cni.known and nodes and all(kind_of(node) is AUTO_MODE for node in nodes):
        return "all nodes are EKS Auto Mode: CNI and agent are parts of the node"
    if not cni.known:
        add = Remedy(
            "aws eks create-addon --cluster-name CLUSTER --addon-name vpc-cni "
            """--configuration-values '{"enableNetworkPolicy":"true"}'""",
            "installs the VPC CNI: pods of another CNI plugin have to be replaced",
        )
        text = "the VPC CNI is not installed: nothing here enforces policies by its agent"
        return Line("VPC CNI", State.FAILED, text, DAEMONSET, (add,))
    if cni.cni is None:
        return unknown("VPC CNI", DAEMONSET, f"the tag of image {cni.cni_image or '(none)'} is no release")
    return f"{cni.cni}, and network policies need {settings.FIRST_WITH_POLICIES} or newer"


def _defects(scope: Scope) -> Line | str:
    cni = scope.cni
    if cni.cni is None or cni.agent is None:
        return unknown("known defects", DAEMONSET, _no_release(scope))
    return f"none are known of VPC CNI {cni.cni} with agent {cni.agent}"


def _pair(scope: Scope) -> Line | str:
    cni = scope.cni
    if cni.cni is None or cni.agent is None:
        return unknown("CNI and agent", DAEMONSET, _no_release(scope))
    expected = settings.EXPECTED_AGENT.get(str(cni.cni))
    if expected is None or str(expected) == str(cni.agent):
        return f"VPC CNI {cni.cni} and agent {cni.agent} go together"
    return f"VPC CNI {cni.cni} comes with agent {expected}; agent {cni.agent} talks to it the same way"


def _no_release(scope: Scope) -> str:
    cni = scope.cni
    if not cni.agent_image:
        return f"the DaemonSet has no container {settings.AGENT}"
    return f"the tags of images {cni.cni_image} and {cni.agent_image} are not both releases"


def _flag(scope: Scope) -> Line | str:
    if scope.cni.policy_enabled is None:
        return unknown("add-on flag", DAEMONSET, "whether --enable-network-policy is given is not known")
    return "--enable-network-policy=true: the agent enforces"


def _controller(scope: Scope) -> Line | str:
    cni = scope.cni
    if cni.controller_setting is None:
        made = len(scope.world.snapshot.items("policyendpoints"))
        return f"the key {settings.CONTROLLER_KEY} is not set, and {made} PolicyEndpoints are made all the same"
    return f'{settings.CONTROLLER_KEY} is "{cni.controller_setting}"'


def _crds(scope: Scope) -> str:
    there = [kind for kind in _AWS_KINDS if not scope.world.snapshot.get(kind).absent]
    absent = [kind for kind in _AWS_KINDS if kind not in there]
    text = f"installed: {', '.join(there) or 'none'}"
    return f"{text}; not installed, and not needed by agent {scope.cni.agent}: {', '.join(absent)}" if absent else text


_AWS_KINDS = ("policyendpoints", "clusterpolicyendpoints", "clusternetworkpolicies", "applicationnetworkpolicies")


def _aws_node_rights(scope: Scope) -> Line | str:
    roles = [role for role in scope.world.snapshot.items("clusterroles") if name_of(role) == settings.AWS_NODE]
    if not roles:
        text = f"there is no ClusterRole {settings.AWS_NODE}"
        return unknown("rights of aws-node", f"ClusterRole {settings.AWS_NODE}", text)
    return "it may get, list and watch what its release enforces"


def _agents(scope: Scope) -> str:
    nodes = {str((pod.get("spec") or {}).get("nodeName")) for pod in scope.pods}
    running = sorted(nodes & set(scope.agent_pods))
    auto = sum(kind_of(node) is AUTO_MODE for node in scope.world.nodes.values())
    text = f"on {count(len(running), 'node')} of {len(nodes)} that have pods"
    return f"{text}; {count(auto, 'node')} of EKS Auto Mode have one of their own" if auto else text


def _restarts(scope: Scope) -> str:
    most = 0
    for pod in scope.agent_pods.values():
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        most = max([most, *(int(s.get("restartCount") or 0) for s in statuses if s.get("name") == settings.AGENT)])
    return f"at most {most} on one node" if most else "none"


def _mode(scope: Scope) -> Line | str:
    mode = scope.cni.mode
    if not mode:
        value = scope.cni.variable(settings.MODE_VARIABLE)
        text = f"{settings.MODE_VARIABLE} is {value or 'not set'}: neither standard nor strict"
        return unknown("enforcing mode", DAEMONSET, text)
    closed = "a pod without policies is closed" if mode == "strict" else "a pod without policies is open"
    return f"{mode}: {closed}"


def _switch(topic: str, variable: str, off: str) -> Callable[[Scope], Line | str]:
    def told(scope: Scope) -> Line | str:
        if scope.cni.is_on(variable) is None:
            return unknown(topic, f"{DAEMONSET} {variable}", f"{variable} is set from another object")
        return off

    return told


def _veth(scope: Scope) -> Line | str:
    prefix = scope.cni.veth_prefix
    if not prefix:
        return unknown("veth prefix", DAEMONSET, "AWS_VPC_K8S_CNI_VETHPREFIX is set from another object")
    return f"{prefix}, as the agent looks for it"


def _egress(scope: Scope) -> Line | str:
    for name in ("ENABLE_V4_EGRESS", "ENABLE_V6_EGRESS"):
        if scope.cni.is_on(name) is None:
            return unknown("other IP family", f"{DAEMONSET} {name}", f"{name} is set from another object")
    if scope.cni.is_on("ENABLE_V4_EGRESS"):
        return "ENABLE_V4_EGRESS is on, and this is no IPv6 cluster"
    return "pods have no way out by the family that is not enforced"


def _engines(_: Scope) -> str:
    return "no DaemonSet of another engine is there"


def _node_kinds(scope: Scope) -> Line | str:
    nodes = list(scope.world.nodes.values())
    if not nodes:
        return unknown("node kinds", "nodes in the API", "there are no nodes")
    counts = Counter(_kind_name(node) for node in nodes)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _kind_name(node: Json) -> str:
    where = intent.without_agent(node)
    return f"{where} (nothing enforces policies there)" if where else kind_of(node).name


def _kernels(scope: Scope) -> Line | str:
    nodes = scope.world.nodes.values()
    info = [(node.get("status") or {}).get("nodeInfo") or {} for node in nodes if not intent.without_agent(node)]
    counts = Counter(str(one.get("kernelVersion") or "") for one in info)
    if not counts or "" in counts:
        return unknown("node kernels", "nodes in the API", "a node does not say which kernel it has")
    listed = [f"{release} ({count})" for release, count in sorted(counts.items())]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{', '.join(listed[:SHOWN])}{more}; programs need {settings.FIRST_KERNEL} or newer"


def _sandboxes(_: Scope) -> str:
    return "no pod waits for the CNI plugin to get an answer from the agent"


def _flow_logs(scope: Scope) -> str:
    where = scope.cni.log_file
    return f"on: the agent logs flows to {where}, and `kubectl netpol-ebpf drops` reads them"


_INSTALLED = Topic(
    "VPC CNI",
    DAEMONSET,
    (findings.TOO_OLD,),
    ("daemonsets",),
    _installed,
    lambda one: one.evidence[0].source != "Kubernetes",
)
TOPICS = (
    Topic(
        "Kubernetes",
        "/version",
        (findings.TOO_OLD,),
        ("versions",),
        _kubernetes,
        lambda one: one.evidence[0].source == "Kubernetes",
    ),
    _INSTALLED,
    Topic("CNI and agent", DAEMONSET, (findings.MISMATCH,), ("daemonsets",), _pair),
    Topic("known defects", DAEMONSET, (findings.KNOWN_DEFECT,), ("daemonsets",), _defects),
    Topic("add-on flag", DAEMONSET, (findings.AGENT_OFF, findings.LEFT_ON), ("daemonsets",), _flag),
    Topic(
        "controller",
        f"ConfigMap kube-system/{settings.CONFIG_MAP}",
        (findings.CONTROLLER_OFF,),
        ("configmaps", "policyendpoints"),
        _controller,
    ),
    Topic("CRDs", "/apis/networking.k8s.aws", (findings.NO_CRD,), _AWS_KINDS, _crds),
    Topic(
        "rights of aws-node",
        f"ClusterRole {settings.AWS_NODE}",
        (findings.AGENT_RIGHTS, findings.ANNOTATE),
        ("clusterroles", "daemonsets"),
        _aws_node_rights,
    ),
    Topic("agent running", "pods of aws-node", (findings.AGENT_DOWN,), ("pods", "nodes", "daemonsets"), _agents),
    Topic(
        "agent restarts",
        "pods of aws-node",
        (findings.AGENT_RESTARTS,),
        ("pods", "nodes", "daemonsets"),
        _restarts,
    ),
    Topic(
        "enforcing mode",
        f"{DAEMONSET} {settings.MODE_VARIABLE}",
        (findings.STRICT_UNCOVERED,),
        ("daemonsets",),
        _mode,
    ),
    Topic(
        "bandwidth plugin",
        f"{DAEMONSET} ENABLE_BANDWIDTH_PLUGIN",
        (findings.BANDWIDTH,),
        ("daemonsets",),
        _switch("bandwidth plugin", "ENABLE_BANDWIDTH_PLUGIN", "off"),
    ),
    Topic("veth prefix", f"{DAEMONSET} AWS_VPC_K8S_CNI_VETHPREFIX", (findings.VETH_PREFIX,), ("daemonsets",), _veth),
    Topic("other IP family", f"{DAEMONSET} ENABLE_V4_EGRESS", (findings.V4_EGRESS,), ("daemonsets",), _egress),
    Topic("other engines", "DaemonSets in the API", (findings.OTHER_ENGINE,), ("daemonsets",), _engines),
    Topic(
        "node kinds",
        "nodes in the API",
        (findings.NOT_ENFORCED_HERE,),
        ("nodes", "pods", "networkpolicies"),
        _node_kinds,
    ),
    Topic("node kernels", "nodes in the API", (findings.OLD_KERNEL,), ("nodes",), _kernels),
    Topic(
        "pod creation",
        "events FailedCreatePodSandBox",
        (findings.NO_SANDBOX,),
        ("events", "pods"),
        _sandboxes,
    ),
    Topic("flow logs", f"{DAEMONSET}", (findings.NO_FLOW_LOG,), ("daemonsets",), _flow_logs),
)


def count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
