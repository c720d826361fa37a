"""Which fields an object may have, and of which type: taken from the models of the Kubernetes client."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .api_errors import Cause, bad_request, invalid
from .api_types import Resource

Json = dict[str, Any]

QUANTITIES = {"limits", "requests", "capacity", "allocatable", "hard", "used", "overhead", "min", "max"}


@dataclass(frozen=True)
class Node:
    """A type. `fields` is a function, because models refer to each other and are big."""

    kind: str  # str int bool float any list map struct
    name: str = ""  # of the Go struct
    item: Node | None = None
    fields: Callable[[], dict[str, Node]] = field(default=dict, compare=False)
    required: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()


_SCALARS = {
    "str": "str",
    "datetime": "str",
    "bytes": "str",
    "int": "int",
    "bool": "bool",
    "float": "float",
    "object": "any",
}
_GO = {"str": "string", "int": "int32", "bool": "bool", "float": "float64"}


@cache
def of_model(type_name: str) -> Node:
    """The node for a type as the models' openapi_types name it."""
    if type_name in _SCALARS:
        return Node(_SCALARS[type_name])
    if match := re.fullmatch(r"List\[(.*)]", type_name):
        return Node("list", item=of_model(match.group(1)))
    if match := re.fullmatch(r"Dict\[str, (.*)]", type_name):
        return Node("map", item=of_model(match.group(1)))
    return Node(
        "struct",
        re.sub(r"^(Core|Discovery|Events)?V\d+((alpha|beta)\d+)?", "", type_name),
        fields=_fields(type_name),
    )


def _fields(model: str) -> Callable[[], dict[str, Node]]:
    @cache
    def load() -> dict[str, Node]:
        # Imported late: the models take a third of a second, which a test that only lists need not pay.
        from kubernetes.client import models

        cls = getattr(models, model, None)
        if cls is None or not hasattr(cls, "attribute_map"):
            return {}
        return {cls.attribute_map[name]: of_model(kind) for name, kind in cls.openapi_types.items()}

    return load


def struct(name: str, spec: dict[str, Any]) -> Node:
    """A schema of our own: {"field!": type}; `!` marks required; a type is a name, a dict, [item] or a Node."""
    fields = {key.rstrip("!"): _node(name, value) for key, value in spec.items()}
    required = tuple(key[:-1] for key in spec if key.endswith("!"))
    return Node("struct", name, fields=lambda: fields, required=required)


def _node(name: str, value: Any) -> Node:
    if isinstance(value, Node):
        return value
    if isinstance(value, dict):
        return struct(name, value)
    if isinstance(value, list):
        return Node("list", item=_node(name, value[0]))
    if isinstance(value, tuple):
        return Node("str", enum=value)
    return of_model(value)


def _aws_schemas() -> dict[str, Json]:
    selector = "V1LabelSelector"
    ports = [{"protocol": "str", "port": "int", "endPort": "int"}]
    peer = {"cidr": "str", "except": ["str"], "ports": ports, "domainName": "str"}
    pods = [{"hostIP!": "str", "podIP!": "str", "name!": "str", "namespace!": "str"}]
    action = ("Accept", "Deny", "Pass")
    cluster_peer = {"cidr": "str", "ports": ports, "domainName": "str", "action!": action}
    two_selectors = {"namespaceSelector!": selector, "podSelector!": selector}
    subject = {"namespaces": selector, "pods": two_selectors}
    port_forms = [
        {
            "portNumber": {"protocol!": "str", "port!": "int"},
            "portRange": {"protocol": "str", "start!": "int", "end!": "int"},
            "namedPort": "str",
        }
    ]
    cnp_to = subject | {"networks": ["str"], "domainNames": ["str"]}
    tier = ("Admin", "Baseline")
    anp_peer = {"podSelector": selector, "namespaceSelector": selector, "ipBlock": "V1IPBlock"}
    return {
        "PolicyEndpoint": {
            "podSelector": selector,
            "podSelectorEndpoints": pods,
            "policyRef!": {"name!": "str", "namespace!": "str"},
            "podIsolation": [("Ingress", "Egress")],
            "ingress": [peer],
            "egress": [peer],
        },
        "ClusterPolicyEndpoint": {
            "policyRef!": {"name!": "str"},
            "tier!": tier,
            "priority!": "int",
            "subject": "object",
            "podSelectorEndpoints": pods,
            "ingress": [cluster_peer],
            "egress": [cluster_peer],
        },
        "ClusterNetworkPolicy": {
            "tier!": tier,
            "priority!": "int",
            "subject!": subject,
            "ingress": [{"name": "str", "action!": action, "from!": [subject], "ports": port_forms}],
            "egress": [{"name": "str", "action!": action, "to!": [cnp_to], "ports": port_forms}],
        },
        "ApplicationNetworkPolicy": {
            "podSelector!": selector,
            "policyTypes": [("Ingress", "Egress")],
            "ingress": [{"from": [anp_peer], "ports": ["V1NetworkPolicyPort"]}],
            "egress": [{"to": [anp_peer | {"domainNames": ["str"]}], "ports": ["V1NetworkPolicyPort"]}],
        },
    }


@cache
def of_resource(resource: Resource) -> Node:
    if not resource.custom:
        return of_model(resource.model)
    spec = _aws_schemas().get(resource.kind)
    fields: Json = {"apiVersion": "str", "kind": "str", "metadata": "V1ObjectMeta", "status": "object"}
    return struct(resource.kind, fields | {"spec": spec if spec is not None else "object"})


class Checker:
    """Walks one object; collects unknown fields and, for custom resources, invalid ones."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.unknown: list[str] = []
        self.causes: list[Cause] = []

    def check(self, obj: Json) -> Json:
        """The object without unknown fields."""
        return self._visit(of_resource(self.resource), obj, "", self.resource.kind, "")  # type: ignore[no-any-return]

    def _visit(self, node: Node, value: Any, path: str, owner: str, name: str) -> Any:
        if value is None or node.kind == "any":
            return value
        if node.kind == "struct" and isinstance(value, dict):
            return self._struct(node, value, path)
        if node.kind == "map" and isinstance(value, dict) and node.item:
            item = node.item
            if name in QUANTITIES:
                return {k: str(v) if isinstance(v, (int, float)) else v for k, v in value.items()}
            return {key: self._visit(item, each, path, owner, name) for key, each in value.items()}
        if node.kind == "list" and isinstance(value, list) and node.item:
            return [self._visit(node.item, v, f"{path}[{i}]", owner, name) for i, v in enumerate(value)]
        if not _is_scalar(node.kind, value):
            self._wrong_type(node, value, path, owner)
        if node.enum and value not in node.enum:
            allowed = ", ".join(f'"{one}"' for one in node.enum)
            text = f'Unsupported value: "{value}": supported values: {allowed}'
            self.causes.append((path, "FieldValueNotSupported", text))
        return value

    def _struct(self, node: Node, value: Json, path: str) -> Json:
        fields = node.fields()
        kept: Json = {}
        for key, each in value.items():
            where = f"{path}.{key}" if path else key
            known = fields.get(key)
            if known is None and fields:
                self.unknown.append(where)
            else:
                kept[key] = self._visit(known, each, where, node.name, key) if known else each
        for key in node.required:
            if value.get(key) is None:
                where = f"{path}.{key}" if path else key
                self.causes.append((where, "FieldValueRequired", "Required value"))
        return kept

    def _wrong_type(self, node: Node, value: Any, path: str, owner: str) -> None:
        if self.resource.custom:
            got, want = _json_type(value, "integer"), _OPENAPI[node.kind]["type"]
            text = f'Invalid value: "{got}": {path} in body must be of type {want}: "{got}"'
            self.causes.append((path, "FieldValueTypeInvalid", text))
            return
        kind, version = self.resource.kind, self.resource.api_version.rpartition("/")[2]
        where = re.sub(r"\[\d+]", "", path)
        got = _json_type(value, "number")
        raise bad_request(
            f'{kind} in version "{version}" cannot be handled as a {kind}: json: cannot unmarshal {got} into '
            f"Go struct field {owner}.{where} of type {_go_type(node)}"
        )


def _is_scalar(kind: str, value: Any) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool)


def _json_type(value: Any, number: str) -> str:
    if isinstance(value, bool):
        return "boolean" if number == "integer" else "bool"
    if isinstance(value, (int, float)):
        return number
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _go_type(node: Node) -> str:
    if node.kind == "list" and node.item:
        return "[]" + _go_type(node.item)
    if node.kind == "map" and node.item:
        return "map[string]" + _go_type(node.item)
    return _GO.get(node.kind) or f"v1.{node.name}"


def clean(resource: Resource, obj: Json, validation: str) -> tuple[Json, list[str]]:
    """The object as the server keeps it, and its warnings; refuses as fieldValidation asks."""
    checker = Checker(resource)
    kept = checker.check(obj)
    warnings: list[str] = []
    if checker.unknown and validation == "Strict":
        named = ", ".join(f'unknown field "{path}"' for path in checker.unknown)
        kind, version = resource.kind, resource.api_version.rpartition("/")[2]
        if resource.custom:
            raise bad_request(f"{kind} in version {version!r} cannot be handled: strict decoding error: {named}")
        raise bad_request(
            f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {named}'
        )
    if validation != "Ignore":
        warnings = [f'unknown field "{path}"' for path in checker.unknown]
    if checker.causes:
        raise invalid(resource.kind, resource.group, kept.get("metadata", {}).get("name", ""), checker.causes)
    return kept, warnings


# -- OpenAPI documents, generated from the same nodes
# ----------------------------------------------------------

_OPENAPI: dict[str, Json] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int32"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "list": {"type": "array"},
    "map": {"type": "object"},
    "struct": {"type": "object"},
}


class Documents:
    """Writes schemas for some resources; structs become components that refer to each other."""

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources
        self.components: dict[str, Json] = {}

    def _schema(self, node: Node) -> Json:
        if node.kind == "list" and node.item:
            return {"type": "array", "items": self._schema(node.item)}
        if node.kind == "map" and node.item:
            return {"type": "object", "additionalProperties": self._schema(node.item)}
        if node.kind != "struct":
            return dict(_OPENAPI[node.kind])
        if node.required:  # ours: written in place, its name is not unique
            return self._object(node)
        name = f"io.k8s.api.{node.name}"
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self._object(node)
        return {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}

    def _object(self, node: Node) -> Json:
        body: Json = {"type": "object", "properties": {k: self._schema(v) for k, v in node.fields().items()}}
        return body | ({"required": list(node.required)} if node.required else {})

    def v3(self) -> Json:
        paths: Json = {}
        for resource in self.resources:
            gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
            name = f"lab.{resource.group or 'core'}.{resource.version}.{resource.kind}"
            self.components[name] = self._object(of_resource(resource)) | {"x-kubernetes-group-version-kind": [gvk]}
            # No strategic-merge-patch body is announced: kubectl then takes the merge keys from its own
            # types.
            paths[resource.path("{namespace}", "{name}")] = {
                verb: {
                    "operationId": f"{verb}{resource.kind}",
                    "parameters": [_query("fieldValidation"), _query("dryRun"), _query("fieldManager")],
                    "x-kubernetes-action": verb,
                    "x-kubernetes-group-version-kind": gvk,
                    "responses": {"200": {"description": "OK"}},
                }
                for verb in ("get", "put", "patch", "delete")
            }
        info = {"title": "Kubernetes", "version": "lab"}
        return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": self.components}}

    def v2(self) -> Json:
        info = {"title": "Kubernetes", "version": "lab"}
        paths = self.v3()["paths"]
        return {"swagger": "2.0", "info": info, "paths": paths, "definitions": {}}


def _query(name: str) -> Json:
    return {"name": name, "in": "query", "schema": {"type": "string"}}
