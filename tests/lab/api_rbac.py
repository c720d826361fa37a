"""RBAC: what roles and bindings that are stored allow a user, as the API server evaluates them.

Rules are taken as they are written: verbs, groups, resources with subresource, names. Not done: aggregated roles, paths
that are no resources, and the check that nobody gives away more than they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .api_auth import Rule
from .api_store import Store
from .api_types import Registry

Json = dict[str, Any]

GROUP = "rbac.authorization.k8s.io"


def bound_rules(store: Store, registry: Registry, user: str, groups: Sequence[str]) -> list[Rule]:
    """All rules of all roles that are bound to the user or to one of the groups."""
    found: list[Rule] = []
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        for binding in store.list(registry.of(kind), None):
            if any(_means(subject, user, groups) for subject in binding.get("subjects") or ()):
                found += _rules_of(store, registry, binding)
    return found


def _means(subject: Json, user: str, groups: Sequence[str]) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return user == f"system:serviceaccount:{subject.get('namespace')}:{name}"
    if subject.get("apiGroup") != GROUP:
        return False
    return (kind == "User" and name == user) or (kind == "Group" and name in groups)


def _rules_of(store: Store, registry: Registry, binding: Json) -> Iterator[Rule]:
    """A RoleBinding gives the rules of either kind in its own namespace only."""
    reference, namespace = binding["roleRef"], binding["metadata"].get("namespace")
    kind = reference["kind"]
    if kind == "Role" and not namespace:
        return
    role = store.find(registry.of(kind), namespace if kind == "Role" else None, reference["name"])
    for rule in (role or {}).get("rules") or ():
        yield from rule_of(rule, namespace)


def rule_of(rule: Json, namespace: str | None) -> Iterator[Rule]:
    """One PolicyRule; None: in the whole cluster. Of one about paths nothing."""
    if rule.get("resources"):
        yield Rule(
            tuple(rule.get("verbs") or ()),
            tuple(rule["resources"]),
            (namespace or "*",),
            tuple(rule.get("apiGroups") or ()),
            tuple(rule.get("resourceNames") or ()),
        )
