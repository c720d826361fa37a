"""What a near miss is, and what it has to prove before it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubectl_netpol.model.flow import Flow
from kubectl_netpol.model.verdict import Decision, Layer

Json = dict[str, Any]

CODES = {
    "ADMIN_DENY": "a ClusterNetworkPolicy of the Admin tier denies the flow, whatever NetworkPolicies allow",
    "ADMIN_ORDER": "a ClusterNetworkPolicy would let the flow pass, but the one that denies it is asked first",
    "BASELINE_DENY": "a ClusterNetworkPolicy of the Baseline tier denies what no NetworkPolicy decides",
    "LABEL_TYPO": "the pod's label and that which the rule wants differ by one letter, case, `_`, blanks or quotes",
    "LABEL_KEY": "the pod has the wanted value under another key",
    "LABEL_VALUE": "the pod has the wanted key with another value",
    "LABEL_MISSING": "the pod lacks one label that the rule wants",
    "LABEL_EXCLUDED": "the rule excludes the pod by a label",
    "LABELS_DIFFER": "the pod differs from what the rule wants in several labels",
    "OWN_NAMESPACE_ONLY": "a podSelector without a namespaceSelector means the policy's own namespace only",
    "NAMESPACE_TYPO": "as LABEL_TYPO, for the labels of the pod's namespace",
    "NAMESPACE_NAME": "a namespace is selected by a label for its name that it does not have",
    "NAMESPACE_KEY": "as LABEL_KEY, for the labels of the pod's namespace",
    "NAMESPACE_VALUE": "as LABEL_VALUE, for the labels of the pod's namespace",
    "NAMESPACE_MISSING": "as LABEL_MISSING, for the labels of the pod's namespace",
    "NAMESPACE_EXCLUDED": "as LABEL_EXCLUDED, for the labels of the pod's namespace",
    "NAMESPACES_DIFFER": "as LABELS_DIFFER, for the labels of the pod's namespace",
    "ONE_PEER": "namespaceSelector and podSelector of one list item both have to fit; as two items one would do",
    "SERVICE_PORT_IN_RULE": "the rule names the port of a Service where the pods listen on another",
    "ASKED_SERVICE_PORT": "the flow goes to the pod itself with the port of its Service, which is not the pod's",
    "NAMED_PORT_TYPO": "the receiving pod declares a port whose name is nearly that of the rule",
    "NAMED_PORT_MISSING": "the receiving pod declares no port of the rule's name",
    "NAMED_PORT_PROTOCOL": "the receiving pod declares the port of that name for another protocol",
    "NAMED_PORT_NUMBER": "the port of that name is another one on the receiving pod",
    "NAMED_PORT_ADDRESS": "a named port means nothing for an address that is no pod",
    "PROTOCOL": "the rule allows the port for another protocol; without a protocol it means TCP",
    "PORT": "the rule means the other end, but not this port",
    "ICMP": "ping has no port: only a rule without ports lets it pass",
    "DIRECTION_NOT_LISTED": "a rule would allow the flow, but policyTypes does not list its direction",
    "DIRECTION_WITHOUT_RULES": "policyTypes lists a direction for which the policy has no rule",
    "EXCEPT": "the address is in an except of the block",
    "BLOCK_EDGE": "the address is just outside the block",
    "BLOCK_TYPO": "the block of this size that holds the address is one digit off",
    "BLOCK_ONE_ADDRESS": "the block is a single address where a network seems to be meant",
    "BLOCK_FAMILY": "everybody of one IP family is allowed, and the flow is of the other",
    "BLOCK_OF_PODS": "a block holds the addresses of pods like this one, where a podSelector would mean them all",
    "BLOCK_OF_SERVICE": "an ingress rule allows the ClusterIP of the pod's Service, which is never a source",
    "SELECTOR_OUTSIDE": "selectors mean pods only: not nodes, not load balancers, nothing outside the cluster",
    "NODE_LOCAL_DNS": "NodeLocal DNSCache has an address of its own on each node, which no selector means",
    "NODE": "the other end is a node; only the pod's own node always passes",
    "NODE_MASQUERADE": "a NodePort or load balancer brings connections with the address of another node",
    "HOST_NETWORK_PEER": "the pod that a selector means uses its node's address",
    "SERVICE_AS_SOURCE": "a ClusterIP is never the source of a packet",
    "SERVICE_WITHOUT_PODS": "a Service without pods is nothing that a selector means",
    "PEER_ENDED": "the pod at the other end has ended",
    "PEER_NO_ADDRESS": "the pod at the other end has no address yet",
    "SERVICE_SELECTOR": "the Service's own selector does not satisfy the rule, so its ClusterIP is not allowed",
    "SERVICE_BLOCK": "the block holds the pods behind a Service but not its ClusterIP",
    "SERVICE_PORT": "the rule's ports lead to another port of the Service than the one that is asked for",
    "CLUSTER_IP_ONLY": "the ClusterIP is allowed and the address of the pod behind it is not",
    "DNS_NOT_ALLOWED": "the pod is isolated for egress and no rule allows DNS to anybody",
    "SUBJECT_LABEL": "a policy would allow the flow, but its podSelector does not select the pod",
    "SUBJECT_NAMESPACE": "a policy would allow the flow, but it is in another namespace than the pod",
    "SEVERAL_POLICIES": "several policies isolate the pod, and none of them is to blame alone",
}
"""All codes, with what each says."""


@dataclass(frozen=True)
class NearMiss:
    """One sentence about what is most likely wrong."""

    code: str
    """Stable, for scripts: a key of ``CODES``."""
    text: str
    """One sentence with the real names, on one line."""
    closeness: int
    """0 is the best guess: one edit makes it right. ``near_misses()`` returns them in this order."""


@dataclass(frozen=True)
class Change:
    """An object that takes the place of the one of its kind and name, or comes anew; ``gone``: it is taken away."""

    kind: str
    """Collection of the Snapshot: `networkpolicies`."""
    obj: Json
    gone: bool = False


@dataclass(frozen=True)
class Proof:
    """What a sentence claims: with these changes, this layer decides so."""

    changes: tuple[Change, ...] = ()
    decision: Decision = Decision.ALLOW
    layer: Layer = Layer.INTENT
    """INTENT of the judged end, or ENDPOINTS as the controller's model makes them."""
    flow: Flow | None = None
    """Another flow of the same pod, where the sentence is about that."""


@dataclass(frozen=True)
class Candidate:
    """A near miss that may be said once all its proofs hold."""

    miss: NearMiss
    proofs: tuple[Proof, ...] = ()


def candidate(code: str, closeness: int, text: str, *proofs: Proof) -> Candidate:
    return Candidate(NearMiss(code, printable(text), closeness), proofs)


def printable(text: str) -> str:
    """What cannot be seen in a name is often what is wrong with it: escaped, never dropped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
