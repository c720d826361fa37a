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
from kubectl_netpol.policy.world import name_of, node_of, ref

Json = dict[str, Any]

DAEMONSET = config.DAEMONSET
CRD_PATH = "/apis/networking.k8s.aws"
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
    all_daemonsets: bool = False
    """Of others too: aws-node alone does not tell it."""


def of_topic(topic: Topic, scope: Scope, found: Iterable[Finding]) -> Iterator[Line]:
    mine = [one for one in found if one.kind in topic.kinds and topic.takes(one)]
    failed = [one for one in mine if one.severity is not Severity.INFO]
    for one in failed:
        yield Line(topic.name, State.FAILED, one.title, topic.source, one.remedies, one)
    if failed:
        return
    if _of_the_node(topic, scope):
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


def _of_the_node(topic: Topic, scope: Scope) -> bool:
    """Whether it is about a DaemonSet that EKS Auto Mode does not have: CNI and agent are parts of its nodes."""
    needs = "daemonsets" in topic.needs and not topic.all_daemonsets and topic is not _INSTALLED
    return needs and not scope.cni.known and only_auto_mode(scope)


def only_auto_mode(scope: Scope) -> bool:
    nodes = list(scope.world.nodes.values())
    return bool(nodes) and scope.cni.installed is False and all(kind_of(node) is AUTO_MODE for node in nodes)


def _unread(topic: Topic, scope: Scope) -> str:
    """Why not all is known that the topic needs. Who may not list DaemonSets may still get aws-node."""
    snapshot = scope.world.snapshot
    needs = [kind for kind in topic.needs if kind != "daemonsets" or topic.all_daemonsets or not scope.cni.known]
    why = "; ".join(f"{kind}: {one.reason}" for kind in needs if (one := snapshot.get(kind)).reason)
    if why or "daemonsets" not in topic.needs or topic.all_daemonsets or scope.cni.known or topic is _INSTALLED:
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
    cni = scope.cni
    if only_auto_mode(scope):
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
    if not cni.known:
        return cni.unread or f"there is no {DAEMONSET}"
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


def _crds(scope: Scope) -> Line | str:
    there = [kind for kind in _AWS_KINDS if not scope.world.snapshot.get(kind).absent]
    absent = [kind for kind in _AWS_KINDS if kind not in there]
    text = f"installed: {', '.join(there) or 'none'}"
    if not absent:
        return text
    text += f"; not installed: {', '.join(absent)}"
    if scope.cni.agent is None and {"policyendpoints", "clusterpolicyendpoints"} & set(absent):
        return unknown("CRDs", CRD_PATH, f"{text}; whether the agent needs them is not known: {_no_release(scope)}")
    return f"{text}, which agent {scope.cni.agent} does not need" if scope.cni.agent else text


_POLICY_KINDS = ("networkpolicies", "applicationnetworkpolicies", "clusternetworkpolicies")
_AWS_KINDS = ("policyendpoints", "clusterpolicyendpoints", "clusternetworkpolicies", "applicationnetworkpolicies")


def _aws_node_rights(scope: Scope) -> Line | str:
    roles = [role for role in scope.world.snapshot.items("clusterroles") if name_of(role) == settings.AWS_NODE]
    if not roles:
        text = f"there is no ClusterRole {settings.AWS_NODE}"
        return unknown("rights of aws-node", f"ClusterRole {settings.AWS_NODE}", text)
    lost = [verb for verb in config.READ if not config.may(roles[0], verb, config.AWS, "clusterpolicyendpoints")]
    if scope.cni.agent is None and lost:
        text = f"it may not {', '.join(lost)} clusterpolicyendpoints, and {_no_release(scope)}"
        return unknown("rights of aws-node", f"ClusterRole {settings.AWS_NODE}", text)
    return "it may get, list and watch what its release enforces"


def _agents(scope: Scope) -> Line | str:
    nodes = scope.world.nodes
    used = {node_of(pod) for pod in scope.pods}
    own = sorted(name for name in used if name in nodes and config.has_daemonset(nodes[name]))
    silent = _silent(scope, own)
    if silent:
        return unknown("agent running", "pods of aws-node", silent)
    auto = sum(kind_of(node) is AUTO_MODE for node in nodes.values())
    text = f"on {'each of ' if len(own) > 1 else ''}{count(len(own), 'node')} with pods"
    return f"{text}; {count(auto, 'node')} of EKS Auto Mode have one of their own" if auto else text


def _silent(scope: Scope, nodes: Iterable[str]) -> str:
    """A pod of aws-node that says nothing of its agent: it was just made, or its node does not answer."""
    for name in nodes:
        pod = scope.agent_pods.get(name)
        if pod is not None and config.agent_status(pod) is None:
            return f"pod {ref(pod)} on node {name} does not say whether its container {settings.AGENT} runs"
    return ""


def _restarts(scope: Scope) -> Line | str:
    silent = _silent(scope, sorted(scope.agent_pods))
    if silent:
        return unknown("agent restarts", "pods of aws-node", silent)
    statuses = [config.agent_status(pod) or {} for pod in scope.agent_pods.values()]
    most = max((one.get("restartCount") or 0 for one in statuses), default=0)
    return f"at most {most} on one node" if most else "none"


def _mode(scope: Scope) -> Line | str:
    """Agent facts 8.1: where it is not set, the CNI plugin does not call the agent; ipamd refuses other values."""
    cni, source = scope.cni, f"{DAEMONSET} {settings.MODE_VARIABLE}"
    value = cni.variable(settings.MODE_VARIABLE)
    if cni.mode == "strict":
        unread = scope.world.unread("pods", "namespaces", "policyendpoints", *_POLICY_KINDS)
        text = f"strict, and whether policies select all pods is not known: {unread}"
        return unknown("enforcing mode", source, text) if unread else "strict: a pod without policies is closed"
    if cni.mode or (not value and value is not None and cni.cni and cni.cni < settings.FIRST_THAT_CALLS):
        return f"{cni.mode or 'standard, as it is not set'}: a pod without policies is open"
    if value is None:
        return unknown("enforcing mode", source, f"{settings.MODE_VARIABLE} is set from another object")
    if cni.cni is None:
        return unknown(
            "enforcing mode", source, f"{settings.MODE_VARIABLE} is {value or 'not set'}, and {_no_release(scope)}"
        )
    # The agent is off: what the CNI would do with another value does not matter yet.
    return f"{value or 'not set'}; network policies are off"


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
    if config.ipv6(scope):
        return "pods of this IPv6 cluster have no way out by IPv4"
    return "pods of this IPv4 cluster have no way out by IPv6"


def _engines(_: Scope) -> str:
    return "no DaemonSet of another engine is there"


def _node_kinds(scope: Scope) -> Line | str:
    nodes = list(scope.world.nodes.values())
    if not nodes:
        return unknown("node kinds", "nodes in the API", "there are no nodes")
    unread = scope.world.unread("pods", "namespaces", *_POLICY_KINDS)
    if unread and any(intent.without_agent(node) for node in nodes):
        text = f"whether policies select pods where nothing enforces them is not known: {unread}"
        return unknown("node kinds", "nodes in the API", text)
    counts = Counter(_kind_name(node) for node in nodes)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _kind_name(node: Json) -> str:
    where = intent.without_agent(node)
    return f"{where} (nothing enforces policies there)" if where else kind_of(node).name


def _kernels(scope: Scope) -> Line | str:
    nodes = scope.world.nodes.values()
    info = [(node.get("status") or {}).get("nodeInfo") or {} for node in nodes if not intent.without_agent(node)]
    counts = Counter(str(one.get("kernelVersion") or "") for one in info)
    if not counts:
        return unknown("node kernels", "nodes in the API", "there is no node that can have an agent")
    odd = next((release for release in counts if config.kernel_version(release) is None), None)
    if odd is not None:
        text = f'"{odd}" is no release of a kernel' if odd else "a node does not say which kernel it has"
        return unknown("node kernels", "nodes in the API", text)
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
    Topic("CRDs", CRD_PATH, (findings.NO_CRD,), _AWS_KINDS, _crds),
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
        (findings.STRICT_UNCOVERED, findings.BAD_MODE),
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
    Topic(
        "other IP family",
        f"{DAEMONSET} ENABLE_V4_EGRESS, ENABLE_V6_EGRESS",
        (findings.V4_EGRESS,),
        ("daemonsets",),
        _egress,
    ),
    Topic(
        "other engines",
        "DaemonSets in the API",
        (findings.OTHER_ENGINE,),
        ("daemonsets",),
        _engines,
        all_daemonsets=True,
    ),
    Topic(
        "node kinds",
        "nodes in the API",
        (findings.NOT_ENFORCED_HERE,),
        ("nodes",),
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
