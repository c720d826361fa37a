"""Status objects: every refusal of the API server, in its own words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """A request that is answered with a Status object instead of the thing asked for."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = REASONS.get(code, "") if reason is None else reason
        self.details = details
        self.metadata = metadata or {}
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            body["details"] = self.details
        return body | {"code": self.code}


class PageNotFoundError(Exception):
    """A path that no API serves: the real server answers with plain text, not with a Status."""


def qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(resource: str, group: str, name: str) -> dict[str, Any]:
    pairs = {"name": name, "group": group, "kind": resource}
    return {key: value for key, value in pairs.items() if value}


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized")


def not_found(resource: str, group: str, name: str) -> ApiError:
    message = f'{qualified(resource, group)} "{name}" not found'
    return ApiError(404, message, details=_details(resource, group, name))


def already_exists(resource: str, group: str, name: str) -> ApiError:
    message = f'{qualified(resource, group)} "{name}" already exists'
    return ApiError(409, message, reason="AlreadyExists", details=_details(resource, group, name))


def conflict(resource: str, group: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(resource, group)} "{name}": {why}'
    return ApiError(409, message, details=_details(resource, group, name))


def forbidden(resource: str, group: str, name: str, why: str) -> ApiError:
    subject = f'{qualified(resource, group)} "{name}"' if name else qualified(resource, group)
    return ApiError(403, f"{subject} is forbidden: {why}", details=_details(resource, group, name))


def internal(message: str) -> ApiError:
    details = {"causes": [{"message": message}]}
    return ApiError(500, f"Internal error occurred: {message}", details=details)


Cause = tuple[str, str, str]  # field, reason (FieldValueInvalid ...), message as the user reads it


def invalid(kind: str, group: str, name: str, causes: Iterable[Cause]) -> ApiError:
    """422 with one cause per field, worded as the server's field.ErrorList does."""
    listed = list(causes)
    lines = [f"{field}: {message}" for field, _, message in listed]
    text = lines[0] if len(lines) == 1 else "[" + ", ".join(lines) + "]"
    details = _details(kind, group, name) | {
        "causes": [{"reason": why, "message": message, "field": field} for field, why, message in listed]
    }
    return ApiError(422, f'{qualified(kind, group)} "{name}" is invalid: {text}', details=details)


def expired(message: str, *, metadata: dict[str, Any] | None = None) -> ApiError:
    return ApiError(410, message, metadata=metadata)
