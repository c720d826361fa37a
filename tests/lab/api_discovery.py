"""Discovery documents: the old ones, one per group and version, and the aggregated one that kubectl prefers."""

from __future__ import annotations

from typing import Any

from .api_errors import PageNotFoundError
from .api_types import Registry, Resource

Json = dict[str, Any]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_SUB_VERBS = {
    "exec": ["create", "get"],
    "attach": ["create", "get"],
    "log": ["get"],
    "eviction": ["create"],
}
_SUB_KINDS = {
    "exec": ("", "v1", "PodExecOptions"),
    "attach": ("", "v1", "PodAttachOptions"),
    "eviction": ("policy", "v1", "Eviction"),
    "scale": ("autoscaling", "v1", "Scale"),
}


def wants_aggregated(accept: str) -> bool:
    first = accept.split(",")[0].replace(" ", "")
    return "g=apidiscovery.k8s.io" in first and "v=v2" in first.split(";")


def version_document(git_version: str) -> Json:
    major, minor = git_version.lstrip("v").split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.24",
        "compiler": "gc",
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> Json:
    servers = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": servers}


def _group(group: str, version: str) -> Json:
    entry = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def group_list(registry: Registry) -> Json:
    groups = [_group(group, version) for group, version in registry.groups() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def one_group(registry: Registry, name: str) -> Json:
    for group, version in registry.groups():
        if group == name:
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(group, version)
    raise PageNotFoundError


def _legacy(resource: Resource) -> list[Json]:
    entry: Json = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    entries = [entry]
    for name in resource.subresources:
        group, version, kind = _SUB_KINDS.get(name, (resource.group, resource.version, resource.kind))
        sub: Json = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": _SUB_VERBS.get(name, ["get", "patch", "update"]),
        }
        if (group, version) != (resource.group, resource.version):
            sub |= {"group": group, "version": version}
        entries.append(sub)
    return entries


def resource_list(registry: Registry, group: str, version: str) -> Json:
    found = [r for r in registry.all() if (r.group, r.version) == (group, version)]
    if not found:
        raise PageNotFoundError
    entries = [entry for resource in found for entry in _legacy(resource)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _modern(resource: Resource) -> Json:
    entry: Json = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    subresources = []
    for name in resource.subresources:
        group, version, kind = _SUB_KINDS.get(name, (resource.group, resource.version, resource.kind))
        subresources.append(
            {
                "subresource": name,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": _SUB_VERBS.get(name, ["get", "patch", "update"]),
            }
        )
    return entry | ({"subresources": subresources} if subresources else {})


def aggregated(registry: Registry, core: bool) -> Json:
    items = []
    for group, version in registry.groups():
        if bool(group) == core:
            continue
        found = [_modern(r) for r in registry.all() if (r.group, r.version) == (group, version)]
        metadata: Json = {"name": group} if group else {}
        versions = [{"version": version, "resources": found, "freshness": "Current"}]
        items.append({"metadata": metadata | {"creationTimestamp": None}, "versions": versions})
    kind = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2"}
    return kind | {"metadata": {}, "items": items}
