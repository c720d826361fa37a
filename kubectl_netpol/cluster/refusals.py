"""What the API server, or something on the way to it, said instead of an answer: one line what, one line what to do."""

from __future__ import annotations

import json
import re

from kubectl_netpol.errors import ApiError, ConnectionFailed

HINTS = {
    401: "the credentials are not accepted: log in again, or check the user of the kubeconfig context",
    403: "the rights each verb needs are listed in docs/rbac.md",
    429: "the API server asks to slow down: try again in a minute",
    500: "the API server has a problem of its own: try again in a minute",
    502: "a load balancer or proxy does not reach the API server: try again in a minute",
    503: "the API server is not ready: try again in a minute",
    504: "the API server did not get ready in time: try again in a minute",
}
PROXY = "something on the way, such as a proxy with a login page, answers in place of the API server"
MOST_TEXT = 300


def refused(status: int, body: bytes, method: str, host: str, path: str) -> ApiError:
    """The error of an answer whose status is 400 or more."""
    reason, message = _status_of(body)
    hint = HINTS.get(status, "")
    if message.startswith("<"):
        title = re.search(r"<title>([^<]*)", message, re.IGNORECASE)
        message = f"HTTP {status} with a web page" + (f": {title[1]}" if title else "")
        hint = hint or PROXY
    text = message or f"{method} {path}: HTTP {status}"
    return ApiError(status, reason, " ".join(text.split()), hint, request=f"{method} {host}{path}")


def no_connection(error: BaseException, method: str, host: str, path: str) -> ConnectionFailed:
    """The error of a request that got no answer."""
    what = cause(error)
    return ConnectionFailed(f"no answer from {host} to {method} {path}: {what}", _connection_hint(what.lower()))


def _connection_hint(what: str) -> str:
    if "timed out" in what:
        return (
            "check the context and the network: `kubectl cluster-info`; a slow server needs a longer --request-timeout"
        )
    if "expired" in what:
        return "the certificate of the server, or this machine's clock, is out of date"
    if "mismatch" in what or "not valid for" in what:
        return "check server and tls-server-name of the cluster in the kubeconfig"
    if "wrong version" in what or "record layer" in what:
        return "what listens there does not speak TLS: check server of the cluster in the kubeconfig"
    if "certificate" in what:
        return "check certificate-authority of the cluster in the kubeconfig"
    return "check the context and the network: `kubectl cluster-info`"


def cause(error: BaseException) -> str:
    """The innermost reason of a urllib3 error, in one line, without the names and addresses of Python's objects."""
    while inner := _inner(error):
        error = inner
    text = " ".join(str(error).split())
    text = re.sub(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)|_ssl\.c:\d+): |^\[(SSL|X509|Errno)[^]]*\] ", "", text)
    text = re.sub(r" \(_ssl\.c:\d+\)$", "", text)
    return re.sub(r"^IncompleteRead\((.*)\)$", r"\1", text) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """urllib3 hands on what happened as ``reason``, among the arguments, or as the cause."""
    places = (getattr(error, "reason", None), *reversed(error.args), error.__cause__)
    return next((one for one in places if isinstance(one, BaseException) and str(one)), None)


def _status_of(data: bytes) -> tuple[str, str]:
    """(reason, message) of a Status object; what is none is a message as it is."""
    try:
        status = json.loads(data)
        return str(status.get("reason") or ""), str(status.get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        return "", data[:MOST_TEXT].decode("utf-8", "replace").lstrip()
