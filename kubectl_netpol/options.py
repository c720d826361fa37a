"""Flags that several verbs share, declared once and added to each verb's signature."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from kubectl_netpol.cluster.connection import ConnectionFlags
from kubectl_netpol.errors import UsageError
from kubectl_netpol.report.output import Format


class Way(StrEnum):
    """--via: how a node is read."""

    PYTHON = "python"
    TOOLS = "tools"
    AGENT = "agent"


class DebugProfile(StrEnum):
    """--debug-profile: what the debug pod may do on its node (``node.profiles``)."""

    SYSADMIN = "sysadmin"
    MINIMAL = "minimal"


class CheckFormat(StrEnum):
    """-o of `check`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    JUNIT = "junit"
    PROMETHEUS = "prometheus"
    HTML = "html"


class ExplainFormat(StrEnum):
    """-o of `explain`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    HTML = "html"


DEFAULT_IMAGE = "public.ecr.aws/amazonlinux/amazonlinux:2023"


@dataclass(frozen=True)
class Common:
    """What every reading verb gets besides its own arguments."""

    connection: ConnectionFlags
    bundle: str
    image: str
    debug_namespace: str
    keep: bool
    deadline: int
    start_timeout: int
    via: Way
    show_commands: bool
    install_on_host: bool
    selinux_type: str
    output: Format
    no_headers: bool
    debug_profile: DebugProfile = DebugProfile.SYSADMIN
    machine: str = ""
    """`html`, `junit` or `prometheus`: forms of some verbs beside ``output``."""


def with_flags(text: str, common: Common) -> str:
    """A sentence with its commands asking the cluster that the question asked, as the same user.

    Not for bundles: their answers are those of the live cluster, byte for byte.
    """
    connection = common.connection
    pairs = [
        ("--context", connection.context),
        ("--kubeconfig", connection.kubeconfig),
        ("--cluster", connection.cluster),
        ("--user", connection.user),
        ("--server", connection.server),
        ("--as", connection.as_user),
        *(("--as-group", group) for group in connection.as_groups),
    ]
    flags = " ".join(f"{flag} {shlex.quote(value)}" for flag, value in pairs if value)
    if not flags or common.bundle:
        return text
    text = re.sub(r"(kubectl netpol-ebpf [a-z]+)", lambda found: f"{found[1]} {flags}", text)
    return re.sub(r"\bkubectl (?!netpol-ebpf)(?=[-a-z])", lambda found: f"kubectl {flags} ", text)


def _option(kind: Any, default: Any, *names: str, help: str, hidden: bool = False, **more: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(*names, help=help, hidden=hidden, show_default=bool(default), **more)], default


_CONNECTION: Mapping[str, tuple[Any, Any]] = {
    "namespace": _option(str, "", "--namespace", "-n", help="Namespace of names given without one."),
    "context": _option(str, "", "--context", help="The kubeconfig context to use."),
    "kubeconfig": _option(str, "", "--kubeconfig", help="Path of the kubeconfig file."),
    "as_user": _option(str, "", "--as", help="User to impersonate."),
    "as_group": _option(list[str], (), "--as-group", help="Group to impersonate; repeatable."),
    "request_timeout": _option(str, "", "--request-timeout", help="Time for one request, such as 30s or 1m."),
    "as_uid": _option(str, "", "--as-uid", help="UID to impersonate.", hidden=True),
    "cluster": _option(str, "", "--cluster", help="The kubeconfig cluster to use.", hidden=True),
    "user": _option(str, "", "--user", help="The kubeconfig user to use.", hidden=True),
    "server": _option(str, "", "--server", "-s", help="Address of the API server.", hidden=True),
    "token": _option(str, "", "--token", help="Bearer token for the API server.", hidden=True),
    "certificate_authority": _option(str, "", "--certificate-authority", help="CA file.", hidden=True),
    "client_certificate": _option(str, "", "--client-certificate", help="Client certificate.", hidden=True),
    "client_key": _option(str, "", "--client-key", help="Client key file.", hidden=True),
    "tls_server_name": _option(str, "", "--tls-server-name", help="Name in the certificate.", hidden=True),
    "insecure_skip_tls_verify": _option(
        bool, False, "--insecure-skip-tls-verify", help="Do not check the certificate.", hidden=True
    ),
}
_NODE: Mapping[str, tuple[Any, Any]] = {
    "bundle": _option(str | None, None, "--bundle", help="Answer from this bundle file; touch no cluster."),
    "image": _option(
        str,
        DEFAULT_IMAGE,
        "--image",
        help="Image of the debug pod; needs python3 (or, with --via tools, sh and chroot).",
    ),
    "debug_namespace": _option(
        str,
        "kube-system",
        "--debug-namespace",
        help="Namespace of the debug pod; must admit privileged pods.",
    ),
    "keep": _option(
        bool, False, "--keep", help="Leave the debug pod running until its deadline; the next call reuses it."
    ),
    "deadline": _option(
        int,
        300,
        "--deadline",
        help="Seconds after which the server ends the debug pod, whatever happens.",
        min=30,
        max=3600,
    ),
    "start_timeout": _option(int, 60, "--start-timeout", help="Seconds to wait for the debug pod to run.", min=1),
    "via": _option(
        Way,
        Way.PYTHON,
        "--via",
        help="How to read the node. python: one script in a debug pod. tools: tc and aws-eks-na-cli in a debug pod, "
        "for images without Python. agent: aws-eks-na-cli in the agent's own container, without a debug pod; what is "
        "attached stays unknown.",
    ),
    "show_commands": _option(
        bool, False, "--show-commands", help="With --via tools or agent: print each command that is run there."
    ),
    "install_on_host": _option(
        bool,
        False,
        "--install-on-host",
        help="With --via tools: where there is no tc, install iproute-tc on the node itself. CHANGES THE NODE. "
        "Without it, it is installed in the debug pod only.",
    ),
    "debug_profile": _option(
        DebugProfile,
        DebugProfile.SYSADMIN,
        "--debug-profile",
        help="What the debug pod may do on the node. sysadmin: as `kubectl debug --profile=sysadmin`, privileged, with "
        "all of the node. minimal: the host's network, the BPF file system and the agent's log, read-only, with "
        "CAP_SYS_ADMIN alone; goes with --via python.",
    ),
    "selinux_type": _option(
        str,
        "",
        "--selinux-type",
        help="SELinux type of the debug pod, such as super_t on Bottlerocket. A sysadmin pod is then not privileged "
        "by that word, and has all capabilities instead.",
    ),
}
_OUTPUT: Mapping[str, tuple[Any, Any]] = {
    "output": _option(Format, Format.TABLE, "--output", "-o", help="Output format."),
    "no_headers": _option(bool, False, "--no-headers", help="Leave out the column headers."),
}


def common_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add all shared flags to a verb whose first parameter is a ``Common``."""
    return _with(verb, {**_CONNECTION, **_NODE, **_OUTPUT})


def explain_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The shared flags with the formats of `explain`."""
    output = _option(ExplainFormat, ExplainFormat.TABLE, "--output", "-o", help="Output format; html: one file.")
    return _with(verb, {**_CONNECTION, **_NODE, **_OUTPUT, "output": output})


def check_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The shared flags with the formats of `check`."""
    output = _option(CheckFormat, CheckFormat.TABLE, "--output", "-o", help="Output format; html: one file.")
    return _with(verb, {**_CONNECTION, **_NODE, **_OUTPUT, "output": output})


def capture_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The shared flags of a verb that reads a cluster and prints no table."""
    return _with(verb, {**_CONNECTION, **_NODE})


def cleanup_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The shared flags of a verb that asks the API server only."""
    namespace = _option(str | None, None, "--namespace", "-n", help="This namespace alone; without it, all of them.")
    where = _option(str, "kube-system", "--debug-namespace", help="Where to look if not all namespaces may be listed.")
    return _with(verb, {**_CONNECTION, "namespace": namespace, "debug_namespace": where, **_OUTPUT})


def version_flags(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The shared flags of a verb that says the same of every namespace."""
    namespace = _option(str, "", "--namespace", "-n", help="Taken as kubectl does; changes nothing.", hidden=True)
    return _with(verb, {**_CONNECTION, "namespace": namespace, "output": _OUTPUT["output"]})


def _with(verb: Callable[..., Any], flags: Mapping[str, tuple[Any, Any]]) -> Callable[..., Any]:
    hints = typing.get_type_hints(verb, include_extras=True)
    own = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in list(inspect.signature(verb).parameters.values())[1:]
    ]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in flags.items()
    ]

    @functools.wraps(verb)
    def wrapper(**values: Any) -> Any:
        shared = {name: default for name, (_, default) in _NODE.items()}
        for name, (_, default) in flags.items():
            shared[name] = values.pop(name)
            if shared[name] == "" and default != "":
                # An unset variable of a script must not change what is asked, or of whom.
                raise UsageError(f"--{name.replace('_', '-')} is empty")
        return verb(_common(shared), **values)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    wrapper.__signature__ = inspect.Signature(own + more)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in own + more}
    return wrapper


def _common(values: Mapping[str, Any]) -> Common:
    if values["show_commands"] and values["via"] is Way.PYTHON:
        raise UsageError("--show-commands goes with --via tools or --via agent: the script of python is one command")
    if values["install_on_host"] and values["via"] is not Way.TOOLS:
        raise UsageError("--install-on-host goes with --via tools")
    if values["bundle"] and values["via"] is not Way.PYTHON:
        raise UsageError("--via goes without --bundle: a bundle has been read already")
    if values["debug_profile"] is DebugProfile.MINIMAL and values["via"] is Way.TOOLS:
        raise UsageError(
            "--debug-profile minimal goes without --via tools: those are run from the node's own files, which that pod "
            "does not have"
        )
    for name, default in (("keep", False), ("selinux_type", ""), ("debug_profile", DebugProfile.SYSADMIN)):
        if values[name] != default and values["via"] is Way.AGENT:
            raise UsageError(f"--{name.replace('_', '-')} goes without --via agent: there is no debug pod")
    return Common(
        connection=connection_flags(values, seconds(values["request_timeout"])),
        bundle=values["bundle"] or "",
        image=values["image"],
        debug_namespace=values["debug_namespace"],
        keep=values["keep"],
        deadline=values["deadline"],
        start_timeout=values["start_timeout"],
        via=values["via"],
        show_commands=values["show_commands"],
        install_on_host=values["install_on_host"],
        selinux_type=values["selinux_type"],
        debug_profile=values["debug_profile"],
        output=_format(values.get("output", Format.TABLE)),
        machine=str(values["output"].value) if values.get("output") in MACHINE else "",
        no_headers=values.get("no_headers", False),
    )


def connection_flags(values: Mapping[str, Any], request_timeout: float) -> ConnectionFlags:
    """From the values of parameters by name; one that is not among them was not given."""
    names = [name for name in _CONNECTION if name not in ("as_group", "request_timeout")]
    flags: dict[str, Any] = {name: values[name] for name in names if values.get(name) is not None}
    groups = tuple(values.get("as_group") or ())
    return ConnectionFlags(**flags, as_groups=groups, request_timeout=request_timeout)


MACHINE = ("junit", "prometheus", "html")


def _format(output: Format | CheckFormat | ExplainFormat) -> Format:
    return Format.JSON if output in MACHINE else Format(output.value)


def duration(flag: str, text: str) -> float:
    """`60`, `60s`, `2m`; empty and 0 are none. ``flag``: whose value it is."""
    try:
        found = seconds(text)
    except UsageError:
        found = 0.0
    if found <= 0:
        raise UsageError(f'{flag} "{text}" is not a duration: use 60s or 2m')
    return found


def seconds(text: str) -> float:
    """kubectl's --request-timeout: `30`, `30s`, `1m`, `1m30s`; empty and 0 mean no limit of their own."""
    if not text:
        return 0.0
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return float(text)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(h|ms|m|s)", text, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f'--request-timeout "{text}" is not a duration: use 30s or 1m')
    return sum(float(number) * units[unit] for number, unit in parts)
