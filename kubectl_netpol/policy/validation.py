"""What the API server would refuse of a policy: the first problem as one sentence.

NetworkPolicy: the strict decoding that kubectl asks for, and k8s.io/kubernetes pkg/apis/networking/validation.
ApplicationNetworkPolicy and ClusterNetworkPolicy: the CRDs of networking.k8s.aws/v1alpha1 (agent facts 6.1; enums,
bounds and CEL rules from api/v1alpha1 of the controller). These CRDs have plain strings for selectors, CIDRs,
protocols and names of ports: there what NetworkPolicy refuses is refused as well, since the controller cannot resolve
it, and an answer about it would be a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubectl_netpol.policy.values import (
    Check,
    Problems,
    annotation_key,
    any_value,
    boolean,
    cidr,
    dns_label,
    domain,
    exactly_one,
    fields,
    label_key,
    label_value,
    listed,
    mapping,
    member,
    network_of,
    one_of,
    port_name,
    port_number,
    protocol,
    short_text,
    shown,
    subdomain,
    text,
    whole,
)
from kubectl_netpol.policy.world import APPLICATION_POLICY, CLUSTER_POLICY, NETWORK_POLICY

Json = dict[str, Any]

API_VERSIONS = {
    NETWORK_POLICY: "networking.k8s.io/v1",
    APPLICATION_POLICY: "networking.k8s.aws/v1alpha1",
    CLUSTER_POLICY: "networking.k8s.aws/v1alpha1",
}
INT64 = 1 << 63


def problem(policy: Json) -> str:
    """What is wrong with a policy of one of the three kinds, with the path and the value; "" where it is sound."""
    return next(_problems(policy), "")


def served(policy: Json) -> Json:
    """The metadata and spec of a sound policy without nulls: as the API server decodes them."""
    return {
        "metadata": _without_nulls(policy.get("metadata") or {}, ""),
        "spec": _without_nulls(policy.get("spec") or {}, ""),
    }


def _problems(policy: Json) -> Problems:
    kind = policy["kind"]
    wanted, given = API_VERSIONS[kind], policy.get("apiVersion")
    if given != wanted:
        yield f"apiVersion is {shown(given)}: {kind} is of {wanted}" if given else f"apiVersion is missing: {wanted}"
    for key in policy:
        if key not in ("apiVersion", "kind", "metadata", "spec", "status"):
            yield f"{member('', key).lstrip('.')} is unknown: apiVersion, kind, metadata, spec and status are known"
    metadata = policy.get("metadata")
    yield from METADATA[kind](_without_nulls({} if metadata is None else metadata, ""), "metadata")
    yield from SPECS[kind](policy.get("spec"), "spec")


# ---- nulls

STRINGS_BY_KEY = frozenset(("matchLabels", "labels", "annotations"))
STRINGS = frozenset(("except", "policyTypes", "values", "domainNames", "networks", "finalizers"))


def _without_nulls(value: Any, name: str) -> Any:
    """As Go decodes JSON: a null field is absent, a null element is empty, a null string is "".

    ``name``: the field that has the value.
    """
    if isinstance(value, dict):
        if name in STRINGS_BY_KEY:
            return {key: "" if one is None else one for key, one in value.items()}
        return {key: _without_nulls(one, str(key)) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        empty: object = "" if name in STRINGS else {}
        return [empty if one is None else _without_nulls(one, "") for one in value]
    return value


def _nulls(value: Any, path: str) -> Iterator[str]:
    """The paths of all nulls but those of a protocol with a default, which the API server fills in."""
    if value is None:
        yield path
    if isinstance(value, dict):
        for key, one in value.items():
            if not (one is None and key == "protocol" and path.endswith((".portNumber", ".portRange"))):
                yield from _nulls(one, member(path, key))
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _nulls(one, f"{path}[{number}]")


def _decoded(check: Check) -> Check:
    """A spec of a built-in kind: null is as good as nothing."""

    def found(value: Any, path: str) -> Problems:
        yield from check(_without_nulls({} if value is None else value, ""), path)

    return found


def _custom(check: Check) -> Check:
    """A spec of a custom resource: its schema takes no null."""

    def found(value: Any, path: str) -> Problems:
        if value is None:
            yield f"{path} is missing"
        for where in _nulls(value, path):
            yield f"{where} is null: leave it out"
        yield from check(_without_nulls(value, ""), path)

    return found


# ---- metadata

_OWNER = fields(
    {
        **dict.fromkeys(("apiVersion", "kind", "name", "uid"), text),
        **dict.fromkeys(("controller", "blockOwnerDeletion"), boolean),
    },
    required=("apiVersion", "kind", "name", "uid"),
)
_OF_THE_SERVER = ("generateName", "selfLink", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")


def _metadata(namespace: Check) -> Check:
    return fields(
        {
            "name": subdomain,
            "namespace": namespace,
            "labels": mapping(label_key, label_value),
            "annotations": mapping(annotation_key, text),
            **dict.fromkeys(_OF_THE_SERVER, text),
            **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), whole(-INT64, INT64 - 1)),
            "finalizers": listed(text),
            "ownerReferences": listed(_OWNER),
            "managedFields": listed(any_value),
        },
        required=("name",),
    )


def _namespace(value: Any, path: str) -> Problems:
    """An empty one is absent."""
    if value != "":
        yield from dns_label(value, path)


METADATA = {
    NETWORK_POLICY: _metadata(_namespace),
    APPLICATION_POLICY: _metadata(_namespace),
    CLUSTER_POLICY: _metadata(text),
}


# ---- selectors

_EXPRESSION = fields({"key": text, "operator": text, "values": listed(text)}, required=("key", "operator"))
_WITH_VALUES, _WITHOUT_VALUES = ("In", "NotIn"), ("Exists", "DoesNotExist")
_OPERATOR = one_of(*_WITH_VALUES, *_WITHOUT_VALUES)


def _expression(value: Any, path: str) -> Problems:
    yield from _EXPRESSION(value, path)
    yield from _OPERATOR(value["operator"], f"{path}.operator")
    operator, values = value["operator"], value.get("values") or []
    if operator in _WITH_VALUES and not values:
        yield f"{path}.values is missing: {operator} needs at least one"
    if operator in _WITHOUT_VALUES and values:
        yield f"{path}.values has {shown(values[0])}: {operator} takes no values"
    yield from label_key(value["key"], path)
    yield from listed(label_value)(values, f"{path}.values")


selector = fields({"matchLabels": mapping(label_key, label_value), "matchExpressions": listed(_expression)})


# ---- NetworkPolicy and ApplicationNetworkPolicy


def _int_or_name(value: Any, path: str) -> Problems:
    if isinstance(value, str):
        yield from port_name(value, path)
    elif isinstance(value, bool | list | dict):
        yield f"{path} is {shown(value)}, neither a number nor the name of a port"
    else:
        yield from port_number(value, path)


_PORT = fields({"protocol": protocol, "port": _int_or_name, "endPort": port_number})


def _port(value: Any, path: str) -> Problems:
    yield from _PORT(value, path)
    port, end = value.get("port"), value.get("endPort")
    if end is None:
        return
    if not isinstance(port, int):
        why = f"port is {shown(port)}, not a number" if port is not None else "there is no port"
        yield f"{path}.endPort is {end}: {why}"
    elif end < port:
        yield f"{path}.endPort is {end}, smaller than port {port}"


_BLOCK = fields({"cidr": cidr, "except": listed(cidr)}, required=("cidr",))


def _block(value: Any, path: str) -> Problems:
    yield from _BLOCK(value, path)
    outer = network_of(value["cidr"])
    for number, one in enumerate(value.get("except") or ()):
        inner, where = network_of(one), f"{path}.except[{number}] is {shown(one)}"
        if outer is None or inner is None:
            continue
        if inner.version != outer.version:
            yield f"{where}, IPv{inner.version}: cidr {value['cidr']} is IPv{outer.version}"
        elif inner.prefixlen <= outer.prefixlen or inner.network_address not in outer:
            yield f"{where}: it has to be inside cidr {value['cidr']}, and smaller"


_PEERS: dict[str, Check] = {"podSelector": selector, "namespaceSelector": selector, "ipBlock": _block}
_DOMAINS = listed(domain, least=1, unique=True)


def _peer(value: Any, path: str) -> Problems:
    if isinstance(value, dict) and "domainNames" in value:
        yield f"{path}.domainNames: domain names are for egress of the policies of networking.k8s.aws only"
    yield from fields(_PEERS)(value, path)
    yield from _one_kind(value, path)


def _peer_or_domain(value: Any, path: str) -> Problems:
    yield from fields({**_PEERS, "domainNames": _DOMAINS})(value, path)
    yield from _alone("domainNames", value, path)
    yield from _one_kind(value, path)


def _one_kind(value: Json, path: str) -> Problems:
    if not value:
        yield f"{path} is empty: podSelector, namespaceSelector or ipBlock is needed (`podSelector: {{}}` is all pods)"
    yield from _alone("ipBlock", value, path)


def _alone(form: str, value: Json, path: str) -> Problems:
    if form in value and len(value) > 1:
        yield f"{path} has {form} beside {next(key for key in value if key != form)}: that takes two peers"


def _policy_types(value: Any, path: str) -> Problems:
    yield from listed(one_of("Ingress", "Egress"), most=2)(value, path)


def _policy_spec(egress_peer: Check) -> dict[str, Check]:
    ports = listed(_port)
    return {
        "podSelector": selector,
        "ingress": listed(fields({"from": listed(_peer), "ports": ports})),
        "egress": listed(fields({"to": listed(egress_peer), "ports": ports})),
        "policyTypes": _policy_types,
    }


# ---- ClusterNetworkPolicy

_PODS = fields({"namespaceSelector": selector, "podSelector": selector}, required=("namespaceSelector", "podSelector"))
_SUBJECT: dict[str, Check] = {"namespaces": selector, "pods": _PODS}
_LONGEST_CIDR = short_text(43)


def _network(value: Any, path: str) -> Problems:
    yield from cidr(value, path)
    yield from _LONGEST_CIDR(value, path)


_DESTINATION: dict[str, Check] = {
    **_SUBJECT,
    "networks": listed(_network, least=1, most=25, unique=True),
    "domainNames": listed(domain, least=1, most=25, unique=True),
}


def _one_form(forms: dict[str, Check]) -> Check:
    def found(value: Any, path: str) -> Problems:
        yield from fields(forms)(value, path)
        yield from exactly_one(value, path, forms)

    return found


_RANGE = fields({"protocol": protocol, "start": port_number, "end": port_number}, required=("start", "end"))


def _range(value: Any, path: str) -> Problems:
    yield from _RANGE(value, path)
    if value["start"] >= value["end"]:
        yield f"{path}.start is {value['start']}: it has to be smaller than end, {value['end']}"


_CLUSTER_PORTS = listed(
    _one_form(
        {
            "portNumber": fields({"protocol": protocol, "port": port_number}, required=("port",)),
            "portRange": _range,
            "namedPort": port_name,
        }
    ),
    least=1,
    most=100,
)


def _cluster_rules(side: str, peer: Check) -> Check:
    known = fields(
        {
            "name": short_text(100),
            "action": one_of("Accept", "Deny", "Pass"),
            side: listed(peer, least=1, most=100),
            "ports": _CLUSTER_PORTS,
        },
        required=("action", side),
    )

    def rule(value: Any, path: str) -> Problems:
        yield from known(value, path)
        for number, one in enumerate(value[side]):
            if value["action"] == "Deny" and "domainNames" in one:
                yield f"{path}.{side}[{number}].domainNames: action is Deny, domain names are for Accept and Pass"

    return listed(rule, most=100)


SPECS: dict[str, Check] = {
    NETWORK_POLICY: _decoded(fields(_policy_spec(_peer))),
    APPLICATION_POLICY: _custom(fields(_policy_spec(_peer_or_domain), required=("podSelector",))),
    CLUSTER_POLICY: _custom(
        fields(
            {
                "tier": one_of("Admin", "Baseline"),
                "priority": whole(0, 1000),
                "subject": _one_form(_SUBJECT),
                "ingress": _cluster_rules("from", _one_form(_SUBJECT)),
                "egress": _cluster_rules("to", _one_form(_DESTINATION)),
            },
            required=("tier", "priority", "subject"),
        )
    ),
}
