"""The rights that the tool needs of its user, as docs/rbac.md lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

AWS = "networking.k8s.aws"


@dataclass(frozen=True)
class Right:
    """One question for a SelfSubjectAccessReview."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    """Empty: in the whole cluster."""
    name: str = ""
    """Of the one object that is read; empty: any."""
    subresource: str = ""

    @property
    def text(self) -> str:
        """`create pods/exec in kube-system`, `get configmaps/amazon-vpc-cni`."""
        what = f"{self.resource}/{self.subresource or self.name}".rstrip("/")
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")

    @property
    def attributes(self) -> Json:
        """resourceAttributes of the review."""
        fields = ("verb", "resource", "group", "namespace", "name", "subresource")
        return {field: getattr(self, field) for field in fields if getattr(self, field)}


def needed(debug_namespace: str) -> tuple[Right, ...]:
    """All of them, those of the API first, then those of the debug pod."""
    return (*_OF_THE_API, *_of_the_debug_pod(debug_namespace))


_OF_THE_API = (
    *(Right("list", resource) for resource in ("pods", "namespaces", "services", "nodes", "events")),
    Right("list", "networkpolicies", "networking.k8s.io"),
    *(
        Right("list", resource, AWS)
        for resource in (
            "policyendpoints",
            "clusterpolicyendpoints",
            "clusternetworkpolicies",
            "applicationnetworkpolicies",
        )
    ),
    Right("list", "daemonsets", "apps"),
    Right("get", "configmaps", namespace="kube-system", name="amazon-vpc-cni"),
    Right("get", "clusterroles", "rbac.authorization.k8s.io", name="aws-node"),
)


def _of_the_debug_pod(namespace: str) -> tuple[Right, ...]:
    return (
        Right("get", "nodes"),
        *(Right(verb, "pods", namespace=namespace) for verb in ("list", "create", "get", "watch", "delete")),
        *(Right(verb, "pods", namespace=namespace, subresource="exec") for verb in ("create", "get")),
    )
