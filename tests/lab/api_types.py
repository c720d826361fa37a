"""Which resources the stand-in serves, and how each of them is called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

READ = ("get", "list", "watch")
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
AWS_GROUP = "networking.k8s.aws"


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    model: str = ""  # class in kubernetes.client.models; empty for custom resources
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def prefix(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.prefix}{middle}/{self.plural}" + (f"/{name}" if name else "")


def _core(plural: str, kind: str, *short: str, **more: object) -> Resource:
    more.setdefault("model", f"V1{kind}")
    return Resource("", "v1", plural, kind, short=short, **more)  # type: ignore[arg-type]


def _apps(plural: str, kind: str, short: str) -> Resource:
    return Resource("apps", "v1", plural, kind, True, (short,), ALL_VERBS, ("status", "scale"), ("all",), f"V1{kind}")


def _aws(plural: str, kind: str, namespaced: bool, *short: str) -> Resource:
    return Resource(AWS_GROUP, "v1alpha1", plural, kind, namespaced, short, subresources=("status",), custom=True)


def _rbac(plural: str, kind: str, namespaced: bool) -> Resource:
    return Resource("rbac.authorization.k8s.io", "v1", plural, kind, namespaced, model=f"V1{kind}")


_ALL = ("all",)
BUILT_IN: tuple[Resource, ...] = (
    _core(
        "pods",
        "Pod",
        "po",
        categories=_ALL,
        subresources=("status", "exec", "attach", "log", "eviction", "ephemeralcontainers"),
    ),
    _core("namespaces", "Namespace", "ns", namespaced=False, subresources=("status",)),
    _core("nodes", "Node", "no", namespaced=False, subresources=("status",)),
    _core("services", "Service", "svc", categories=_ALL, subresources=("status",)),
    _core("endpoints", "Endpoints", "ep"),
    _core("configmaps", "ConfigMap", "cm"),
    _core("events", "Event", "ev", model="CoreV1Event"),
    _core("serviceaccounts", "ServiceAccount", "sa"),
    _core("secrets", "Secret"),
    _core("resourcequotas", "ResourceQuota", "quota", subresources=("status",)),
    _apps("deployments", "Deployment", "deploy"),
    _apps("replicasets", "ReplicaSet", "rs"),
    _apps("statefulsets", "StatefulSet", "sts"),
    _apps("daemonsets", "DaemonSet", "ds"),
    Resource("batch", "v1", "jobs", "Job", subresources=("status",), categories=_ALL, model="V1Job"),
    Resource(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        short=("netpol",),
        model="V1NetworkPolicy",
    ),
    _rbac("clusterroles", "ClusterRole", False),
    _rbac("clusterrolebindings", "ClusterRoleBinding", False),
    _rbac("roles", "Role", True),
    _rbac("rolebindings", "RoleBinding", True),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", model="V1EndpointSlice"),
    Resource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short=("crd", "crds"),
        subresources=("status",),
        model="V1CustomResourceDefinition",
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
        namespaced=False,
        verbs=("create",),
        model="V1SelfSubjectAccessReview",
    ),
    Resource(
        "authorization.k8s.io",
        "v1",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
        namespaced=False,
        verbs=("create",),
        model="V1SelfSubjectRulesReview",
    ),
)

AWS: tuple[Resource, ...] = (
    _aws("policyendpoints", "PolicyEndpoint", True),
    _aws("clusterpolicyendpoints", "ClusterPolicyEndpoint", False, "cpe"),
    _aws("clusternetworkpolicies", "ClusterNetworkPolicy", False, "cnp"),
    _aws("applicationnetworkpolicies", "ApplicationNetworkPolicy", True, "anp"),
)


class Registry:
    """The resources that are served now; custom ones come and go with their definition."""

    def __init__(self, custom: Iterable[str]) -> None:
        enabled = set(custom)
        self._resources = {(r.group, r.version, r.plural): r for r in BUILT_IN}
        for resource in AWS:
            if resource.plural in enabled:
                self.add(resource)

    def add(self, resource: Resource) -> None:
        self._resources[(resource.group, resource.version, resource.plural)] = resource

    def remove(self, resource: Resource) -> None:
        self._resources.pop((resource.group, resource.version, resource.plural), None)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def all(self) -> list[Resource]:
        return list(self._resources.values())

    def groups(self) -> list[tuple[str, str]]:
        """(group, version) pairs in the order of their first resource; the core group is ("", "v1")."""
        return list(dict.fromkeys((r.group, r.version) for r in self.all()))

    def of(self, what: str) -> Resource:
        """By kind, plural, singular or short name, as people write it in tests."""
        for resource in self.all():
            if what in (resource.kind, resource.plural, resource.singular, *resource.short):
                return resource
        raise KeyError(f"the lab's API server has no resource {what!r}")

    def of_object(self, obj: dict[str, object]) -> Resource:
        for resource in self.all():
            if (resource.kind, resource.api_version) == (obj.get("kind"), obj.get("apiVersion")):
                return resource
        raise KeyError(f"the lab's API server has no kind {obj.get('apiVersion')} {obj.get('kind')}")
