"""What the checks look at: one cluster, one node, one pod; and how a finding is put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kubectl_netpol.diagnose import direction as directions
from kubectl_netpol.diagnose.direction import DirectionReport
from kubectl_netpol.kernel.view import NodeView
from kubectl_netpol.model.finding import Evidence, Finding, Kind, Remedy
from kubectl_netpol.model.flow import Direction
from kubectl_netpol.model.kernel import PodKernel
from kubectl_netpol.policy import resolution
from kubectl_netpol.policy.cni import Cni, Version, agent_pods, agent_version_on, cni_of
from kubectl_netpol.policy.resolution import Comparison
from kubectl_netpol.policy.world import (
    World,
    finished,
    kind_of,
    name_of,
    namespace_of,
    node_of,
    on_host_network,
    ref,
)

Json = dict[str, Any]
PodKey = tuple[str, str]


def key_of(pod: Json) -> PodKey:
    return namespace_of(pod), name_of(pod)


@dataclass(frozen=True, eq=False)
class Scope:
    """One cluster, as far as it was read, and the pods that are asked about."""

    world: World
    pods: tuple[Json, ...]
    """Asked about; those on the host network and ended ones are not among them."""
    whole: bool = True
    """All pods, so that what concerns no pod is told too."""

    @cached_property
    def cni(self) -> Cni:
        return cni_of(self.world)

    @cached_property
    def agent_pods(self) -> Mapping[str, Json]:
        """Node -> its pod of aws-node."""
        return agent_pods(self.world)

    def agent_on(self, node: str) -> Version | None:
        """The release of the agent that runs on a node; None where it is not known."""
        pod = self.agent_pods.get(node)
        return agent_version_on(pod) if pod is not None else None

    @cached_property
    def keys(self) -> frozenset[PodKey]:
        return frozenset(self._by_key)

    @cached_property
    def _by_key(self) -> Mapping[PodKey, Json]:
        return {key_of(pod): pod for pod in self.pods}

    def pods_among(self, keys: Iterable[PodKey]) -> list[Json]:
        """The asked pods with these keys, in the order of their names."""
        return [self._by_key[key] for key in sorted(keys) if key in self._by_key]

    @cached_property
    def policies(self) -> tuple[Json, ...]:
        """The policies of all kinds that select an asked pod; with ``whole`` all of the namespaces that were read."""
        world = self.world
        if self.whole:
            spaces = [*world.policies_of.values(), *world.application_policies_of.values()]
            return (*(policy for found in spaces for policy in found), *world.cluster_policies)
        return tuple(self.selecting)

    @cached_property
    def selecting(self) -> tuple[Json, ...]:
        """The policies that select an asked pod, each once."""
        found: dict[int, Json] = {}
        for policies in self._selected_by.values():
            found.update((id(policy), policy) for policy in policies)
        return tuple(found.values())

    @cached_property
    def _selected_by(self) -> Mapping[PodKey, tuple[Json, ...]]:
        world = self.world
        return {
            key_of(pod): (*world.policies_selecting(pod), *world.cluster_policies_selecting(pod)) for pod in self.pods
        }

    @cached_property
    def pods_of(self) -> Mapping[int, frozenset[PodKey]]:
        """id(policy) -> the asked pods that it selects."""
        found: dict[int, set[PodKey]] = defaultdict(set)
        for key, policies in self._selected_by.items():
            for policy in policies:
                found[id(policy)].add(key)
        return {number: frozenset(keys) for number, keys in found.items()}

    def selected(self, policy: Json) -> frozenset[PodKey]:
        """The asked pods that a policy selects."""
        return self.pods_of.get(id(policy), frozenset())

    def policies_of(self, pod: Json) -> tuple[Json, ...]:
        return self._selected_by.get(key_of(pod), ())

    @cached_property
    def comparisons(self) -> Mapping[int, Comparison]:
        """id(policy) -> its PolicyEndpoints against the model; empty where these could not be read."""
        return {
            id(policy): resolution.compare(policy, self.world) for policy in self.policies if self.comparable(policy)
        }

    def comparable(self, policy: Json) -> bool:
        """Whether all that a comparison needs was read."""
        cluster = kind_of(policy) == "ClusterNetworkPolicy"
        kind = "clusterpolicyendpoints" if cluster else "policyendpoints"
        return (
            not self.world.unread("pods", "namespaces", "services", kind) and not self.world.snapshot.get(kind).absent
        )


@dataclass(frozen=True, eq=False)
class PodCase:
    """One pod, with its part of the kernel where its node was read."""

    pod: Json
    scope: Scope
    kernel: PodKernel | None

    @property
    def world(self) -> World:
        return self.scope.world

    @property
    def key(self) -> PodKey:
        return key_of(self.pod)

    @property
    def name(self) -> str:
        return ref(self.pod)

    @property
    def node(self) -> str:
        return node_of(self.pod)

    @cached_property
    def reports(self) -> tuple[DirectionReport, ...]:
        """Both directions, row by row."""
        return tuple(directions.report(self.pod, d, self.world, self.kernel, api_only=False) for d in Direction)

    def made(
        self, kind: Kind, title: str, evidence: Iterable[Evidence] = (), remedies: Iterable[Remedy] = ()
    ) -> Finding:
        """A finding about this pod."""
        return Finding(
            kind, title, tuple(evidence), tuple(remedies), subject=f"pod {self.name}", pods=frozenset({self.key})
        )


@dataclass(frozen=True, eq=False)
class NodeCase:
    """One node that was read, and the asked pods on it."""

    name: str
    view: NodeView
    scope: Scope

    @cached_property
    def running(self) -> tuple[Json, ...]:
        """All pods with a network of their own that run there, asked about or not."""
        pods = self.scope.world.pods_on.get(self.name, ())
        return tuple(pod for pod in pods if not on_host_network(pod) and not finished(pod))

    def made(
        self, kind: Kind, title: str, evidence: Iterable[Evidence] = (), remedies: Iterable[Remedy] = ()
    ) -> Finding:
        return Finding(kind, title, tuple(evidence), tuple(remedies), subject=f"node {self.name}", node=self.name)


def toward(found: Iterable[Finding], *directions: Direction) -> Iterator[Finding]:
    """Findings that concern these directions of their pods alone."""
    return (replace(one, directions=directions) for one in found)


def policy_text(policy: Json) -> str:
    """`NetworkPolicy shop/web`, `ClusterNetworkPolicy baseline`."""
    return f"{kind_of(policy)} {ref(policy)}"


def resource(policy: Json) -> str:
    """As kubectl wants it: `networkpolicy deny -n shop`."""
    place = f" -n {namespace_of(policy)}" if namespace_of(policy) else ""
    return f"{kind_of(policy).lower()} {name_of(policy)}{place}"


ADD_ON = "aws eks update-addon --cluster-name CLUSTER --addon-name vpc-cni"
ROLLS = "restarts aws-node on all nodes, one after the other"
UPGRADE = Remedy(
    f"{ADD_ON} --addon-version VERSION --resolve-conflicts PRESERVE",
    f"{ROLLS}; VERSION is one of those that `aws eks describe-addon-versions --addon-name vpc-cni` lists",
)
VALUES = (
    f"{ROLLS}; replaces the add-on's other configuration values: add those that `aws eks describe-addon --cluster-name "
    "CLUSTER --addon-name vpc-cni --query addon.configurationValues` shows"
)


def agent_values(cni: Cni, values: str, effect: str = VALUES) -> Remedy:
    """``values`` (JSON) for the nodeAgent of the add-on. All of its values are replaced, and without
    enableNetworkPolicy nothing is enforced any more: it goes along, but where the agent is told not to enforce."""
    enforce = "" if cni.policy_enabled is False else '"enableNetworkPolicy":"true",'
    return Remedy(f"""{ADD_ON} --configuration-values '{{{enforce}"nodeAgent":{values}}}'""", effect)


RESTART_AGENT = (
    "pods of the node keep their programs and maps; only where the agent loads new ones, as after an upgrade, they are "
    "open in standard mode and closed in strict mode until it has filled them"
)


def restart_agent(node: str) -> Remedy:
    """A new aws-node pod on one node."""
    return Remedy(
        f"kubectl -n kube-system delete pod -l k8s-app=aws-node --field-selector spec.nodeName={node}", RESTART_AGENT
    )


def recreate(pod: Json) -> Remedy:
    """A new pod gets a new veth, new filters and new maps."""
    owned = any(True for _ in pod["metadata"].get("ownerReferences") or ())
    effect = "its connections end; its owner starts a new one" if owned else "nothing starts it again: it has no owner"
    return Remedy(f"kubectl -n {namespace_of(pod)} delete pod {name_of(pod)}", effect)
