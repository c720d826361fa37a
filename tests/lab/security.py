"""What Kubernetes and containerd make of a securityContext: capabilities by number, user, seccomp filter.

The defaults are those of containerd 1.7 on an EKS node: root, fourteen capabilities, no seccomp where none is asked
for. Of its default seccomp profile the calls are refused that it makes depend on capabilities, and those that it never
allows; what else it leaves out no program of the lab has heard of.
"""

from __future__ import annotations

import base64
import errno
import functools
import platform
import re
import struct
import subprocess
from typing import Any

Json = dict[str, Any]

# linux/capability.h, in the order of their numbers.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip

# Call -> capabilities one of which makes the default profile allow it; none: never.
_REFUSED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bpf",), ("SYS_ADMIN", "BPF")),
    **dict.fromkeys(("perf_event_open",), ("SYS_ADMIN", "PERFMON")),
    **dict.fromkeys(
        ("mount", "umount2", "setns", "unshare", "clone3", "sethostname", "setdomainname", "fanotify_init", "quotactl",
         "open_tree", "move_mount", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr"),
        ("SYS_ADMIN",),
    ),
    **dict.fromkeys(("ptrace", "kcmp", "process_vm_readv", "process_vm_writev"), ("SYS_PTRACE",)),
    **dict.fromkeys(("init_module", "finit_module", "delete_module"), ("SYS_MODULE",)),
    **dict.fromkeys(("settimeofday", "clock_settime"), ("SYS_TIME",)),
    "open_by_handle_at": ("DAC_READ_SEARCH",),
    "chroot": ("SYS_CHROOT",),
    "reboot": ("SYS_BOOT",),
    "acct": ("SYS_PACCT",),
    "syslog": ("SYSLOG", "SYS_ADMIN"),
    "vhangup": ("SYS_TTY_CONFIG",),
    **dict.fromkeys(
        ("add_key", "request_key", "keyctl", "kexec_load", "kexec_file_load", "pivot_root", "swapon", "swapoff",
         "userfaultfd", "nfsservctl"),
        (),
    ),
}  # fmt: skip
_ENOSYS = {"clone3"}
"""Refused as if there was none, so that the C library takes the older call."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def confinement(spec: Json, container: Json) -> Json | None:
    """For `confine`: what the container's processes are put under; None where it is privileged."""
    own, pod = container.get("securityContext") or {}, spec.get("securityContext") or {}
    if own.get("privileged"):
        return None
    kept = capabilities(own.get("capabilities") or {})
    profile = (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") or "Unconfined"
    code = seccomp(frozenset(kept)) if profile == "RuntimeDefault" else b""
    return {
        "uid": own.get("runAsUser", pod.get("runAsUser", 0)),
        "gid": own.get("runAsGroup", pod.get("runAsGroup", 0)),
        "capabilities": sorted(CAPABILITIES.index(name) for name in kept),
        "no_new_privileges": own.get("allowPrivilegeEscalation") is False,
        "seccomp": base64.b64encode(code).decode(),
        "read_only_root": bool(own.get("readOnlyRootFilesystem")),
    }


def capabilities(wanted: Json) -> set[str]:
    """`ALL` is taken away and given before single ones."""
    drop, add = ({_plain(name) for name in wanted.get(key) or ()} for key in ("drop", "add"))
    kept = set(CAPABILITIES) if "ALL" in add else set() if "ALL" in drop else set(DEFAULT)
    return (kept - (drop if "ALL" not in drop else set())) | (add - {"ALL"})


def _plain(name: str) -> str:
    return name.upper().removeprefix("CAP_")


@functools.cache
def seccomp(kept: frozenset[str]) -> bytes:
    """Classic BPF over struct seccomp_data {int nr, u32 arch, ...}: instructions {u16 code, u8 jt, u8 jf, u32 k}."""
    numbers = call_numbers()
    code = [struct.pack("=HBBI", _LOAD, 0, 0, 4), struct.pack("=HBBI", _EQUAL, 1, 0, _AUDIT_ARCH[platform.machine()])]
    code += [struct.pack("=HBBI", _RETURN, 0, 0, _ERRNO | errno.EPERM), struct.pack("=HBBI", _LOAD, 0, 0, 0)]
    for name, enough in _REFUSED.items():
        if name in numbers and not kept & set(enough):
            answer = errno.ENOSYS if name in _ENOSYS else errno.EPERM
            code.append(struct.pack("=HBBI", _EQUAL, 0, 1, numbers[name]))
            code.append(struct.pack("=HBBI", _RETURN, 0, 0, _ERRNO | answer))
    return b"".join([*code, struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW)])


@functools.cache
def call_numbers() -> dict[str, int]:
    """This machine's system calls, from the headers that the datapath is built with too."""
    command = ["clang", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\n", text)}
