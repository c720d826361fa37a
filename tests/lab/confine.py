"""What a container may do: capabilities, user, no_new_privs and seccomp, laid down before the program starts.

Imported by `holder.py` for a container's main process, and run as a script for those that are exec'ed into it:

    confine.py PID SECURITY PROGRAM [ARGUMENT...]

enters the namespaces of PID, as nsenter does, and lays down everything that the container has laid down. SECURITY is
the JSON that `security.confinement` makes. It imports nothing of the project, and nothing once the root has changed.
"""

from __future__ import annotations

import base64
import ctypes
import json
import linecache  # noqa: F401 - needed by traceback, and not found any more once the root has changed
import os
import signal
import sys
import traceback
import warnings  # noqa: F401 - as linecache: os.execvpe imports it late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 24, 38, 22, 2
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


class Confinement:
    """Prepared while files of the machine can still be read, laid down just before the program starts."""

    def __init__(self, security: dict[str, Any]) -> None:
        self.uid, self.gid = int(security["uid"]), int(security["gid"])
        self.kept = set(security["capabilities"])
        self.no_new_privileges = bool(security["no_new_privileges"])
        self.filter = base64.b64decode(security["seccomp"])
        with open(LAST_CAPABILITY) as file:
            self.last = int(file.read())

    def lay_down(self) -> None:
        """The bounding set is all that root keeps over execve(2); another user keeps nothing."""
        for number in range(self.last + 1):
            if number not in self.kept:
                check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
        # While the capabilities of before are still there: without no_new_privs it takes CAP_SYS_ADMIN.
        if self.filter:
            self._install_filter()
        os.setgroups([self.gid])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.no_new_privileges:
            check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    def _install_filter(self) -> None:
        """struct sock_fprog {u16 length in instructions of 8 bytes, pointer}."""
        code = ctypes.create_string_buffer(self.filter, len(self.filter))

        class Program(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

        program = Program(len(self.filter) // 8, ctypes.addressof(code))
        check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def enter(pid: int) -> None:
    """All namespaces of a process but the user's. The pid namespace is that of the next child."""
    spaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("ipc", "uts", "net", "pid", "mnt")]
    for space in spaces:
        check(libc.setns(space, 0), "setns")
        os.close(space)
    os.chdir("/")


def main() -> None:
    pid, confinement, argv = int(sys.argv[1]), Confinement(json.loads(sys.argv[2])), sys.argv[3:]
    enter(pid)
    child = os.fork()
    if child == 0:
        try:
            confinement.lay_down()
            os.execvpe(argv[0], argv, os.environ)
        except OSError as error:
            os.write(2, f"exec {argv[0]}: {error}\n".encode())
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(70)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        # As nsenter: who waits for this process shall see how the program ended.
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
