"""The exceptions that reach a user as one line, and the exit codes of every verb."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says to the shell. The same for all verbs."""

    OK = 0
    """Clean, or the flow is allowed."""
    DENIED = 1
    """A finding at the threshold, or the flow is dropped."""
    USAGE = 2
    """The question cannot be asked like that (flags, names, formats)."""
    UNDECIDED = 3
    """The question is good, but something needed for the answer could not be read."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM."""


class NetpolError(Exception):
    """An error that ends the program: one line what and where, one line what to do."""

    exit_code = ExitCode.UNDECIDED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def line(self) -> str:
        """The message where it stands alone, as the whole of what is said."""
        return self.message


class UsageError(NetpolError):
    """The question is wrong: a name that does not exist, an ambiguous one, a bad flag value."""

    exit_code = ExitCode.USAGE


class NotRead(NetpolError):
    """What the question is about could not be read: missing rights, or a bundle without it."""


class ConnectionFailed(NetpolError):
    """No answer from the API server: no kubeconfig, no route, TLS, credentials plugin."""


class ApiError(NetpolError):
    """The API server answered with an error Status.

    ``status`` is the HTTP code (0 when the connection broke), ``reason`` the Status' reason, ``request`` the method
    and address that were asked.
    """

    NAMES_ITS_OBJECT = ("Forbidden", "NotFound", "AlreadyExists", "Conflict", "Invalid")
    """Reasons whose messages say what they are about; "Unauthorized" could be about anything."""

    def __init__(self, status: int, reason: str, message: str, hint: str = "", request: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.reason = reason
        self.request = request

    @property
    def line(self) -> str:
        alone = not self.request or self.reason in self.NAMES_ITS_OBJECT
        return self.message if alone else f"{self.request}: {self.message}"


class NodeError(NetpolError):
    """The node could not be read: the debug pod did not start, the exec broke, the answer is damaged."""


class BundleError(NetpolError):
    """A bundle file cannot be read, or is not one."""

    exit_code = ExitCode.USAGE


class OutputError(NetpolError):
    """The answer is there, but it cannot be written."""


class Interrupted(BaseException):
    """SIGTERM, as Ctrl-C is KeyboardInterrupt: not an ``Exception``, so that no handler swallows it."""
