"""What is wrong with an object although its types are right: names, selectors, pods, policies, services."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

from .api_errors import ApiError, Cause, invalid
from .api_types import Resource

Json = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_LABEL}(\\.{_LABEL})*')"
)
DNS1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def is_label(text: str) -> bool:
    return len(text) <= 63 and bool(re.fullmatch(_LABEL, text))


def is_subdomain(text: str) -> bool:
    return len(text) <= 253 and bool(re.fullmatch(_SUBDOMAIN, text))


def bad(field: str, value: Any, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return field, "FieldValueInvalid", f"Invalid value: {shown}: {why}"


def required(field: str, why: str = "") -> Cause:
    return field, "FieldValueRequired", "Required value" + (f": {why}" if why else "")


def unsupported(field: str, value: Any, allowed: Iterable[str]) -> Cause:
    listed = ", ".join(f'"{one}"' for one in sorted(allowed))
    return field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}'


def forbidden(field: str, why: str) -> Cause:
    return field, "FieldValueForbidden", f"Forbidden: {why}"


def duplicate(field: str, value: str) -> Cause:
    return field, "FieldValueDuplicate", f'Duplicate value: "{value}"'


def missing(field: str, value: str) -> Cause:
    return field, "FieldValueNotFound", f'Not found: "{value}"'


class Checks:
    """Collects the causes for one object."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def add(self, *causes: Cause) -> None:
        self.causes.extend(causes)

    # -- metadata --------------------------------------------------------------------------------------------

    def metadata(self, resource: Resource, meta: Json) -> None:
        name = meta.get("name") or ""
        if not name:
            self.add(required("metadata.name", "name or generateName is required"))
        elif resource.kind == "Namespace" and not is_label(name):
            self.add(bad("metadata.name", name, LABEL_TEXT))
        elif resource.kind == "Service" and not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
            self.add(bad("metadata.name", name, DNS1035_TEXT))
        elif not is_subdomain(name):
            self.add(bad("metadata.name", name, SUBDOMAIN_TEXT))
        self.labels("metadata.labels", meta.get("labels") or {})
        for key in meta.get("annotations") or {}:
            self.qualified_name("metadata.annotations", key.lower())

    def qualified_name(self, field: str, key: str) -> None:
        prefix, _, name = key.rpartition("/")
        if not re.fullmatch(_QUALIFIED, name) or len(name) > 63 or (prefix and not is_subdomain(prefix)):
            self.add(bad(field, key, KEY_TEXT))

    def labels(self, field: str, labels: Json) -> None:
        for key, value in labels.items():
            self.qualified_name(field, key)
            if value and (len(value) > 63 or not re.fullmatch(_QUALIFIED, value)):
                self.add(bad(field, value, VALUE_TEXT))

    def selector(self, field: str, selector: Json | None) -> None:
        self.labels(f"{field}.matchLabels", (selector or {}).get("matchLabels") or {})
        for index, item in enumerate((selector or {}).get("matchExpressions") or []):
            where = f"{field}.matchExpressions[{index}]"
            operator, values = item.get("operator"), item.get("values") or []
            self.qualified_name(f"{where}.key", item.get("key") or "")
            if operator in ("In", "NotIn"):
                if not values:
                    self.add(required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    self.add(forbidden(f"{where}.values", why))
            else:
                self.add(bad(f"{where}.operator", operator or "", "not a valid selector operator"))

    # -- pods ------------------------------------------------------------------------------------------------

    def pod_spec(self, spec: Json, at: str = "spec") -> None:
        containers = spec.get("containers") or []
        if not containers:
            self.add(required(f"{at}.containers"))
        volumes = self.volumes(spec.get("volumes") or [], f"{at}.volumes")
        seen: set[str] = set()
        for group in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(group) or []):
                self.container(container, f"{at}.{group}[{index}]", volumes, seen)
        for field, allowed in (
            ("restartPolicy", ("Always", "Never", "OnFailure")),
            ("dnsPolicy", ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")),
        ):
            if spec.get(field) not in allowed:
                self.add(unsupported(f"{at}.{field}", spec.get(field) or "", allowed))
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and not 1 <= deadline <= 2147483647:
            self.add(bad(f"{at}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive"))
        grace = spec.get("terminationGracePeriodSeconds")
        if grace is not None and grace < 0:
            self.add(bad(f"{at}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0"))
        if spec.get("nodeName") and not is_subdomain(spec["nodeName"]):
            self.add(bad(f"{at}.nodeName", spec["nodeName"], SUBDOMAIN_TEXT))
        self.tolerations(spec.get("tolerations") or [], f"{at}.tolerations")

    def tolerations(self, tolerations: list[Json], at: str) -> None:
        for index, item in enumerate(tolerations):
            where, operator = f"{at}[{index}]", item.get("operator") or "Equal"
            if operator not in ("Equal", "Exists"):
                self.add(unsupported(f"{where}.operator", operator, ("Equal", "Exists")))
            if not item.get("key") and operator != "Exists":
                why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
                self.add(bad(f"{where}.operator", operator, why))
            if operator == "Exists" and item.get("value"):
                self.add(bad(f"{where}.operator", item, "value must be empty when `operator` is 'Exists'"))
            effect = item.get("effect")
            allowed = ("NoExecute", "NoSchedule", "PreferNoSchedule")
            if effect and effect not in allowed:
                self.add(unsupported(f"{where}.effect", effect, allowed))

    def volumes(self, volumes: list[Json], at: str) -> set[str]:
        names: set[str] = set()
        for index, volume in enumerate(volumes):
            where, name = f"{at}[{index}]", volume.get("name") or ""
            if not name:
                self.add(required(f"{where}.name"))
            elif not is_label(name):
                self.add(bad(f"{where}.name", name, LABEL_TEXT))
            elif name in names:
                self.add(duplicate(f"{where}.name", name))
            names.add(name)
            sources = [key for key, value in volume.items() if key != "name" and value is not None]
            if not sources:
                self.add(required(where, "must specify a volume type"))
            for extra in sources[1:]:
                self.add(forbidden(f"{where}.{extra}", "may not specify more than 1 volume type"))
            if isinstance(volume.get("hostPath"), dict):
                self.host_path(volume["hostPath"], f"{where}.hostPath")
        return names

    def host_path(self, source: Json, at: str) -> None:
        path = source.get("path") or ""
        if not path:
            self.add(required(f"{at}.path"))
        elif ".." in path.split("/"):
            self.add(bad(f"{at}.path", path, "must not contain '..'"))
        allowed = (
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        )
        if source.get("type", "") not in allowed:
            self.add(unsupported(f"{at}.type", source["type"], allowed))

    def container(self, container: Json, at: str, volumes: set[str], seen: set[str]) -> None:
        name = container.get("name") or ""
        if not name:
            self.add(required(f"{at}.name"))
        elif not is_label(name):
            self.add(bad(f"{at}.name", name, LABEL_TEXT))
        elif name in seen:
            self.add(duplicate(f"{at}.name", name))
        seen.add(name)
        image = container.get("image") or ""
        if not image:
            self.add(required(f"{at}.image"))
        elif image != image.strip():
            self.add(bad(f"{at}.image", image, "must not have leading or trailing whitespace"))
        policies = ("Always", "IfNotPresent", "Never")
        if container.get("imagePullPolicy") not in policies:
            self.add(unsupported(f"{at}.imagePullPolicy", container.get("imagePullPolicy") or "", policies))
        messages = ("FallbackToLogsOnError", "File")
        if container.get("terminationMessagePolicy") not in messages:
            where = f"{at}.terminationMessagePolicy"
            self.add(unsupported(where, container.get("terminationMessagePolicy") or "", messages))
        self.mounts(container.get("volumeMounts") or [], f"{at}.volumeMounts", volumes)
        for index, variable in enumerate(container.get("env") or []):
            if not variable.get("name"):
                self.add(required(f"{at}.env[{index}].name"))
        for index, port in enumerate(container.get("ports") or []):
            self.port_number(f"{at}.ports[{index}].containerPort", port.get("containerPort"))
        self.security(container.get("securityContext") or {}, f"{at}.securityContext")
        self.resources(container.get("resources") or {}, f"{at}.resources")

    def mounts(self, mounts: list[Json], at: str, volumes: set[str]) -> None:
        paths: set[str] = set()
        for index, mount in enumerate(mounts):
            where, name, path = f"{at}[{index}]", mount.get("name") or "", mount.get("mountPath") or ""
            if not name:
                self.add(required(f"{where}.name"))
            elif name not in volumes:
                self.add(missing(f"{where}.name", name))
            if not path:
                self.add(required(f"{where}.mountPath"))
            elif path in paths:
                self.add(bad(f"{where}.mountPath", path, "must be unique"))
            paths.add(path)
            allowed = ("Bidirectional", "HostToContainer", "None")
            if mount.get("mountPropagation") and mount["mountPropagation"] not in allowed:
                self.add(unsupported(f"{where}.mountPropagation", mount["mountPropagation"], allowed))

    def security(self, context: Json, at: str) -> None:
        if context.get("allowPrivilegeEscalation") is False:
            if context.get("privileged"):
                why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
                self.add(bad(at, context, why))
            # The server compares with this spelling alone, and takes the other one.
            if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
                why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
                self.add(bad(at, context, why))

    def resources(self, resources: Json, at: str) -> None:
        parsed: dict[str, dict[str, float]] = {"limits": {}, "requests": {}}
        for part, into in parsed.items():
            for name, text in (resources.get(part) or {}).items():
                try:
                    into[name] = quantity(text)
                except ValueError:
                    why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    raise ApiError(400, f'{why}: "{text}"') from None
        for name, value in parsed["requests"].items():
            if name in parsed["limits"] and value > parsed["limits"][name]:
                limit = resources["limits"][name]
                why = f"must be less than or equal to {name} limit of {limit}"
                self.add(bad(f"{at}.requests", resources["requests"][name], why))

    def port_number(self, field: str, value: Any) -> None:
        if value is None:
            self.add(required(field))
        elif not 1 <= value <= 65535:
            self.add(bad(field, value, "must be between 1 and 65535, inclusive"))

    # -- policies, services, workloads -----------------------------------------------------------------------

    def network_policy(self, spec: Json) -> None:
        self.selector("spec.podSelector", spec.get("podSelector"))
        for index, kind in enumerate(spec.get("policyTypes") or []):
            if kind not in ("Ingress", "Egress"):
                self.add(unsupported(f"spec.policyTypes[{index}]", kind, ("Egress", "Ingress")))
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for index, rule in enumerate(spec.get(direction) or []):
                at = f"spec.{direction}[{index}]"
                for number, port in enumerate((rule or {}).get("ports") or []):
                    self.policy_port(port, f"{at}.ports[{number}]")
                for number, peer in enumerate((rule or {}).get(peers) or []):
                    self.peer(peer or {}, f"{at}.{peers}[{number}]")

    def policy_port(self, port: Json, at: str) -> None:
        if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
            self.add(unsupported(f"{at}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP")))
        number, end = port.get("port"), port.get("endPort")
        if isinstance(number, int):
            self.port_number(f"{at}.port", number)
        elif isinstance(number, str) and not re.fullmatch(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", number):
            self.add(bad(f"{at}.port", number, "must contain at least one letter (a-z)"))
        if end is None:
            return
        if number is None:
            self.add(bad(f"{at}.endPort", end, "may not be specified when `port` is not specified"))
        elif isinstance(number, str):
            self.add(bad(f"{at}.endPort", end, "may not be specified when `port` is non-numeric"))
        elif end < number:
            self.add(bad(f"{at}.endPort", end, "must be greater than or equal to `port`"))
        else:
            self.port_number(f"{at}.endPort", end)

    def peer(self, peer: Json, at: str) -> None:
        kinds = [key for key in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(key) is not None]
        if not kinds:
            self.add(required(at, "must specify a peer"))
        if "ipBlock" in kinds and len(kinds) > 1:
            self.add(forbidden(at, "may not specify both ipBlock and another peer"))
        for key in kinds:
            if key == "ipBlock":
                self.ip_block(peer[key], f"{at}.ipBlock")
            else:
                self.selector(f"{at}.{key}", peer[key])

    def ip_block(self, block: Json, at: str) -> None:
        if not block.get("cidr"):
            self.add(required(f"{at}.cidr"))
            return
        outer = self.cidr(block["cidr"], f"{at}.cidr")
        for index, text in enumerate(block.get("except") or []):
            inner = self.cidr(text, f"{at}.except[{index}]")
            if not outer or not inner:
                continue
            inside = outer.version == inner.version and inner.subnet_of(outer) and inner != outer  # type: ignore[arg-type]
            if not inside:
                self.add(bad(f"{at}.except[{index}]", text, f"must be a strict subset of `cidr` {block['cidr']!r}"))

    def cidr(self, text: str, at: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        try:
            if "/" not in text:
                raise ValueError
            return ipaddress.ip_network(text, strict=False)
        except ValueError:
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            self.add(bad(at, text, why))
            return None

    def service(self, spec: Json) -> None:
        ports = spec.get("ports") or []
        if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
            self.add(required("spec.ports"))
        for index, port in enumerate(ports):
            at = f"spec.ports[{index}]"
            self.port_number(f"{at}.port", port.get("port"))
            if len(ports) > 1 and not port.get("name"):
                self.add(required(f"{at}.name"))
            if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
                self.add(unsupported(f"{at}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP")))

    def workload(self, spec: Json) -> None:
        selector = spec.get("selector")
        template = spec.get("template") or {}
        if not selector:
            self.add(required("spec.selector"))
        self.selector("spec.selector", selector)
        labels = (template.get("metadata") or {}).get("labels") or {}
        wanted = (selector or {}).get("matchLabels") or {}
        if any(labels.get(key) != value for key, value in wanted.items()):
            self.add(bad("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))
        self.pod_spec(template.get("spec") or {}, "spec.template.spec")


def validate(resource: Resource, obj: Json) -> None:
    """422 with every cause, or nothing."""
    checks = Checks()
    checks.metadata(resource, obj["metadata"])
    spec = obj.get("spec") or {}
    if resource.kind == "Pod":
        checks.pod_spec(spec)
    elif resource.kind == "NetworkPolicy":
        checks.network_policy(spec)
    elif resource.kind == "Service":
        checks.service(spec)
    elif resource.kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"):
        checks.workload(spec)
    if checks.causes:
        raise invalid(resource.kind, resource.group, obj["metadata"].get("name") or "", checks.causes)


_FROZEN = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
_FROZEN += "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
_FROZEN += "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"


def _comparable(spec: Json) -> Json:
    rest = {k: v for k, v in spec.items() if k not in ("activeDeadlineSeconds", "tolerations")}
    for group in ("containers", "initContainers"):
        rest[group] = [{k: v for k, v in c.items() if k != "image"} for c in spec.get(group) or []]
    return rest


def validate_update(resource: Resource, new: Json, old: Json) -> None:
    name = old["metadata"]["name"]
    if resource.kind == "Pod" and _comparable(new["spec"]) != _comparable(old["spec"]):
        raise invalid("Pod", "", name, [forbidden("spec", _FROZEN)])
    if resource.group == "apps":
        before, after = old["spec"].get("selector"), new["spec"].get("selector")
        if before != after:
            raise invalid(resource.kind, resource.group, name, [bad("spec.selector", after, "field is immutable")])


_UNITS = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
}
_UNITS |= {f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")}


def quantity(text: str) -> float:
    """`100m`, `1.5Gi`, `1e3` as a number."""
    match = re.fullmatch(r"([+-]?[0-9]*\.?[0-9]+\.?)((?:[eE][-+]?[0-9]+)|[a-zA-Z]*)", str(text))
    if match is None:
        raise ValueError(text)
    number, suffix = match.groups()
    if re.fullmatch(r"[eE][-+]?[0-9]+", suffix):
        return float(number + suffix)
    if suffix not in _UNITS:
        raise ValueError(text)
    return float(number) * _UNITS[suffix]
