"""The register of findings: every code, once. docs/findings has a page for each, tests/faults a fault that makes it.

The first digit is the layer: 1 INTENT, 2 ENDPOINTS, 3 PINNED, 4 ATTACHED, 5 CONNTRACK, 6 the configuration.
"""

from __future__ import annotations

from kubectl_netpol.model.finding import Kind, Severity, Where

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
KINDS: dict[str, Kind] = {}
"""All of them, by code."""


def _kind(code: str, severity: Severity, where: Where, summary: str) -> Kind:
    KINDS[code] = found = Kind(code, severity, where, summary)
    return found


# ---- INTENT: what the YAML says, and EKS makes something else of

SERVICE_DENIED = _kind(
    "NPE101", WARNING, Where.INTENT, "egress to a Service is dropped although the policy allows the pods behind it"
)
NAMED_PORT = _kind(
    "NPE102", ERROR, Where.INTENT, "a named port of a policy is found on none of the pods it is looked up on"
)
DNS_DENIED = _kind("NPE103", ERROR, Where.INTENT, "pods may not ask DNS: an egress policy leaves it out")
EXCEPT_WINS = _kind("NPE104", WARNING, Where.INTENT, "an except of one rule also denies what another rule allows")
TOO_MANY_PORTS = _kind("NPE105", ERROR, Where.INTENT, "more than 24 port rules meet in one prefix: some are left out")
HOST_BITS = _kind(
    "NPE106", WARNING, Where.INTENT, "one block is written in two ways: agents up to 1.4.1 lose one of them"
)
SAME_NAME = _kind(
    "NPE107", ERROR, Where.INTENT, "a NetworkPolicy and an ApplicationNetworkPolicy share a name: only one is resolved"
)
SHARED_IDENTIFIER = _kind(
    "NPE108", WARNING, Where.INTENT, "pods of different policies share a pod identifier, and so all of their rules"
)
TYPO = _kind(
    "NPE109", WARNING, Where.INTENT, "a selector means nobody, and is one typing error away from meaning somebody"
)
HOST_NETWORK = _kind("NPE110", INFO, Where.INTENT, "a policy selects pods on the host network, which nothing filters")
POLICY_TYPES = _kind("NPE111", WARNING, Where.INTENT, "rules restrict a direction that policyTypes does not list")
DOMAIN_NAME = _kind("NPE112", WARNING, Where.INTENT, "rules for domain names are not enforced by the open agent")
OTHER_FAMILY = _kind(
    "NPE113", WARNING, Where.INTENT, "all blocks of a policy are of the IP family that is not enforced here"
)
ICMP = _kind("NPE114", INFO, Where.INTENT, "ping is dropped: rules with ports never mean ICMP")
NODE_SOURCE = _kind(
    "NPE115", INFO, Where.INTENT, "the other end has a node's address or none of a pod: no selector can mean it"
)
STRICT_UNCOVERED = _kind("NPE116", WARNING, Where.INTENT, "in strict mode a pod that no policy selects is closed")
NOT_ENFORCED_HERE = _kind("NPE117", ERROR, Where.INTENT, "a policy selects pods on nodes where nothing enforces it")

# ---- ENDPOINTS: what the controller made of it

NO_ENDPOINT = _kind("NPE201", ERROR, Where.ENDPOINTS, "the controller has made no PolicyEndpoint of a policy")
ENTRIES_BEHIND = _kind(
    "NPE202", ERROR, Where.ENDPOINTS, "the entries of the PolicyEndpoints are not those of the policy"
)
PODS_BEHIND = _kind("NPE203", ERROR, Where.ENDPOINTS, "the PolicyEndpoints list other pods than the policy selects")
SPEC_BEHIND = _kind("NPE204", ERROR, Where.ENDPOINTS, "the PolicyEndpoints keep an earlier state of the policy's spec")
LEFT_BEHIND = _kind("NPE205", ERROR, Where.ENDPOINTS, "PolicyEndpoints are left of a policy that is gone")
TERMINATING = _kind(
    "NPE206", WARNING, Where.ENDPOINTS, "a policy is being deleted, and the controller does not let it go"
)
OLDER_CONTROLLER = _kind(
    "NPE207", WARNING, Where.ENDPOINTS, "an older release of the controller loses rules of a policy"
)
WRONG_ADDRESS = _kind(
    "NPE208", ERROR, Where.ENDPOINTS, "a PolicyEndpoint lists a pod by an address that it does not have"
)

# ---- PINNED: what the agent wrote

MISSING_ENTRIES = _kind("NPE301", ERROR, Where.PINNED, "the map of a pod lacks entries of its PolicyEndpoints")
UNWANTED_ENTRIES = _kind("NPE302", ERROR, Where.PINNED, "the map of a pod has entries that no PolicyEndpoint asks for")
OTHER_PORTS = _kind("NPE303", ERROR, Where.PINNED, "entries of the map have other ports than the PolicyEndpoints")
NO_POD_STATE = _kind("NPE304", ERROR, Where.PINNED, "the pod state is missing: the program drops every packet")
WRONG_POD_STATE = _kind("NPE305", ERROR, Where.PINNED, "the pod state is not the one that the policies make")
PIN_WITHOUT_POD = _kind("NPE306", WARNING, Where.PINNED, "programs and maps are pinned for pods that are gone")
POD_WITHOUT_PIN = _kind("NPE307", ERROR, Where.PINNED, "nothing is pinned for a pod that should have programs")
BOTH_FORMS = _kind(
    "NPE308", WARNING, Where.PINNED, "pins of both forms of the pod identifier: the agent writes one of them"
)
OTHER_LAYOUT = _kind("NPE309", ERROR, Where.PINNED, "a map has another layout than the agent that runs writes")
NODE_DROPPED = _kind(
    "NPE310", ERROR, Where.PINNED, "packets of the pod's own node are dropped, the kubelet's probes too"
)
AGENT_ERRORS = _kind(
    "NPE311", WARNING, Where.PINNED, "the agent's log tells of maps or filters that it could not write"
)

# ---- ATTACHED: what packets meet

OTHER_PROGRAM = _kind(
    "NPE401", ERROR, Where.ATTACHED, "the program that runs is not the pinned one: updates have no effect"
)
NOT_ATTACHED = _kind("NPE402", ERROR, Where.ATTACHED, "a policy applies to the pod, and no program is attached")
OTHER_MAP = _kind("NPE403", ERROR, Where.ATTACHED, "the program uses maps that the agent does not write")
NO_MAPS = _kind("NPE404", ERROR, Where.ATTACHED, "the program that runs uses no maps at all")
OTHER_DIRECTION = _kind("NPE405", ERROR, Where.ATTACHED, "the program of one direction is attached to the other")
FOREIGN = _kind("NPE406", WARNING, Where.ATTACHED, "a program or filter of others sees the pod's packets too")
NEVER_RUNS = _kind("NPE407", ERROR, Where.ATTACHED, "the agent's filter is there, and decides nothing")
SECOND_INTERFACE = _kind("NPE408", ERROR, Where.ATTACHED, "a further interface of a pod is not filtered")
TWO_GENERATIONS = _kind("NPE409", WARNING, Where.ATTACHED, "programs of different agent releases run side by side")
OTHER_VETH = _kind("NPE410", ERROR, Where.ATTACHED, "the pod's host veth is not the one that the agent looks for")
OPEN_POD = _kind(
    "NPE411", WARNING, Where.ATTACHED, "no program is attached to a pod, though this agent attaches to all"
)
UNKNOWN_PROGRAM = _kind("NPE412", WARNING, Where.ATTACHED, "what a program does is not known: its maps fit no release")

# ---- CONNTRACK: what passes without a look at the rules

STILL_OPEN = _kind("NPE501", WARNING, Where.CONNTRACK, "established flows still pass that the rules now deny")
TABLE_FULL = _kind(
    "NPE502", WARNING, Where.CONNTRACK, "the conntrack map is nearly full: flows are forgotten under way"
)
OTHER_CONNTRACK = _kind("NPE503", ERROR, Where.CONNTRACK, "the program does not use the conntrack map of the node")
POISONING = _kind(
    "NPE504", WARNING, Where.CONNTRACK, "conntrack entries do not say whose they are: one pod may open another"
)

# ---- the configuration

CONTROLLER_OFF = _kind("NPE601", ERROR, Where.CONFIG, "the network policy controller is switched off")
AGENT_OFF = _kind("NPE602", ERROR, Where.CONFIG, "the agent is told not to enforce network policies")
NO_CRD = _kind("NPE603", ERROR, Where.CONFIG, "a CRD that the agent needs is not installed")
TOO_OLD = _kind("NPE604", ERROR, Where.CONFIG, "Kubernetes or the VPC CNI is too old for network policies")
KNOWN_DEFECT = _kind("NPE605", WARNING, Where.CONFIG, "this release of the VPC CNI or agent has a known defect")
AGENT_RIGHTS = _kind("NPE606", ERROR, Where.CONFIG, "the agent may not read the objects that it enforces")
AGENT_DOWN = _kind("NPE607", ERROR, Where.CONFIG, "no agent is running on a node that has pods")
AGENT_RESTARTS = _kind("NPE608", WARNING, Where.CONFIG, "the agent of a node keeps restarting")
BANDWIDTH = _kind("NPE609", ERROR, Where.CONFIG, "the bandwidth plugin takes the pods' tc hooks")
VETH_PREFIX = _kind("NPE610", ERROR, Where.CONFIG, "the agent does not know the prefix of the host veths' names")
V4_EGRESS = _kind("NPE611", WARNING, Where.CONFIG, "pods have a way out by the IP family that is not enforced")
OTHER_ENGINE = _kind("NPE612", WARNING, Where.CONFIG, "another policy engine runs in the cluster")
LEFT_ON = _kind("NPE613", WARNING, Where.CONFIG, "the feature is off, and what it made is still there")
MISMATCH = _kind("NPE614", ERROR, Where.CONFIG, "the VPC CNI and its agent are of releases that do not go together")
NO_FLOW_LOG = _kind("NPE615", INFO, Where.CONFIG, "the agent does not log flows")
NO_SANDBOX = _kind(
    "NPE616", ERROR, Where.CONFIG, "pods cannot be created: the CNI plugin gets no answer from the agent"
)
ANNOTATE = _kind(
    "NPE617", WARNING, Where.CONFIG, "the CNI may not write the pod's address where the controller looks for it"
)
OLD_KERNEL = _kind("NPE618", ERROR, Where.CONFIG, "a node's kernel is too old for the agent's programs")
BAD_MODE = _kind(
    "NPE619", ERROR, Where.CONFIG, "the enforcing mode is not one that the CNI knows: new pods are not set up"
)
