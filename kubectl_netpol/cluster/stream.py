"""`kubectl exec` over a WebSocket: stdin in, stdout, stderr and the exit code out.

The WebSocket client inside the ``kubernetes`` package sends the bearer token only: impersonation (``--as``)
would be lost on the way. The channel protocol is small; this module speaks it with ``websocket-client``.

Channels (v4.channel.k8s.io): 0 stdin, 1 stdout, 2 stderr, 3 error (one Status object), 4 resize.
v5.channel.k8s.io adds 255: the following byte names a channel that is closed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from kubectl_netpol.cluster import refusals
from kubectl_netpol.cluster.connection import Connection
from kubectl_netpol.errors import ApiError, ConnectionFailed, NodeError

PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
CHUNK = 32 * 1024
"""Bytes of stdin per frame; the kubelet's buffers are of this order."""
HANDSHAKE_SECONDS = 30.0
"""How long the answer to the exec request itself is waited for."""


@dataclass(frozen=True)
class ExecResult:
    """What a finished command said. ``exit_code`` is None when the stream broke before the end."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    error: str = ""


def exec_path(namespace: str, pod: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"


def exec_in_pod(
    api: Any,
    namespace: str,
    pod: str,
    argv: list[str],
    *,
    container: str = "",
    stdin: bytes = b"",
    timeout: float = 120.0,
    limit: int = 1 << 30,
) -> ExecResult:
    """Run ``argv`` in the pod, feed it ``stdin`` and collect what it says until it ends.

    ``timeout`` is seconds without a single byte, not a limit on the whole. ``limit`` bounds stdout in bytes.
    Raises ``ApiError`` where the server refuses, ``NodeError`` where the stream breaks.
    """
    query = [("command", word) for word in argv]
    query += [("container", container)] if container else []
    query += [
        ("stdin", "true" if stdin else "false"),
        ("stdout", "true"),
        ("stderr", "true"),
        ("tty", "false"),
    ]
    socket = api.websocket(exec_path(namespace, pod), query, PROTOCOLS)
    try:
        socket.settimeout(timeout)
        _feed(socket, stdin)
        return _collect(socket, f"exec in pod {namespace}/{pod}", limit)
    finally:
        _close(socket)


def open_websocket(connection: Connection, url: str, headers: list[tuple[str, str]], protocols: list[str]) -> Any:
    """Connect with the TLS and proxy settings of the client configuration."""
    import websocket

    configuration = connection.configuration
    host, path = configuration.host, urlparse(url).path
    url = "ws" + url.removeprefix("http")
    socket = websocket.WebSocket(sslopt=_ssl_options(configuration, url), skip_utf8_validation=True)
    lines = [f"{name}: {value}" for name, value in headers]
    try:
        socket.connect(
            url,
            header=lines,
            subprotocols=protocols,
            suppress_origin=True,
            timeout=connection.request_timeout or HANDSHAKE_SECONDS,
            **_proxy(configuration),
        )
    except websocket.WebSocketBadStatusException as error:
        raise _refused(error, host, path) from error
    except (websocket.WebSocketException, OSError) as error:
        raise ConnectionFailed(
            f"no answer from {host} to the exec request: {refusals.cause(error)}",
            hint="a proxy on the way that cannot pass WebSockets is the usual cause",
        ) from error
    return socket


def _ssl_options(configuration: Any, url: str) -> dict[str, Any]:
    import ssl

    if not url.startswith("wss"):
        return {}
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE}
    if not configuration.verify_ssl:
        options["check_hostname"] = False
    for option, attribute in (
        ("ca_certs", "ssl_ca_cert"),
        ("certfile", "cert_file"),
        ("keyfile", "key_file"),
    ):
        value = getattr(configuration, attribute, None)
        if value:
            options[option] = value
    if configuration.tls_server_name:
        options["server_hostname"] = configuration.tls_server_name
    return options


def _proxy(configuration: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if configuration.no_proxy:
        options["http_no_proxy"] = configuration.no_proxy.split(",")
    if configuration.proxy:
        proxy = urlparse(configuration.proxy)
        options.update(
            http_proxy_host=proxy.hostname,
            http_proxy_port=proxy.port,
            proxy_type=proxy.scheme if proxy.scheme.startswith("socks") else "http",
        )
        if proxy.username:
            options["http_proxy_auth"] = (proxy.username, proxy.password or "")
    return options


def _refused(error: Any, host: str, path: str) -> ApiError:
    status = int(getattr(error, "status_code", 0) or 0)
    found = refusals.refused(status, getattr(error, "resp_body", b"") or b"", "GET", host, path)
    if status == 403:
        found.hint = "creating an exec session needs the right `create pods/exec`"
    return found


def _feed(socket: Any, stdin: bytes) -> None:
    import websocket

    try:
        for start in range(0, len(stdin), CHUNK):
            socket.send_binary(bytes([STDIN]) + stdin[start : start + CHUNK])
        if stdin and socket.getsubprotocol() == PROTOCOLS[0]:
            socket.send_binary(bytes([CLOSE, STDIN]))
    except (websocket.WebSocketException, OSError):
        # The command ended before it read everything: the reason comes on the way back.
        return


def _collect(socket: Any, what: str, limit: int) -> ExecResult:
    import websocket

    parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: [], ERROR: []}
    size, started = 0, time.monotonic()
    while True:
        try:
            opcode, frame = socket.recv_data(control_frame=True)
        except websocket.WebSocketTimeoutException:
            seconds = int(time.monotonic() - started)
            return _broken(parts, f"{what}: no byte came for {socket.gettimeout():.0f} s (after {seconds} s in all)")
        except (websocket.WebSocketException, OSError) as error:
            return _broken(parts, f"{what}: the stream was cut ({error})")
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return _finished(parts, what)
        if opcode not in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) or not frame:
            continue
        data = frame if isinstance(frame, bytes) else frame.encode()
        channel = parts.get(data[0])
        if channel is not None and len(data) > 1:
            channel.append(data[1:])
            size += len(data)
            if size > limit:
                raise NodeError(f"{what}: the answer is larger than {limit} bytes")
        if parts[ERROR] and (result := _finished(parts, what)).exit_code is not None:
            return result


def _finished(parts: dict[int, list[bytes]], what: str) -> ExecResult:
    status = b"".join(parts[ERROR])
    if not status:
        return _broken(parts, f"{what}: the stream ended without a status")
    try:
        code, message = _exit_code(json.loads(status))
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return _broken(parts, f"{what}: unreadable status")
    return ExecResult(b"".join(parts[STDOUT]), b"".join(parts[STDERR]), code, message)


def _broken(parts: dict[int, list[bytes]], message: str) -> ExecResult:
    return ExecResult(b"".join(parts[STDOUT]), b"".join(parts[STDERR]), None, message)


def _exit_code(status: dict[str, Any]) -> tuple[int, str]:
    if status.get("status") == "Success":
        return 0, ""
    message = str(status.get("message") or "")
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause.get("message")), message
    # The runtime could not start the command at all (for example: executable file not found).
    return 126, message


def _close(socket: Any) -> None:
    try:
        socket.close(timeout=1)
    except Exception:
        # Whatever a dying socket says, the result is already known.
        return
