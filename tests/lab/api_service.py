"""What the API does with objects, apart from HTTP: create, update, patch, delete, with all checks and
defaults.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from . import api_admission as admission
from . import api_defaults as defaults
from . import api_errors as errors
from . import api_patch, api_schema
from .api_controllers import Controllers, is_owned, set_owners
from .api_selectors import Match, everything
from .api_store import Store, now
from .api_types import Registry, Resource
from .api_validate import validate, validate_update

Json = dict[str, Any]

# Whose deletion is answered with the object; all others answer with a Status.
_RETURNS_OBJECT = {"Pod", "Service", "ServiceAccount", "ResourceQuota"}


@dataclass
class Options:
    """The query parameters of a write."""

    validation: str = ""
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)


def _decode_check(resource: Resource, obj: Any) -> Json:
    if not isinstance(obj, dict):
        raise errors.bad_request(f"the object provided is unrecognized (must be of type {resource.kind}): {obj!r}")
    kind, version = obj.get("kind") or resource.kind, obj.get("apiVersion") or resource.api_version
    if kind != resource.kind:
        raise errors.bad_request(
            f'{kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f'no kind "{kind}" is registered for this resource'
        )
    if version != resource.api_version:
        raise errors.bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({resource.api_version})"
        )
    return {"kind": kind, "apiVersion": version} | copy.deepcopy(obj)


class Service:
    def __init__(self, store: Store, registry: Registry) -> None:
        self.store, self.registry = store, registry
        self.controllers: Controllers | None = None

    # -- create ----------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, body: Any, options: Options | None = None) -> Json:
        options = options or Options()
        obj = self._prepared(resource, namespace, body, options)
        with self.store.transaction():
            self._namespace_takes(resource, obj)
            self._admit(resource, obj, options)
            if self.store.find(resource, namespace, obj["metadata"]["name"]) is not None:
                raise errors.already_exists(resource.plural, resource.group, obj["metadata"]["name"])
            if options.dry_run:
                obj["metadata"] |= {"uid": "00000000-0000-4000-a000-000000000000", "creationTimestamp": now()}
                return obj
            return self.store.create(resource, obj)

    def _prepared(self, resource: Resource, namespace: str, body: Any, options: Options) -> Json:
        """Decoded, named, defaulted, valid."""
        obj = _decode_check(resource, body)
        # A pod with a misspelt field would only warn by default: tests want to hear of it.
        validation = options.validation or ("Strict" if resource.kind == "Pod" else "Warn")
        obj, warnings = api_schema.clean(resource, obj, validation)
        options.warnings += warnings
        meta = obj["metadata"] = obj.get("metadata") or {}
        self._set_namespace(resource, meta, namespace)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = defaults.generated_name(meta["generateName"])
        for given in (
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "deletionTimestamp",
            "generation",
            "selfLink",
        ):
            meta.pop(given, None)
        if resource.kind not in ("Node", "Event") and "status" in resource.subresources:
            obj.pop("status", None)
        _drop_nulls(obj)
        self._fill(resource, obj)
        validate(resource, obj)
        return obj

    def _fill(self, resource: Resource, obj: Json) -> None:
        if "spec" not in obj and resource.kind in (
            "Pod",
            "NetworkPolicy",
            "Deployment",
            "ReplicaSet",
            "DaemonSet",
        ):
            obj["spec"] = {}
        if resource.kind == "Pod" and not obj["spec"].get("containers"):
            obj["spec"]["containers"] = []
        if resource.kind == "Service" and self.controllers:
            self._ip_family(obj.setdefault("spec", {}))
        defaults.apply(obj)
        if resource.custom and isinstance(obj.get("spec"), dict):
            defaults.policy_ports(obj["spec"])
        if resource.kind == "Secret":
            obj.setdefault("type", "Opaque")
        if resource.kind == "Service":
            self._cluster_ip(obj["spec"])

    def _ip_family(self, spec: Json) -> None:
        """The cluster's only family, before the general defaults say IPv4."""
        if self.controllers and spec.get("type") != "ExternalName":
            spec.setdefault("ipFamilies", [f"IPv{self.controllers.family}"])

    def _cluster_ip(self, spec: Json) -> None:
        if spec["type"] != "ExternalName" and not spec.get("clusterIP") and self.controllers:
            spec["clusterIP"] = self.controllers.cluster_ip()
        if spec.get("clusterIP"):
            spec["clusterIPs"] = [spec["clusterIP"]]

    def _set_namespace(self, resource: Resource, meta: Json, namespace: str) -> None:
        if not resource.namespaced:
            meta.pop("namespace", None)
        elif meta.get("namespace") and meta["namespace"] != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        else:
            meta["namespace"] = namespace

    def _namespace_takes(self, resource: Resource, obj: Json) -> None:
        if not resource.namespaced:
            return
        meta = obj["metadata"]
        namespace = self.store.get(self.registry.of("Namespace"), None, meta["namespace"])
        if namespace["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {meta['namespace']} because it is being terminated"
            raise errors.forbidden(resource.plural, resource.group, meta["name"], why)

    def _admit(self, resource: Resource, obj: Json, options: Options) -> None:
        if resource.kind != "Pod":
            return
        defaults.service_account(obj)
        admission.service_account_exists(obj, self.store, self.registry)
        namespace = self.store.get(self.registry.of("Namespace"), None, obj["metadata"]["namespace"])
        options.warnings += admission.pod_security(obj, namespace)
        admission.resource_quota(obj, self.store, self.registry)

    # -- update ----------------------------------------------------------------------------------------------

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        options: Options | None = None,
        subresource: str = "",
    ) -> Json:
        options = options or Options()
        obj = _decode_check(resource, body)
        obj, warnings = api_schema.clean(resource, obj, options.validation or "Warn")
        options.warnings += warnings
        meta = obj["metadata"] = obj.get("metadata") or {}
        if meta.get("name") != name:
            given = meta.get("name") or ""
            raise errors.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        self._set_namespace(resource, meta, namespace)
        with self.store.transaction():
            old = self.store.get(resource, namespace, name)
            if meta.get("uid") and meta["uid"] != old["metadata"]["uid"]:
                raise self._wrong_uid(resource, old, meta["uid"])
            new = self._merged(resource, old, obj, subresource)
            if subresource == "":
                defaults_wanted = resource.kind not in ("Pod", "Namespace")
                if defaults_wanted:
                    self._fill(resource, new)
                validate(resource, new)
                validate_update(resource, new, old)
            if options.dry_run:
                return new
            return self.store.update(resource, new)

    def _merged(self, resource: Resource, old: Json, obj: Json, subresource: str) -> Json:
        """The status can only be written through its subresource, and nothing else through that."""
        _drop_nulls(obj)
        if subresource == "status":
            version = obj["metadata"].get("resourceVersion")
            meta = old["metadata"] | ({"resourceVersion": version} if version else {})
            return old | {"metadata": meta, "status": obj.get("status", {})}
        for kept in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            obj["metadata"].pop(kept, None)
            if kept in old["metadata"]:
                obj["metadata"][kept] = old["metadata"][kept]
        if "status" in resource.subresources:
            obj.pop("status", None)
            if "status" in old:
                obj["status"] = old["status"]
        return obj

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Any,
        content_type: str,
        options: Options | None = None,
        subresource: str = "",
    ) -> tuple[Json, bool]:
        """(object, created): server-side apply may create."""
        with self.store.transaction():
            old = self.store.find(resource, namespace, name)
            if old is None and content_type == api_patch.APPLY:
                return self.create(resource, namespace, patch, options), True
            old = self.store.get(resource, namespace, name)
            new = api_patch.apply_patch(old, patch, content_type, resource.custom)
            if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
                raise errors.bad_request("the patch leaves no object")
            if "resourceVersion" not in (patch.get("metadata") or {} if isinstance(patch, dict) else {}):
                # A new dict: what the patch left alone still belongs to the store.
                new = new | {"metadata": {k: v for k, v in new["metadata"].items() if k != "resourceVersion"}}
            return self.update(resource, namespace, name, new, options, subresource), False

    # -- delete ----------------------------------------------------------------------------------------------

    def _wrong_uid(self, resource: Resource, old: Json, uid: str) -> errors.ApiError:
        why = (
            f"the UID in the precondition ({uid}) does not match the UID in record ({old['metadata']['uid']}). "
            "The object might have been deleted and then recreated"
        )
        return errors.conflict(resource.plural, resource.group, old["metadata"]["name"], why)

    def delete(self, resource: Resource, namespace: str, name: str, body: Any = None, dry_run: bool = False) -> Json:
        how = body if isinstance(body, dict) else {}
        conditions = how.get("preconditions") or {}
        with self.store.transaction():
            old = self.store.get(resource, namespace, name)
            if conditions.get("uid") and conditions["uid"] != old["metadata"]["uid"]:
                raise self._wrong_uid(resource, old, conditions["uid"])
            version = conditions.get("resourceVersion")
            if version and version != old["metadata"]["resourceVersion"]:
                why = (
                    f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in "
                    f"record ({old['metadata']['resourceVersion']}). The object might have been modified"
                )
                raise errors.conflict(resource.plural, resource.group, name, why)
            if dry_run or how.get("dryRun"):
                return self._answer(resource, old)
            if how.get("propagationPolicy") == "Orphan" or how.get("orphanDependents"):
                self._orphan(old)
            return self._answer(resource, self._begin(resource, old, how.get("gracePeriodSeconds")))

    def _begin(self, resource: Resource, old: Json, grace: int | None) -> Json:
        meta = old["metadata"]
        namespace, name = meta.get("namespace"), meta["name"]
        if resource.kind == "Pod":
            return self._begin_pod(resource, old, grace)
        if resource.kind == "Namespace":
            return self._begin_namespace(resource, old)
        if meta.get("finalizers"):
            return self.store.change(resource, namespace, name, _mark(0)) or old
        return self.store.remove(resource, namespace, name) or old

    def _begin_pod(self, resource: Resource, old: Json, grace: int | None) -> Json:
        meta, spec = old["metadata"], old["spec"]
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds", 30)
        if not spec.get("nodeName") or old.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            grace = 0
        pending = meta.get("deletionGracePeriodSeconds")
        if pending is not None:
            grace = min(grace or 0, pending)
        if meta.get("finalizers") or grace:
            return self.store.change(resource, meta["namespace"], meta["name"], _mark(grace or 0)) or old
        return self.store.remove(resource, meta["namespace"], meta["name"]) or old

    def _begin_namespace(self, resource: Resource, old: Json) -> Json:
        name = old["metadata"]["name"]

        def terminate(obj: Json) -> None:
            _mark(0)(obj)
            obj["metadata"]["finalizers"] = ["lab/contents"]
            obj["status"] = {"phase": "Terminating"}

        marked = self.store.change(resource, None, name, terminate) or old
        for content in self.registry.all():
            if content.namespaced:
                for obj in self.store.list(content, name):
                    if self.store.find(content, name, obj["metadata"]["name"]) is not None:
                        self._begin(content, obj, None)
        self.finish_namespace(name)
        return marked

    def finish_namespace(self, name: str) -> None:
        """A terminating namespace goes when nothing is left in it."""
        resource = self.registry.of("Namespace")
        with self.store.transaction():
            found = self.store.find(resource, None, name)
            if found is None or not found["metadata"].get("deletionTimestamp"):
                return
            if not any(self.store.list(r, name) for r in self.registry.all() if r.namespaced and r.kind != "Event"):
                for event in self.store.list(self.registry.of("Event"), name):
                    self.store.remove(self.registry.of("Event"), name, event["metadata"]["name"])
                self.store.remove(resource, None, name)

    def _orphan(self, owner: Json) -> None:
        uid = owner["metadata"]["uid"]
        for resource in self.registry.all():
            for obj in self.store.list(resource, None, lambda o: is_owned(o, owner)):
                kept = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
                self.store.change(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"], set_owners(kept))

    def _answer(self, resource: Resource, obj: Json) -> Json:
        meta = obj["metadata"]
        if resource.kind in _RETURNS_OBJECT or meta.get("deletionTimestamp"):
            return obj
        details = {"name": meta["name"], "group": resource.group, "kind": resource.plural, "uid": meta["uid"]}
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return body | {"details": {k: v for k, v in details.items() if v}}

    def delete_collection(
        self,
        resource: Resource,
        namespace: str | None,
        match: Match = everything,
        body: Any = None,
        dry: bool = False,
    ) -> list[Json]:
        found = self.store.list(resource, namespace, match)
        for obj in found:
            meta = obj["metadata"]
            if self.store.find(resource, meta.get("namespace"), meta["name"]) is not None:
                self.delete(resource, meta.get("namespace") or "", meta["name"], body, dry)
        return found


def _mark(grace: int) -> Any:
    def edit(obj: Json) -> None:
        obj["metadata"].setdefault("deletionTimestamp", now())
        obj["metadata"]["deletionGracePeriodSeconds"] = grace

    return edit


def _drop_nulls(value: Any) -> None:
    """Clients written in Go send `creationTimestamp: null`; the server keeps no nulls of typed fields."""
    if isinstance(value, dict):
        for key in [k for k, v in value.items() if v is None]:
            del value[key]
        for each in value.values():
            _drop_nulls(each)
    elif isinstance(value, list):
        for each in value:
            _drop_nulls(each)
