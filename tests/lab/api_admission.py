"""Admission: what refuses a well-formed pod. PodSecurity, ResourceQuota, and the service account's existence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import api_errors as errors
from .api_store import Store
from .api_types import Registry
from .api_validate import quantity

Json = dict[str, Any]

_LEVEL = "pod-security.kubernetes.io/"
_DEFAULT_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def _containers(pod: Json) -> list[Json]:
    spec = pod["spec"]
    return (spec.get("initContainers") or []) + (spec.get("containers") or [])


def _context(container: Json) -> Json:
    return container.get("securityContext") or {}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _plural(word: str, names: list[str]) -> str:
    return f"{word}{'s' if len(names) > 1 else ''} {_quoted(names)}"


def _which(pod: Json, test: Callable[[Json], bool]) -> list[str]:
    return [c["name"] for c in _containers(pod) if test(c)]


def _host_namespaces(pod: Json) -> str:
    used = [f"{key}=true" for key in ("hostNetwork", "hostPID", "hostIPC") if pod["spec"].get(key)]
    return f"host namespaces ({', '.join(used)})" if used else ""


def _host_path(pod: Json) -> str:
    names = [v["name"] for v in pod["spec"].get("volumes") or [] if v.get("hostPath") is not None]
    return f"hostPath volumes ({_plural('volume', names)})" if names else ""


def _host_ports(pod: Json) -> str:
    ports: list[str] = []

    def uses(container: Json) -> bool:
        found = [str(p["hostPort"]) for p in container.get("ports") or [] if p.get("hostPort")]
        ports.extend(found)
        return bool(found)

    names = _which(pod, uses)
    if not names:
        return ""
    verb = "use" if len(names) > 1 else "uses"
    return f"hostPort ({_plural('container', names)} {verb} hostPort{'s' if len(ports) > 1 else ''} {', '.join(ports)})"


def _capabilities(pod: Json) -> str:
    extra: set[str] = set()

    def adds(container: Json) -> bool:
        found = set((_context(container).get("capabilities") or {}).get("add") or []) - _DEFAULT_CAPABILITIES
        extra.update(found)
        return bool(found)

    names = _which(pod, adds)
    if not names:
        return ""
    listed = _quoted(sorted(extra))
    return (
        f"non-default capabilities ({_plural('container', names)} must not include {listed} "
        "in securityContext.capabilities.add)"
    )


def _privileged(pod: Json) -> str:
    names = _which(pod, lambda c: bool(_context(c).get("privileged")))
    must = "must not set securityContext.privileged=true"
    return f"privileged ({_plural('container', names)} {must})" if names else ""


def _selinux(pod: Json) -> str:
    types: set[str] = set()

    def sets(container: Json) -> bool:
        kind = (_context(container).get("seLinuxOptions") or {}).get("type") or ""
        if kind not in _SELINUX_TYPES:
            types.add(kind)
            return True
        return False

    names = _which(pod, sets)
    if not names:
        return ""
    noun = "types" if len(types) > 1 else "type"
    what = f"set forbidden securityContext.seLinuxOptions: {noun} {_quoted(sorted(types))}"
    return f"seLinuxOptions ({_plural('container', names)} {what})"


def _escalation(pod: Json) -> str:
    names = _which(pod, lambda c: _context(c).get("allowPrivilegeEscalation") is not False)
    must = "must set securityContext.allowPrivilegeEscalation=false"
    return f"allowPrivilegeEscalation != false ({_plural('container', names)} {must})" if names else ""


def _restricted_capabilities(pod: Json) -> str:
    forbidden: set[str] = set()

    def adds(container: Json) -> bool:
        found = set((_context(container).get("capabilities") or {}).get("add") or []) - {"NET_BIND_SERVICE"}
        forbidden.update(found)
        return bool(found)

    keep = _which(pod, lambda c: "ALL" not in ((_context(c).get("capabilities") or {}).get("drop") or []))
    add = _which(pod, adds)
    parts = []
    if keep:
        parts.append(f'{_plural("container", keep)} must set securityContext.capabilities.drop=["ALL"]')
    if add:
        listed = _quoted(sorted(forbidden))
        parts.append(f"{_plural('container', add)} must not include {listed} in securityContext.capabilities.add")
    return f"unrestricted capabilities ({'; '.join(parts)})" if parts else ""


def _restricted_volumes(pod: Json) -> str:
    found: list[str] = []
    kinds: set[str] = set()
    for volume in pod["spec"].get("volumes") or []:
        used = {key for key in volume if key != "name"} - _RESTRICTED_VOLUMES
        if used:
            found.append(volume["name"])
            kinds |= used
    if not found:
        return ""
    verb = "use" if len(found) > 1 else "uses"
    noun = "types" if len(kinds) > 1 else "type"
    what = f"{verb} restricted volume {noun} {_quoted(sorted(kinds))}"
    return f"restricted volume types ({_plural('volume', found)} {what})"


def _pod_or_containers(pod: Json, ok: Callable[[Json], bool | None]) -> list[str]:
    """Containers that do not comply, by themselves or by what the pod says for them."""
    whole = ok(pod["spec"].get("securityContext") or {})
    return _which(pod, lambda c: (whole if ok(_context(c)) is None else ok(_context(c))) is not True)


def _non_root(pod: Json) -> str:
    names = _pod_or_containers(pod, lambda context: context.get("runAsNonRoot"))
    must = "must set securityContext.runAsNonRoot=true"
    return f"runAsNonRoot != true (pod or {_plural('container', names)} {must})" if names else ""


def _run_as_user(pod: Json) -> str:
    names = _which(pod, lambda c: _context(c).get("runAsUser") == 0)
    return f"runAsUser=0 ({_plural('container', names)} must not set runAsUser=0)" if names else ""


def _seccomp(pod: Json) -> str:
    def ok(context: Json) -> bool | None:
        kind = (context.get("seccompProfile") or {}).get("type")
        return None if kind is None else kind in ("RuntimeDefault", "Localhost")

    names = _pod_or_containers(pod, ok)
    must = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {_plural('container', names)} {must})" if names else ""


_BASELINE = (_capabilities, _host_namespaces, _host_path, _host_ports, _privileged, _selinux)
_RESTRICTED_REPLACES = (_host_namespaces, _host_path, _host_ports, _privileged, _selinux)
_RESTRICTED = (
    _escalation,
    _restricted_capabilities,
    _restricted_volumes,
    _non_root,
    _run_as_user,
    _seccomp,
)


def pod_security_violations(pod: Json, level: str) -> list[str]:
    """What the level forbids, in the order and words of the PodSecurity plugin."""
    checks: tuple[Callable[[Json], str], ...] = ()
    if level == "baseline":
        checks = _BASELINE
    elif level == "restricted":
        checks = _RESTRICTED_REPLACES + _RESTRICTED
    return [text for check in checks if (text := check(pod))]


def pod_security(pod: Json, namespace: Json) -> list[str]:
    """403 by the enforce label; warnings by the warn label."""
    labels = namespace["metadata"].get("labels") or {}

    def verdict(mode: str) -> str:
        level = labels.get(f"{_LEVEL}{mode}", "privileged")
        version = labels.get(f"{_LEVEL}{mode}-version", "latest")
        found = pod_security_violations(pod, level)
        return f'violate{{}} PodSecurity "{level}:{version}": {", ".join(found)}' if found else ""

    if refused := verdict("enforce"):
        raise errors.forbidden("pods", "", pod["metadata"]["name"], refused.replace("{}", "s", 1))
    warning = verdict("warn")
    return ["would " + warning.replace("{}", "", 1)] if warning else []


# -- quota
# -----------------------------------------------------------------------------------------------------


def _usage(pod: Json) -> dict[str, float]:
    """What one pod counts for, under the names that quotas use."""
    total: dict[str, float] = {"pods": 1, "count/pods": 1}
    for container in pod["spec"].get("containers") or []:
        for part, values in (container.get("resources") or {}).items():
            if part not in ("limits", "requests"):
                continue
            for name, text in (values or {}).items():
                key = f"{part}.{name}"
                total[key] = total.get(key, 0) + quantity(text)
                if part == "requests":
                    total[name] = total[key]
    return total


def _must_specify(pod: Json, hard: Json) -> str:
    parts = []
    for name in sorted(hard):
        base = name.removeprefix("requests.").removeprefix("limits.")
        part = "limits" if name.startswith("limits.") else "requests"
        if base not in ("cpu", "memory"):
            continue
        without = [
            c["name"]
            for c in pod["spec"].get("containers") or []
            if base not in ((c.get("resources") or {}).get(part) or {})
        ]
        if without:
            parts.append(f"{name} for: {','.join(without)}")
    return "; ".join(parts)


def _shown(name: str, value: float) -> str:
    if name.endswith("memory"):
        return f"{value / 2**20:g}Mi" if value and value % 2**20 == 0 else f"{value:g}"
    return f"{value:g}" if value == int(value) else f"{round(value * 1000)}m"


def _pairs(values: dict[str, float]) -> str:
    return ",".join(f"{name}={_shown(name, value)}" for name, value in sorted(values.items()))


def resource_quota(pod: Json, store: Store, registry: Registry) -> None:
    """403 when a quota of the namespace would be exceeded, or when it needs numbers that the pod does not
    give.
    """
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    quotas = store.list(registry.of("ResourceQuota"), namespace)
    if not quotas:
        return
    ended = ("Succeeded", "Failed")
    alive = [p for p in store.list(registry.of("Pod"), namespace) if p.get("status", {}).get("phase") not in ended]
    wanted = _usage(pod)
    for quota in quotas:
        hard = (quota.get("spec") or {}).get("hard") or {}
        title = quota["metadata"]["name"]
        if text := _must_specify(pod, hard):
            raise errors.forbidden("pods", "", name, f"failed quota: {title}: must specify {text}")
        limits = {key: quantity(value) for key, value in hard.items() if key in wanted}
        used = {key: sum(_usage(p).get(key, 0) for p in alive) for key in limits}
        over = [key for key in limits if used[key] + wanted[key] > limits[key]]
        if over:
            why = (
                f"exceeded quota: {title}, requested: {_pairs({k: wanted[k] for k in over})}, "
                f"used: {_pairs({k: used[k] for k in over})}, limited: {_pairs({k: limits[k] for k in over})}"
            )
            raise errors.forbidden("pods", "", name, why)


def service_account_exists(pod: Json, store: Store, registry: Registry) -> None:
    namespace, account = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
    if store.find(registry.of("ServiceAccount"), namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise errors.forbidden("pods", "", pod["metadata"]["name"], why)
