"""What the API server, or something on the way, said instead of an answer."""

from __future__ import annotations

import ssl

import pytest
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, SSLError

from kubectl_netpol.cluster import refusals
from kubectl_netpol.errors import ApiError

HOST, PATH = "https://eks.example.com", "/api/v1/pods"


def refused(status: int, body: bytes) -> ApiError:
    return refusals.refused(status, body, "GET", HOST, PATH)


@pytest.mark.parametrize(
    ("status", "body", "line", "hint"),
    [
        (
            401,
            b'{"message": "Unauthorized", "reason": "Unauthorized"}',
            f"GET {HOST}{PATH}: Unauthorized",
            "log in again",
        ),
        (403, b'{"message": "pods is forbidden", "reason": "Forbidden"}', "pods is forbidden", "docs/rbac.md"),
        (404, b'{"message": "pods \\"x\\" not found", "reason": "NotFound"}', 'pods "x" not found', ""),
        (404, b"404 page not found\n", f"GET {HOST}{PATH}: 404 page not found", ""),
        (418, b"<HTML><title>Log in\n</title>", f"GET {HOST}{PATH}: HTTP 418 with a web page: Log in", "a proxy"),
        (502, b"\n<html>", f"GET {HOST}{PATH}: HTTP 502 with a web page", "load balancer"),
        (500, b"", f"GET {HOST}{PATH}: GET {PATH}: HTTP 500", "try again"),
    ],
)
def test_a_line_says_what_was_asked_where_the_server_does_not(status: int, body: bytes, line: str, hint: str) -> None:
    error = refused(status, body)
    assert error.line == line
    assert hint in error.hint and bool(hint) == bool(error.hint)


def test_where_the_message_is_a_part_of_a_sentence_it_stays_short() -> None:
    assert refused(401, b'{"message": "Unauthorized", "reason": "Unauthorized"}').message == "Unauthorized"


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "cause", "hint"),
    [
        (
            MaxRetryError(
                None, "/", caused(NewConnectionError(None, "x: [Errno 111]"), OSError(111, "Connection refused"))
            ),  # type: ignore[arg-type]
            "Connection refused",
            "cluster-info",
        ),
        (
            ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset by peer")),
            "Connection reset by peer",
            "cluster-info",
        ),
        (
            MaxRetryError(
                None, "/", SSLError(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"))
            ),  # type: ignore[arg-type]
            "wrong version number",
            "does not speak TLS",
        ),
        (
            SSLError(
                ssl.SSLError(
                    1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1)"
                )
            ),
            "certificate verify failed: certificate has expired",
            "clock",
        ),
        (
            SSLError(
                ssl.SSLError(
                    1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get issuer (_ssl.c:1)"
                )
            ),
            "certificate verify failed: unable to get issuer",
            "certificate-authority",
        ),
        (
            TimeoutError("_ssl.c:989: The handshake operation timed out"),
            "The handshake operation timed out",
            "--request-timeout",
        ),
        (RuntimeError(), "RuntimeError", "cluster-info"),
    ],
)
def test_causes_come_without_python(error: Exception, cause: str, hint: str) -> None:
    found = refusals.no_connection(error, "GET", HOST, PATH)
    assert found.message == f"no answer from {HOST} to GET {PATH}: {cause}"
    assert hint in found.hint
