"""From kubectl's connection flags to a ready ``kubernetes`` client configuration."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubectl_netpol.errors import ConnectionFailed, UsageError

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class ConnectionFlags:
    """kubectl's connection flags, as typed. Empty string: not given."""

    kubeconfig: str = ""
    context: str = ""
    cluster: str = ""
    user: str = ""
    server: str = ""
    token: str = ""
    namespace: str = ""
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    as_uid: str = ""
    request_timeout: float = 0.0
    """Seconds for one request; 0 is the default of ``Api``."""
    certificate_authority: str = ""
    client_certificate: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False


@dataclass
class Connection:
    """A loaded configuration: where to connect, as whom, and the namespace of the context."""

    configuration: Any
    namespace: str
    context: str
    headers: dict[str, str] = field(default_factory=dict)
    impersonate_groups: tuple[str, ...] = ()
    request_timeout: float = 0.0


class _LastMessage(logging.Handler):
    """The kubernetes package logs why a credentials plugin failed and goes on without credentials."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def may_connect(flags: ConnectionFlags) -> bool:
    """Whether anything names a cluster. Found out without the kubernetes package, whose import takes longer than all
    that does without a cluster."""
    files = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return bool(
        flags.kubeconfig
        or flags.context
        or flags.cluster
        or flags.user
        or flags.server
        or os.environ.get("KUBERNETES_SERVICE_HOST")
        or any(_may_be_there(file) for file in files.split(os.pathsep) if file)
    )


def _may_be_there(file: str) -> bool:
    """What cannot be looked at may be there: whoever reads it says what is wrong with it."""
    try:
        return Path(file).expanduser().exists()
    except (OSError, RuntimeError):
        return True


def connect(flags: ConnectionFlags) -> Connection:
    """Read the kubeconfig (or the pod's service account) and apply the flags.

    Raises ``UsageError`` for a context, cluster or user that does not exist, and ``ConnectionFailed``
    where there is nothing to connect to or the credentials plugin failed.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import kube_config

    configuration: Any = Configuration()
    path = flags.kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        merged = _merged(kube_config.KubeConfigMerger(_not_empty(path)))
    except Exception as error:  # a YAML error, a directory, a file without rights
        raise UsageError(f"kubeconfig {path}: {_one_line(error)}") from error
    if merged is None:
        context, namespace = _without_kubeconfig(configuration, flags, path)
    else:
        context, namespace = _with_kubeconfig(configuration, flags, merged)
    _apply_overrides(configuration, flags)
    return Connection(
        configuration=configuration,
        namespace=flags.namespace or namespace or "default",
        context=context,
        headers=_impersonation_headers(flags),
        impersonate_groups=flags.as_groups,
        request_timeout=flags.request_timeout,
    )


def _not_empty(path: str) -> str:
    """The files of a KUBECONFIG list less the empty ones (/dev/null), which kubectl takes for no file."""
    files = [Path(name).expanduser() for name in path.split(os.pathsep) if name]
    return os.pathsep.join(str(file) for file in files if not file.exists() or not _is_empty(file))


def _is_empty(file: Path) -> bool:
    # A pipe, as the shell makes of <(...), has no size.
    return not file.is_dir() and not file.is_fifo() and file.stat().st_size == 0


def _merged(merger: Any) -> Any:
    """The merged kubeconfig. As in kubectl, the first file that sets current-context wins, not the last."""
    if merger.config is not None:
        chosen = (merger.config_files[path].get("current-context") for path in merger.paths)
        merger.config.value["current-context"] = next(filter(None, chosen), "")
    return merger.config


def _without_kubeconfig(configuration: Any, flags: ConnectionFlags, path: str) -> tuple[str, str]:
    from kubernetes.config import incluster_config

    if flags.kubeconfig and not Path(path).expanduser().exists():
        raise UsageError(f"kubeconfig {path} does not exist")
    if flags.context:
        raise UsageError(f'context "{flags.context}" does not exist: there is no kubeconfig at {path}')
    if flags.server:
        return "", ""
    try:
        incluster_config.load_incluster_config(client_configuration=configuration)
    except Exception as error:
        raise ConnectionFailed(
            f"no cluster to connect to: {path} does not exist, and this is not a pod of a cluster",
            hint="set --kubeconfig or KUBECONFIG, or read a bundle with --bundle FILE",
        ) from error
    return "", _service_account_namespace()


def _service_account_namespace() -> str:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return ""


def _with_kubeconfig(configuration: Any, flags: ConnectionFlags, merged: Any) -> tuple[str, str]:
    from kubernetes.config import kube_config

    value = merged.value
    name = flags.context or value.get("current-context") or ""
    context = next((c.value for c in value["contexts"] if c.value.get("name") == name), None)
    if context is None:
        known = ", ".join(sorted(str(c.value.get("name")) for c in value["contexts"])) or "none"
        what = f'context "{name}" does not exist' if name else "no current context is set"
        raise UsageError(f"{what} in the kubeconfig (known contexts: {known})")
    settings = context["context"] = context.get("context") or {}
    for key, wanted, section in (("cluster", flags.cluster, "clusters"), ("user", flags.user, "users")):
        if wanted:
            if not any(entry.value.get("name") == wanted for entry in value[section]):
                raise UsageError(f'{key} "{wanted}" does not exist in the kubeconfig')
            settings[key] = wanted
    log, root = _LastMessage(), logging.getLogger()
    root.addHandler(log)
    try:
        loader = kube_config.KubeConfigLoader(config_dict=merged, active_context=name, config_base_path=None)
        loader.load_and_set(configuration)
    except Exception as error:
        raise ConnectionFailed(f'kubeconfig context "{name}": {_one_line(error)}') from error
    finally:
        root.removeHandler(log)
    if log.text and not flags.token:
        raise ConnectionFailed(
            f'the credentials plugin of kubeconfig context "{name}" failed: {_plugin_text(log.text)}',
            hint=f"try `kubectl --context {name} version`: kubectl uses the same plugin",
        )
    return name, str(settings.get("namespace") or "")


def _apply_overrides(configuration: Any, flags: ConnectionFlags) -> None:
    refresh = configuration.refresh_api_key_hook
    if flags.token:
        configuration.api_key["BearerToken"] = f"Bearer {flags.token}"
        configuration.refresh_api_key_hook = None
    elif refresh is not None:
        # The hook of the kubernetes package sets host and certificates from the kubeconfig again at every request.
        def refresh_and_override(current: Any) -> None:
            refresh(current)
            _override(current, flags)

        configuration.refresh_api_key_hook = refresh_and_override
    _override(configuration, flags)


def _override(configuration: Any, flags: ConnectionFlags) -> None:
    if flags.server:
        try:
            configuration.host = flags.server.rstrip("/")
        except ValueError as error:
            raise UsageError(f"--server {flags.server}: {error}") from error
    for attribute, value in (
        ("ssl_ca_cert", flags.certificate_authority),
        ("cert_file", flags.client_certificate),
        ("key_file", flags.client_key),
        ("tls_server_name", flags.tls_server_name),
    ):
        if value:
            setattr(configuration, attribute, value)
    if flags.insecure_skip_tls_verify:
        configuration.verify_ssl = False


def _impersonation_headers(flags: ConnectionFlags) -> dict[str, str]:
    headers = {}
    groups = (("--as-group", group) for group in flags.as_groups)
    for flag, value in (("--as", flags.as_user), ("--as-uid", flags.as_uid), ("--token", flags.token), *groups):
        if not (value.isascii() and value.isprintable()):
            raise UsageError(f"{flag}: a header of a request takes printable ASCII only")
    if flags.as_user:
        headers["Impersonate-User"] = flags.as_user
    if flags.as_uid:
        headers["Impersonate-Uid"] = flags.as_uid
    if (flags.as_groups or flags.as_uid) and not flags.as_user:
        raise UsageError("--as-group and --as-uid need --as")
    return headers


def _plugin_text(text: str) -> str:
    # On a terminal the plugin writes there itself, and the package stumbles over stderr being None.
    return "see what it says above" if "'NoneType' object" in text else _one_line(text)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
