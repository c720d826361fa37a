"""The three patch formats that clients send; server-side apply is treated as a strategic merge."""

from __future__ import annotations

import copy
from typing import Any

from .api_errors import ApiError, bad_request

Json = dict[str, Any]

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

# Lists that strategic merge joins by a key of their items, by field name; all others are replaced.
_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "hostAliases": ("ip",),
    "podIPs": ("ip",),
    "addresses": ("type",),
    "topologySpreadConstraints": ("topologyKey",),
}
_SETS = {"finalizers"}


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any, field: str = "", atomic: bool = False) -> Any:
    if isinstance(patch, dict):
        return _merge_maps(target if isinstance(target, dict) else {}, patch, atomic)
    if isinstance(patch, list) and isinstance(target, list) and not atomic:
        return _merge_lists(target, patch, field)
    return copy.deepcopy(patch)


def _merge_maps(target: Json, patch: Json, atomic: bool) -> Json:
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    keep = patch.get("$retainKeys")
    result = {k: v for k, v in target.items() if keep is None or k in keep}
    for key, value in patch.items():
        if key.startswith("$"):
            _directive(result, key, value)
        elif value is None:
            result.pop(key, None)
        else:
            # In a NetworkPolicy ports have no merge key; only lists of containers and Services have one.
            result[key] = strategic_merge(result.get(key), value, key, atomic or key in ("ingress", "egress"))
    return result


def _directive(result: Json, key: str, value: Any) -> None:
    operation, _, field = key.partition("/")
    if operation == "$deleteFromPrimitiveList":
        result[field] = [item for item in result.get(field) or [] if item not in value]


def _merge_lists(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in _SETS:
        return target + [item for item in patch if item not in target]
    items = [item for item in patch if isinstance(item, dict)]
    if any(item == {"$patch": "replace"} for item in items):
        return [copy.deepcopy(item) for item in patch if item != {"$patch": "replace"}]
    keys = [k for k in _KEYS.get(field, ()) if items and all(k in item for item in items)]
    if not keys or len(items) != len(patch):
        return copy.deepcopy(patch)
    return _merge_by_key(target, items, keys[0])


def _merge_by_key(target: list[Any], items: list[Json], key: str) -> list[Any]:
    result = list(target)
    for item in items:
        index = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if index is not None:
                del result[index]
        elif index is None:
            result.append(copy.deepcopy(item))
        else:
            result[index] = strategic_merge(result[index], item)
    return result


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise bad_request(f"invalid JSON pointer {path!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _unprocessable(message: str) -> ApiError:
    return ApiError(422, f"the server rejected our request due to an error in our request: {message}")


def _walk(document: Any, parts: list[str]) -> Any:
    for part in parts:
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _unprocessable(f"path {'/'.join(parts)!r} does not exist") from None
    return document


def _put(document: Any, parts: list[str], value: Any, replace: bool) -> Any:
    if not parts:
        return value
    parent = _walk(document, parts[:-1])
    last = parts[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if replace:
            parent[index] = value
        else:
            parent.insert(index, value)
    elif isinstance(parent, dict):
        if replace and last not in parent:
            raise _unprocessable(f"replace: missing key {last!r}")
        parent[last] = value
    return document


def _delete(document: Any, parts: list[str]) -> None:
    _walk(document, parts)
    parent = _walk(document, parts[:-1])
    if isinstance(parent, list):
        del parent[int(parts[-1])]
    else:
        del parent[parts[-1]]


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    document = copy.deepcopy(target)
    for operation in operations:
        parts, kind = _pointer(operation["path"]), operation["op"]
        if kind == "test":
            if _walk(document, parts) != operation.get("value"):
                raise _unprocessable(f"testing value {operation['path']} failed")
        elif kind in ("add", "replace"):
            document = _put(document, parts, copy.deepcopy(operation.get("value")), kind == "replace")
        elif kind == "remove":
            _delete(document, parts)
        elif kind in ("move", "copy"):
            source = _pointer(operation["from"])
            value = copy.deepcopy(_walk(document, source))
            if kind == "move":
                _delete(document, source)
            document = _put(document, parts, value, False)
        else:
            raise bad_request(f"unknown JSON patch operation {kind!r}")
    return document


def apply_patch(target: Json, patch: Any, content_type: str, custom: bool) -> Json:
    if content_type == JSON_PATCH:
        return json_patch(target, patch)  # type: ignore[no-any-return]
    if content_type == MERGE:
        return merge_patch(target, patch)  # type: ignore[no-any-return]
    if content_type == STRATEGIC and not custom:
        return strategic_merge(target, patch)  # type: ignore[no-any-return]
    if content_type == APPLY:
        return merge_patch(target, patch) if custom else strategic_merge(target, patch)  # type: ignore[no-any-return]
    accepted = [JSON_PATCH, MERGE, APPLY] if custom else [JSON_PATCH, MERGE, STRATEGIC, APPLY]
    raise ApiError(
        415,
        "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted),
    )
