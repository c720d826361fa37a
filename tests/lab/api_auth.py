"""Who asks, and whether they may: tokens, impersonation, and a stand-in for RBAC."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import api_errors as errors

Json = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What a role allows. `*` means all; resources are plurals, with subresource as in RBAC: `pods/exec`.

    `namespaces=("*",)` is a ClusterRoleBinding, which alone also covers cluster-scoped resources and lists over
    all namespaces.
    """

    verbs: Sequence[str]
    resources: Sequence[str]
    namespaces: Sequence[str] = ("*",)
    groups: Sequence[str] = ("*",)
    names: Sequence[str] = ()

    def allows(self, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        _, _, subresource = resource.partition("/")
        resources = {"*", resource} | ({f"*/{subresource}"} if subresource else set())
        return (
            ("*" in self.verbs or verb in self.verbs)
            and bool(resources & set(self.resources))
            and ("*" in self.groups or group in self.groups)
            and ("*" in self.namespaces or (bool(namespace) and namespace in self.namespaces))
            and (not self.names or name in self.names)
        )


ALL = (Rule(("*",), ("*",)),)


@dataclass(frozen=True)
class Access:
    """One thing that a user did and needed a right for; ``resource`` with subresource."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


@dataclass
class User:
    name: str
    rules: Sequence[Rule] = ALL
    groups: Sequence[str] = ("system:authenticated",)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    used: list[Access] = field(default_factory=list)
    """What was asked for and allowed, in order."""

    def may(self, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        return any(rule.allows(verb, group, resource, namespace, name) for rule in self.rules)

    def require(
        self, verb: str, group: str, resource: str, namespace: str = "", name: str = "", scope: bool = True
    ) -> None:
        """403 in the API server's words unless a rule allows it."""
        if self.may(verb, group, resource, namespace, name):
            self.used.append(Access(self.name, verb, group, resource, namespace, name))
            return
        where = ""
        if scope:
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        why = f'User "{self.name}" cannot {verb} resource "{resource}" in API group "{group}"{where}'
        raise errors.forbidden(resource.partition("/")[0], group, name, why)


class Users:
    """``bound``: the rules that roles and bindings give to (user, groups), beside those that a test gave."""

    def __init__(
        self, users: Iterable[User], bound: Callable[[str, Sequence[str]], Sequence[Rule]] = lambda user, groups: ()
    ) -> None:
        self._by_name = {user.name: user for user in users}
        self._bound = bound

    def add(self, user: User) -> User:
        self._by_name[user.name] = user
        return user

    def get(self, name: str) -> User:
        return self._by_name[name]

    def all(self) -> list[User]:
        return list(self._by_name.values())

    def authenticate(self, authorization: str, impersonated: str, groups: Sequence[str]) -> User:
        """The user of the bearer token, or whom it impersonates."""
        scheme, _, token = authorization.partition(" ")
        user = next((u for u in self.all() if secrets.compare_digest(u.token, token)), None)
        if scheme.lower() != "bearer" or user is None:
            raise errors.unauthorized()
        return self._with_roles(self._impersonate(self._with_roles(user), impersonated, groups))

    def _with_roles(self, user: User) -> User:
        """What it does is noted with the one user all the same."""
        bound = () if user.rules is ALL else self._bound(user.name, user.groups)
        return replace(user, rules=(*user.rules, *bound)) if bound else user

    def _impersonate(self, user: User, name: str, groups: Sequence[str]) -> User:
        if not name:
            if groups:
                raise errors.internal("requested groups without impersonating a user")
            return user
        kind = "serviceaccounts" if name.startswith("system:serviceaccount:") else "users"
        user.require("impersonate", "", kind, name=name)
        for group in groups:
            user.require("impersonate", "", "groups", name=group)
        if "system:masters" in groups:
            return User(name, ALL, tuple(groups))
        known = self._by_name.get(name)
        return User(name, known.rules if known else (), tuple(groups) or ("system:authenticated",))


def access_review(user: User, review: Json) -> Json:
    """SelfSubjectAccessReview, answered from the same rules as requests are."""
    attributes = review["spec"].get("resourceAttributes")
    if attributes is None:
        allowed = True  # paths that are no resources: discovery, which everyone may read
    else:
        resource = attributes.get("resource", "*")
        if attributes.get("subresource"):
            resource += "/" + attributes["subresource"]
        verb, group = attributes.get("verb", "*"), attributes.get("group", "")
        allowed = user.may(verb, group, resource, attributes.get("namespace", ""), attributes.get("name", ""))
    status: Json = {"allowed": allowed}
    if allowed:
        status["reason"] = "RBAC: allowed by the lab's rules"
    return review | {"status": status}


def rules_review(user: User, review: Json) -> Json:
    namespace = review["spec"].get("namespace", "")
    listed = [
        {
            "verbs": list(rule.verbs),
            "apiGroups": list(rule.groups),
            "resources": list(rule.resources),
            **({"resourceNames": list(rule.names)} if rule.names else {}),
        }
        for rule in user.rules
        if "*" in rule.namespaces or namespace in rule.namespaces
    ]
    status = {"resourceRules": listed, "nonResourceRules": [], "incomplete": False}
    return review | {"status": status}
