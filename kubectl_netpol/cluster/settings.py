"""What tells how the VPC CNI is set up, as collections: single objects by name, and lists that may be refused.

None of it is needed to answer about a packet, so nothing here ends a run: what cannot be read is a Collection with
a reason. ConfigMaps and ClusterRoles are never listed, since others of them are none of the tool's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kubectl_netpol.cluster.api import Api
from kubectl_netpol.cluster.parallel import side_by_side
from kubectl_netpol.cluster.rights import Right, needed
from kubectl_netpol.cluster.trim import trim
from kubectl_netpol.errors import ApiError
from kubectl_netpol.model.snapshot import Collection

Json = dict[str, Any]

DAEMONSETS = "/apis/apps/v1/daemonsets"
AWS_NODE = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node"
CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/amazon-vpc-cni"
CLUSTER_ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/aws-node"
EVENTS = "/api/v1/events"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
NO_SANDBOX = "FailedCreatePodSandBox"
"""The kubelet's reason for a pod whose network could not be made."""
MOST_EVENTS = 500
REVIEWS_AT_ONCE = 8


def read(api: Api, kind: str, debug_namespace: str) -> Collection:
    """One of ``KINDS``, of whatever shape the answer is. Raises ``ApiError`` only where the user is not known."""
    try:
        return KINDS[kind](api, debug_namespace)
    except ApiError as error:
        if error.status == 401:
            raise
        return Collection(reason=error.message)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Collection(reason=f"the answer does not have the shape of its kind ({type(error).__name__}: {error})")


def _daemonsets(api: Api, _: str) -> Collection:
    try:
        return Collection(_kept("daemonsets", api.list(DAEMONSETS).items))
    except ApiError as error:
        if error.status != 403:
            raise
        refusal = error.message
    reason = f"only kube-system/aws-node was read: {refusal}"
    try:
        return Collection(_kept("daemonsets", [api.get(AWS_NODE)]), reason)
    except ApiError as error:
        if error.status != 404:
            raise
        return Collection(reason=reason.replace("was read", "was asked for, and it is not there"))


def _one(kind: str, path: str, api: Api, _: str) -> Collection:
    """The one object of this path; where there is none, that is known."""
    try:
        return Collection(_kept(kind, [api.get(path)]))
    except ApiError as error:
        if error.status != 404:
            raise
        return Collection()


def _version(api: Api, _: str) -> Collection:
    found = api.get("/version")
    return Collection((trim("versions", {**found, "metadata": {"name": "kubernetes"}}),))


def _events(api: Api, _: str) -> Collection:
    listed = api.list(EVENTS, fieldSelector=f"reason={NO_SANDBOX}").items
    # Once more: a bundle must not hold what other events say, whoever answers.
    found = _kept("events", (event for event in listed if event.get("reason") == NO_SANDBOX))
    return Collection(tuple(sorted(found, key=_seen_at, reverse=True)[:MOST_EVENTS]))


def _seen_at(event: Json) -> str:
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")


def _reviews(api: Api, debug_namespace: str) -> Collection:
    """Asking stores nothing in the cluster: the answer comes back in the object that was sent."""
    return Collection(tuple(side_by_side(partial(_review, api), needed(debug_namespace), REVIEWS_AT_ONCE)))


def _review(api: Api, right: Right) -> Json:
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    answer = api.create(REVIEWS, {**kind, "spec": {"resourceAttributes": right.attributes}})
    allowed = (answer.get("status") or {}).get("allowed")
    item = {"metadata": {"name": right.text}, "spec": right.attributes, "status": {"allowed": allowed is True}}
    return trim("accessreviews", item)


def _kept(kind: str, items: Iterable[Json]) -> tuple[Json, ...]:
    return tuple(trim(kind, item) for item in items if item.get("metadata"))


KINDS: dict[str, Callable[[Api, str], Collection]] = {
    "daemonsets": _daemonsets,
    "configmaps": partial(_one, "configmaps", CONFIG_MAP),
    "clusterroles": partial(_one, "clusterroles", CLUSTER_ROLE),
    "versions": _version,
    "events": _events,
    "accessreviews": _reviews,
}
