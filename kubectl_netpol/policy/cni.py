"""How the VPC CNI and its agent are set up: versions, flags, variables, and what is known of these releases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from kubectl_netpol.policy.nodes import AGENT_LOG
from kubectl_netpol.policy.world import World, labels_of, name_of, namespace_of, node_of

Json = dict[str, Any]

NAMESPACE, AWS_NODE, AGENT = "kube-system", "aws-node", "aws-eks-nodeagent"
CONFIG_MAP, CONTROLLER_KEY = "amazon-vpc-cni", "enable-network-policy-controller"
MODE_VARIABLE = "NETWORK_POLICY_ENFORCING_MODE"
MODES = ("standard", "strict")
VETH_PREFIX = "eni"
"""What the CNI calls host veths where nothing else is set."""


@dataclass(frozen=True, order=True)
class Version:
    """Three numbers; what follows them (`-eksbuild.1`) does not say which release it is."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: object) -> Version | None:
        """Of `v1.21.1-eksbuild.3`, `1.29`, `v1.31.4-eks-473151a`; None for anything else."""
        found = re.fullmatch(r"v?(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?(?:[-+].*)?", str(text or "").strip(), re.ASCII)
        return cls(*(int(number or 0) for number in found.groups())) if found else None

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Cni:
    """The DaemonSet aws-node and the ConfigMap amazon-vpc-cni, as far as they were read."""

    unread: str = ""
    """Why the DaemonSet is not known; empty where it is, or is known not to be there."""
    installed: bool | None = None
    cni: Version | None = None
    """By the tag of its image; None where the tag is no version."""
    agent: Version | None = None
    cni_image: str = ""
    agent_image: str = ""
    """Empty: the DaemonSet has no container of the agent."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Of the agent, as they are given, without dashes; no defaults are filled in."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Of the container aws-node: the variables that the tool keeps."""
    hidden: frozenset[str] = frozenset()
    """Variables that are set from another object, so that their value is not known."""
    controller_enabled: bool | None = None
    """The ConfigMap's key; None where it could not be read."""
    controller_setting: str | None = None
    """The key's own text; None where there is no such key or ConfigMap."""
    controller_unread: str = ""

    @property
    def known(self) -> bool:
        """Whether the DaemonSet is there and was read."""
        return bool(self.installed)

    @property
    def has_agent(self) -> bool | None:
        return bool(self.agent_image) if self.known else None

    def variable(self, name: str, default: str = "") -> str | None:
        """A variable of aws-node; None where it is not known."""
        return self.env.get(name, default) if self.known and name not in self.hidden else None

    def is_on(self, name: str, default: bool = False) -> bool | None:
        """A variable that is true or false."""
        text = self.variable(name)
        if text is None:
            return None
        return truth(text) if text else default

    def flag(self, name: str, default: bool = False) -> bool | None:
        """A flag of the agent that is true or false; None where it is not known."""
        if not self.known:
            return None
        return truth(self.flags[name]) if name in self.flags else default

    @property
    def mode(self) -> str:
        """`standard` or `strict`; empty where it is not known, not set, or set to something else."""
        if self.known and self.cni and self.cni < FIRST_WITH_MODE:
            return "standard"
        value = (self.variable(MODE_VARIABLE) or "").strip().lower()
        return value if value in MODES else ""

    @property
    def policy_enabled(self) -> bool | None:
        """--enable-network-policy, which is false where it is not given (agent facts 8.2)."""
        return self.flag("enable-network-policy") if self.has_agent is not False else False

    @property
    def event_logs(self) -> bool | None:
        """--enable-policy-event-logs: without it the agent logs no flow."""
        return self.flag("enable-policy-event-logs")

    @property
    def ipv6(self) -> bool | None:
        return self.flag("enable-ipv6")

    @property
    def veth_prefix(self) -> str:
        """How names of host veths begin; empty where it is not known."""
        value = self.variable("AWS_VPC_K8S_CNI_VETHPREFIX", VETH_PREFIX)
        return "" if value is None else value or VETH_PREFIX

    @property
    def log_file(self) -> str:
        """Where the agent logs on its node; `stdout` is what `kubectl logs` shows."""
        return self.flags.get("log-file") or AGENT_LOG


FIRST_WITH_POLICIES = Version(1, 14)
"""The first VPC CNI that has the agent (user pain 4)."""
FIRST_WITH_MODE = Version(1, 17)
"""Strict mode, and the variable for it (user pain 4: 1.17.1 is the first release of it)."""
FIRST_THAT_CALLS = Version(1, 19, 3)
"""From here on the CNI plugin tells the agent of every new pod, in both modes (agent facts 8.5)."""
FIRST_KUBERNETES = Version(1, 25)
FIRST_KERNEL = Version(5, 10)
"""Ring buffers (agent facts 8.1)."""
FIRST_WITH_CLUSTER_POLICIES = Version(1, 3)
"""Of the agent: it watches ClusterPolicyEndpoints (agent facts 8.6)."""


def truth(text: str) -> bool:
    """As Go's strconv.ParseBool, which reads all of these switches; what it refuses is off."""
    return text in ("1", "t", "T", "true", "TRUE", "True")


def cni_of(world: World) -> Cni:
    """Looked up once for each World."""
    if world not in _CACHE:
        _CACHE[world] = _cni(world)
    return _CACHE[world]


_CACHE: WeakKeyDictionary[World, Cni] = WeakKeyDictionary()


def _cni(world: World) -> Cni:
    daemonsets = world.snapshot.get("daemonsets")
    controller = _controller(world)
    found = next((d for d in daemonsets.items if namespace_of(d) == NAMESPACE and name_of(d) == AWS_NODE), None)
    if found is None:
        unread = daemonsets.reason
        return Cni(unread=unread, installed=None if unread else False, **controller)
    containers = {str(c.get("name")): c for c in _template(found).get("containers") or ()}
    cni, agent = containers.get(AWS_NODE) or {}, containers.get(AGENT) or {}
    variables = [v for v in cni.get("env") or () if v.get("name")]
    return Cni(
        installed=True,
        cni=image_version(cni),
        agent=image_version(agent),
        cni_image=str(cni.get("image") or ""),
        agent_image=str(agent.get("image") or ""),
        flags=parse_flags(agent.get("args") or ()),
        env={str(v["name"]): str(v.get("value") or "") for v in variables if "valueFrom" not in v},
        hidden=frozenset(str(v["name"]) for v in variables if "valueFrom" in v),
        **controller,
    )


def _template(daemonset: Json) -> Json:
    return ((daemonset.get("spec") or {}).get("template") or {}).get("spec") or {}


def _controller(world: World) -> dict[str, Any]:
    """The ConfigMap's part. Where there is no such ConfigMap or key, the controller is off."""
    maps = world.snapshot.get("configmaps")
    if not maps.known:
        return {"controller_unread": maps.reason}
    found = next((m for m in maps.items if namespace_of(m) == NAMESPACE and name_of(m) == CONFIG_MAP), None)
    value = ((found or {}).get("data") or {}).get(CONTROLLER_KEY)
    return {
        "controller_enabled": str(value).strip().lower() == "true",
        "controller_setting": None if value is None else str(value),
    }


def image_version(container: Json) -> Version | None:
    """By the tag of a container's image."""
    return Version.parse(image_tag(container))


def image_tag(container: Json) -> str:
    """`v1.19.2-eksbuild.1`; what the image is called where it has no tag."""
    image = str(container.get("image") or "").partition("@")[0]
    return image.rpartition("/")[2].rpartition(":")[2]


def parse_flags(args: Iterable[object]) -> dict[str, str]:
    """Name -> value; a flag without a value is true."""
    found: dict[str, str] = {}
    for argument in map(str, args):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            found[name] = value if equals else "true"
    return found


def kubernetes_version(world: World) -> Version | None:
    """Of the API server."""
    items = world.snapshot.items("versions")
    return Version.parse(items[0].get("gitVersion")) if items else None


def agent_pods(world: World) -> Mapping[str, Json]:
    """Node name -> its pod of aws-node; of two (one is ending) the younger one."""
    found: dict[str, Json] = {}
    for pod in world.pods_of.get(NAMESPACE, ()):
        node = node_of(pod)
        if labels_of(pod).get("k8s-app") == AWS_NODE and node:
            found[node] = max(found.get(node, pod), pod, key=_age)
    return found


def _age(pod: Json) -> tuple[bool, str]:
    metadata = pod["metadata"]
    return not metadata.get("deletionTimestamp"), str(metadata.get("creationTimestamp") or "")


def agent_version_on(pod: Json) -> Version | None:
    """Of the agent in a pod of aws-node: while a new release is rolled out, nodes differ."""
    containers = (pod.get("spec") or {}).get("containers") or ()
    return next((image_version(c) for c in containers if c.get("name") == AGENT), None)


_PAIRS = """
1.14.0 1.0.1, 1.14.1 1.0.2, 1.15.0 1.0.2, 1.15.1 1.0.4, 1.15.3 1.0.5, 1.15.4 1.0.6, 1.15.5 1.0.7, 1.16.0 1.0.7,
1.16.2 1.0.7, 1.16.3 1.0.8, 1.16.4 1.0.8, 1.17.1 1.1.0, 1.18.0 1.1.0, 1.18.1 1.1.1, 1.18.2 1.1.2, 1.18.3 1.1.2,
1.18.4 1.1.3, 1.18.5 1.1.3, 1.18.6 1.1.4, 1.19.0 1.1.5, 1.19.2 1.1.6, 1.19.3 1.2.0, 1.19.4 1.2.1, 1.19.5 1.2.1,
1.19.6 1.2.2, 1.20.0 1.2.3, 1.20.1 1.2.4, 1.20.2 1.2.6, 1.20.3 1.2.6, 1.20.4 1.2.7, 1.20.5 1.2.7, 1.21.0 1.3.0,
1.21.1 1.3.1, 1.22.0 1.3.1, 1.21.2 1.3.5, 1.22.1 1.3.5, 1.22.2 1.3.5, 1.22.3 1.3.7, 1.22.4 1.4.0, 1.23.0 1.4.1,
1.23.1 1.4.2
"""
EXPECTED_AGENT: Mapping[str, str] = dict(pair.split() for pair in _PAIRS.split(","))
"""VPC CNI -> the agent that its chart and add-on bring (agent facts 0.1)."""


@dataclass(frozen=True)
class Interface:
    """How the CNI and the agent talk to each other: releases on different sides of a change do not."""

    first_cni: Version
    first_agent: Version
    text: str


INTERFACES = (
    Interface(
        Version(1, 20, 2),
        Version(1, 2, 6),
        "the CNI plugin calls the agent over the socket /var/run/aws-node/npa.sock from VPC CNI 1.20.2 and agent 1.2.6 "
        "on, and over 127.0.0.1:50052 before",
    ),
    Interface(
        Version(1, 23, 0),
        Version(1, 4, 1),
        "the agent asks ipamd over the socket /var/run/aws-node/ipamd.sock from VPC CNI 1.23.0 and agent 1.4.1 on, and "
        "over 127.0.0.1:50051 before",
    ),
)
"""Agent facts 8.5; user pain 4: CNI 1.23.0 needs agent 1.4.1."""


def mismatch(cni: Version, agent: Version) -> str:
    """Why these two do not go together; empty where they can."""
    for change in INTERFACES:
        # Before there was a call at all, there is nothing to differ about.
        if (cni >= change.first_cni) != (agent >= change.first_agent) and cni >= FIRST_THAT_CALLS:
            return change.text
    return ""


@dataclass(frozen=True)
class Defect:
    """A known defect of the releases ``first`` to ``last``, both included."""

    first: Version
    last: Version
    of: str
    """`agent` or `cni`."""
    text: str
    """What users see."""
    reference: str
    severity: str
    """error: pods lose traffic or rules; warning: in some cases; info: seen by few."""
    only_without_crd: bool = False
    """Only where the CRD clusterpolicyendpoints.networking.k8s.aws is not installed."""
    ipv6: bool = False
    """Only in IPv6 clusters."""

    def covers(self, version: Version | None) -> bool:
        return version is not None and self.first <= version <= self.last


def _defect(of: str, first: str, last: str, severity: str, reference: str, text: str, **more: bool) -> Defect:
    begin, end = Version.parse(first), Version.parse(last)
    assert begin is not None and end is not None
    return Defect(begin, end, of, text, reference, severity, **more)


_OPEN = "aws-network-policy-agent"
KNOWN_DEFECTS: tuple[Defect, ...] = (
    _defect(
        "cni",
        "1.21.0",
        "1.21.0",
        "error",
        "amazon-vpc-cni-k8s issue 3553",
        "after the upgrade traffic stops: the role aws-node lacks the right to ClusterPolicyEndpoints, and its agent "
        "1.3.0 mixes up the maps of cluster policies; 1.21.1 mends it",
    ),
    _defect(
        "agent",
        "1.3.0",
        "1.3.0",
        "error",
        f"{_OPEN} release 1.3.1",
        "after a restart the agent writes rules of one direction or kind into the map of another; 1.3.1 mends it",
    ),
    _defect(
        "agent",
        "1.3.2",
        "1.3.4",
        "error",
        f"{_OPEN} issue 553",
        "without the CRD clusterpolicyendpoints.networking.k8s.aws new pods lose all traffic: the second key of their "
        "pod state is never written; 1.3.5 mends it",
        only_without_crd=True,
    ),
    _defect(
        "agent",
        "1.3.0",
        "1.4.0",
        "warning",
        f"{_OPEN} release 1.4.1",
        "a pod that only ingress policies select loses its egress when another policy is removed: the entry that lets "
        "everything out is forgotten; 1.4.1 mends it",
    ),
    _defect(
        "agent",
        "1.2.0",
        "1.4.1",
        "warning",
        f"{_OPEN} issue 462",
        "the cleaner of the conntrack map removes flows that are alive, so replies are dropped now and then; 1.4.2 "
        "mends it",
    ),
    _defect(
        "agent",
        "1.0.1",
        "1.1.6",
        "warning",
        f"{_OPEN} issues 345 and 462",
        "replies to what a pod sends in its first seconds are dropped once a policy applies to it, and the cleaner of "
        "the conntrack map removes flows that are alive; 1.2.0 mends the first, 1.4.2 the second",
    ),
    _defect(
        "agent",
        "1.0.1",
        "1.3.5",
        "warning",
        f"{_OPEN} release 1.3.7",
        "conntrack entries do not say which pod made them: one pod can open a way into another pod of the same node; "
        "1.3.7 mends it",
    ),
    _defect(
        "agent",
        "1.0.1",
        "1.3.7",
        "warning",
        f"{_OPEN} release 1.4.0",
        "pods of two namespaces may share one pod identifier and so each other's rules, and a filter of an older "
        "program may stay attached; 1.4.0 mends it",
    ),
    _defect(
        "agent",
        "1.2.4",
        "1.2.5",
        "error",
        f"{_OPEN} release 1.2.6",
        "in IPv6 clusters the direction that no policy restricts is closed; 1.2.6 mends it",
        ipv6=True,
    ),
    _defect(
        "agent",
        "1.0.5",
        "1.0.6",
        "error",
        f"{_OPEN} release 1.0.7",
        "the cleaner of the conntrack map removes all entries: established flows end every five minutes; 1.0.7 "
        "mends it",
    ),
    _defect(
        "agent",
        "1.0.1",
        "1.1.1",
        "warning",
        f"{_OPEN} release 1.1.2",
        "pods with a dot in their name are never enforced, and a policy of several PolicyEndpoints loses rules when "
        "one of them goes; 1.1.2 mends it",
    ),
)
"""User pain 1 and agent facts 9, as far as a version alone tells."""


def defects(cni: Cni, *, without_crd: bool | None = None) -> tuple[Defect, ...]:
    """The known defects of the releases that run. ``without_crd``: ClusterPolicyEndpoints are not installed; None:
    not known, and then defects that need it are not told."""
    versions = {"cni": cni.cni, "agent": cni.agent}
    return tuple(
        defect
        for defect in KNOWN_DEFECTS
        if defect.covers(versions[defect.of])
        and (not defect.only_without_crd or without_crd)
        and (not defect.ipv6 or cni.ipv6)
    )
