"""PID 1 of a lab's namespaces. Run as a script; it imports nothing of the project.

It owns network, mount, pid and uts namespaces and lives as long as its control socket: when the process that
made the lab ends, in whatever way, the kernel closes the other end, this process exits, and with the PID 1 of
a pid namespace everything in it is killed. PR_SET_PDEATHSIG would not do: it fires when the *thread* that
forked ends.

Requests are one JSON datagram each, with file descriptors attached; the first is always a socket for the
answers: the new sandbox is tied to that socket in the same way as the whole is tied to the control socket.
"""

# os.path is loaded already; pathlib and typing would add a fifth to the start-up time of every node.

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import linecache  # noqa: F401 - needed by traceback, and not found any more once the root has changed
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings  # noqa: F401 - as linecache: os.execvpe imports it late

# Last: started with -I, which leaves out the directory of the script, and nothing there shall hide a standard module.
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from confine import Confinement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = (
    1,
    2,
    4,
    8,
    32,
    4096,
    8192,
    16384,
)
MS_UNBINDABLE, MS_PRIVATE = 1 << 17, 1 << 18
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

STATE_DIR = "/run/netpol-lab"
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    check(libc.unshare(flags), f"unshare {flags:#x}")


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    args = [None if text is None else text.encode() for text in (source, target, kind)]
    blob = None if data is None else data.encode()
    check(
        libc.mount(args[0], args[1], args[2], ctypes.c_ulong(flags), blob),
        f"mount {kind or source} on {target}",
    )


def bind(source: str, target: str, read_only: bool = False, recursive: bool = True) -> None:
    """Makes the mount point too: a directory or an empty file, as the source is."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


# the control socket ----------------------------------------


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(1 << 18, socket.CMSG_SPACE(16 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def answer(sock: socket.socket, **fields: object) -> None:
    """The receiver has SO_PASSCRED set: it learns this process's id as seen from its own pid namespace."""
    with contextlib.suppress(OSError):
        sock.send(json.dumps(fields).encode())


def answer_for(sock: socket.socket, pid: int) -> None:
    """ "ready" in the name of another process, whose id the receiver learns as with answer()."""
    who = struct.pack("3i", pid, os.getuid(), os.getgid())
    with contextlib.suppress(OSError):
        sock.sendmsg([b'{"event": "ready"}'], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)])


def guarded(sock: socket.socket, work: object, *args: object) -> None:
    """Runs the rest of a forked child; a failure is told to the other side instead of printed."""
    try:
        work(*args)  # type: ignore[operator]
    except BaseException:
        answer(sock, event="error", text=traceback.format_exc())
        os._exit(70)
    os._exit(0)


def reset_signals() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# mounts of a node ----------------------------------------


def private_directory(path: str) -> None:
    """Makes `path` an own, empty tmpfs, although neither it nor its parents may exist on the real machine."""
    ancestor = os.path.realpath(path)
    missing = []
    while not os.path.isdir(ancestor):
        ancestor, last = os.path.split(ancestor)
        missing.append(last)
    if not missing:
        mount("lab", ancestor, "tmpfs", MS_NOSUID, "mode=755")
        return
    if ancestor == "/":
        raise OSError(f"{path}: no directory of it exists here, and the root directory is not touched")
    shadow(ancestor)
    os.makedirs(os.path.join(ancestor, *reversed(missing)))


def shadow(directory: str) -> None:
    """Replaces a directory by a tmpfs that shows what was in it, so that names can be added."""
    copy = f"{STATE_DIR}/shadow"
    os.makedirs(copy, exist_ok=True)
    mount("lab", copy, "tmpfs", MS_NOSUID, "mode=755")
    for entry in os.scandir(directory):
        target = f"{copy}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir() or entry.is_file():
            bind(entry.path, target)
    mount(copy, directory, None, MS_MOVE)


def mount_node() -> None:
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("bpf", "/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700")
    mount("lab", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("lab", "/var/log", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.makedirs(STATE_DIR)
    os.makedirs("/run/aws-node")
    if os.path.realpath("/var/run") != "/run":
        private_directory("/var/run/aws-node")
    os.makedirs("/var/log/aws-routed-eni")
    private_directory("/opt/cni/bin")


def mount_pod(hosts: str, host_network: bool) -> None:
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if host_network:
        # The same network namespace means the same sysfs, which cannot be mounted twice at one place.
        check(libc.umount2(b"/sys/fs/bpf", MNT_DETACH), "hide the node's bpffs")
    else:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount(hosts, "/etc/hosts", None, MS_BIND)


# the three kinds of sandbox ----------------------------------------


def hang_until_closed(sock: socket.socket) -> None:
    """What PID 1 of a pod does. Its end kills the rest of its pid namespace."""
    signal.signal(signal.SIGCHLD, reap)
    reap()
    while True:
        data, _ = receive(sock)
        if not data:
            os._exit(0)


def start_pod(request: dict[str, Any], sock: socket.socket) -> None:
    reset_signals()
    unshare(NEWNS | NEWPID | NEWUTS | (0 if request["host_network"] else NEWNET))
    if os.fork():
        os._exit(0)

    def body() -> None:
        socket.sethostname(request["hostname"])
        mount_pod(request["hosts"], request["host_network"])
        answer(sock, event="ready")
        hang_until_closed(sock)

    guarded(sock, body)


def start_container(request: dict[str, Any], sock: socket.socket, stdio: list[int]) -> None:
    """This process stays as supervisor: in the node's namespaces, parent of the container's main process."""
    reset_signals()
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    ours, theirs = socket.socketpair()
    own_pid = not request["host_pid"]
    if own_pid:
        unshare(NEWPID)
    main = os.fork()
    if main == 0:
        ours.close()
        guarded(sock, run_container, request, sock, stdio, theirs)
    theirs.close()
    for fd in stdio:
        os.close(fd)
    # The mount namespace is a mark that every process of the container carries, exec'd ones too. It is read
    # while the main process waits, which may end at once afterwards.
    mark, space = "", -1
    if ours.recv(1):
        # Held open: its number must not be that of another container, which starts while this one ends.
        space = os.open(f"/proc/{main}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        mark = os.readlink(f"/proc/{main}/ns/mnt")
        ours.send(b"y")
        # Its end closes on exec, so what is told to be ready is the program and not this script.
        ours.recv(1)
    ours.close()
    answer_for(sock, main)
    supervise(sock, main, own_pid, mark, space)


def run_container(request: dict[str, Any], sock: socket.socket, stdio: list[int], turn: socket.socket) -> None:
    os.setsid()
    confinement = Confinement(request["security"]) if request["security"] else None
    own = 0 if request["host_network"] else NEWNET
    unshare(NEWNS | NEWUTS | own | (0 if request["host_ipc"] else NEWIPC))
    turn.send(b"x")
    turn.recv(1)
    socket.sethostname(request["hostname"])
    build_root(request)
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    os.chdir(request["cwd"])
    try:
        if confinement:
            confinement.lay_down()
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except OSError as exc:
        os.write(2, f"exec {request['argv'][0]}: {exc.strerror}\n".encode())
        os._exit(127 if isinstance(exc, FileNotFoundError) else 126)


def build_root(request: dict[str, Any]) -> None:
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = f"{STATE_DIR}/root"
    os.makedirs(root, exist_ok=True)
    mount("lab", root, "tmpfs", 0, "mode=755")
    # A recursive bind of the node's root leaves out what is unbindable, so the new root is not inside itself.
    mount("none", root, None, MS_UNBINDABLE)
    for inside, source in sorted(request["rootfs"].items()):
        bind(source, root + inside, read_only=True)
    for inside, target in sorted(request["links"].items()):
        os.makedirs(os.path.dirname(root + inside), exist_ok=True)
        os.symlink(target, root + inside)
    security = request["security"] or {}
    own = ("proc", "sys", "dev") if security.get("read_only_root") else ("proc", "sys", "tmp", "dev", "run")
    for name in ("tmp", "run"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    for name in own:
        kind = {"proc": "proc", "sys": "sysfs"}.get(name, "tmpfs")
        os.makedirs(f"{root}/{name}", exist_ok=True)
        mount(kind, f"{root}/{name}", kind, MS_NOSUID, "mode=1777" if name == "tmp" else None)
    os.makedirs(f"{root}/root", exist_ok=True)
    build_dev(f"{root}/dev")
    if request["masked"]:
        mask(root)
    for source, inside, read_only in request["mounts"]:
        bind(source, root + inside, read_only=read_only)
    if security.get("read_only_root"):
        mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    os.chdir(root)
    number = PIVOT_ROOT[os.uname().machine]
    check(libc.syscall(number, b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leave the old root")
    os.chdir("/")


def mask(root: str) -> None:
    """What the container runtime hides where a container is not privileged; the part of it that is files."""
    for path in MASKED:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_RDONLY)
        elif os.path.exists(root + path):
            mount("/dev/null", root + path, None, MS_BIND)
    for path in READ_ONLY:
        if os.path.exists(root + path):
            mount(root + path, root + path, None, MS_BIND | MS_REC)
            mount("none", root + path, None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    mount("none", f"{root}/sys", None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def build_dev(dev: str) -> None:
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        bind(f"/dev/{name}", f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    mount("shm", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV)
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    os.symlink("/proc/self/fd", f"{dev}/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")


def supervise(sock: socket.socket, main: int, own_pid: bool, mark: str, space: int) -> None:
    """Ends with the container: by itself when the main process exits, by force when the socket is closed."""
    main_fd = os.pidfd_open(main)
    poller = select.poll()
    poller.register(main_fd, select.POLLIN)
    poller.register(sock, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if main_fd in ready or (sock.fileno() in ready and not receive(sock)[0]):
            break
    if main_fd not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.kill(main, signal.SIGKILL)
    status = os.waitpid(main, 0)[1]
    if not own_pid:
        kill_remaining(mark)
    if space >= 0:
        os.close(space)
    answer(sock, event="exit", code=os.waitstatus_to_exitcode(status))
    os._exit(0)


def family_of(mark: str) -> set[int]:
    """Processes in the container's mount namespace, those below the supervisor, and all their descendants."""
    me = os.getpid()
    parent: dict[int, int] = {}
    roots = {me}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{name}/stat") as f:
                parent[int(name)] = int(f.read().rpartition(")")[2].split()[1])
            if mark and os.readlink(f"/proc/{name}/ns/mnt") == mark:
                roots.add(int(name))
    found = set(roots)
    while more := {pid for pid, above in parent.items() if above in found} - found:
        found |= more
    return found - {me}


def kill_remaining(mark: str) -> None:
    deadline = time.monotonic() + 5
    while (left := family_of(mark)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.002)


# the node itself ----------------------------------------


def serve(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, reap)
    while True:
        data, fds = receive(control)
        if not data:
            os._exit(0)
        request = json.loads(data)
        pid = os.fork()
        if pid == 0:
            sock = socket.socket(fileno=fds[0])
            control.close()
            if request["kind"] == "pod":
                guarded(sock, start_pod, request, sock)
            guarded(sock, start_container, request, sock, fds[1:])
        for fd in fds:
            os.close(fd)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    request = json.loads(sys.argv[2])
    unshare(NEWNS | NEWPID | NEWNET | NEWUTS)
    child = os.fork()
    if child:
        control.close()
        os.waitpid(child, 0)
        os._exit(0)

    def body() -> None:
        socket.sethostname(request["hostname"])
        mount_node()
        answer(control, event="ready")
        serve(control)

    guarded(control, body)


if __name__ == "__main__":
    main()
