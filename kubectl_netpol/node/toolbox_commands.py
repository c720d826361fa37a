"""The shell commands that find and use the tools of a node, and what their texts mean.

All but the tools themselves are made of what a POSIX shell has built in: an image may have nothing but `sh` and
`chroot`. Each is one line that can be pasted into a shell of the debug pod.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubectl_netpol.kernel import layouts
from kubectl_netpol.node import reader
from kubectl_netpol.node.toolbox_shell import Output

Json = dict[str, Any]

INSTALL = "dnf install -y iproute-tc"
"""The article's step. Inside the container: what is installed there is gone with the pod."""
INSTALL_ON_HOST = f"chroot /host {INSTALL}"

_ANY_CLI = (
    "chroot /host /opt/cni/bin/aws-eks-na-cli",
    "chroot /host /run/aws-network-policy-agent/aws-eks-na-cli",
)
"""The build for the node's family, whatever its name: /opt/cni/bin on all nodes with the DaemonSet, /run on EKS Auto
Mode, where it is a symbolic link."""
_V4_CLI = "chroot /host /usr/bin/aws-eks-na-cli"
_V6_CLI = "chroot /host /usr/bin/aws-eks-na-cli-v6"


def tool(name: str) -> tuple[str, ...]:
    """Words that may run a tool: the node's own, then the image's."""
    places = (f"chroot /host /usr/sbin/{name}", f"chroot /host /sbin/{name}", f"chroot /host {name}")
    return (*places, name)


def _first_that_runs(candidates: Iterable[str], flag: str, stop: str = " && break") -> str:
    words = " ".join(shlex.quote(candidate) for candidate in candidates)
    return f"for tool in {words}; do $tool {flag} >/dev/null 2>&1 && printf '%s\\n' \"$tool\"{stop}; done; :"


# Looked for by running them: a link below /host may lead outside of it, and SELinux may forbid what the mode allows.
# busybox's own ip and tc do not know -V, and are not taken: they lack the details.
FIND_TC = _first_that_runs(tool("tc"), "-V")
FIND_IP = _first_that_runs(tool("ip"), "-V")
FIND_CLI = _first_that_runs((*_ANY_CLI, _V4_CLI, _V6_CLI), "ebpf --help", stop="")
LIST_LINKS = "for link in /sys/class/net/*; do printf '%s\\n' \"${link##*/}\"; done"
BPF_MOUNTS = (
    "while read -r line; do case $line in *' - bpf '*) printf '%s\\n' \"$line\";; esac; done </proc/self/mountinfo"
)
# Only builtins of the shell, as an image may have nothing else. The third line of timer_list is CLOCK_MONOTONIC.
CLOCKS = (
    "{ read -r line; read -r line; read -r line; } </proc/timer_list; printf 'timers %s\\n' \"$line\"; "
    "read -r line </proc/uptime; printf 'uptime %s\\n' \"$line\"; "
    "while read -r key value line; do case $key in btime) printf 'btime %s\\n' \"$value\";; esac; done </proc/stat"
)
SYSTEM = (
    "for name in ostype osrelease arch hostname; do read -r line </proc/sys/kernel/$name && "
    "printf '%s %s\\n' $name \"$line\"; done"
)
SYSFS_LINKS = (
    "for link in /sys/class/net/*; do printf 'link %s\\n' \"${link##*/}\"; "
    "for name in ifindex iflink flags operstate carrier mtu address; do "
    'read -r line <"$link/$name" && printf \'%s %s\\n\' $name "$line"; done; '
    'read -r line <"$link/master/ifindex" && printf \'master %s\\n\' "$line"; done'
)


@dataclass(frozen=True)
class Cli:
    """How to call aws-eks-na-cli by the family of a map; empty where there is no such build."""

    v4: str = ""
    v6: str = ""
    states: str = ""
    """A build that is known to be the IPv4 one: up to agent 1.4.2 only that shows pod states."""

    @property
    def any(self) -> str:
        return self.v4 or self.v6

    def for_map(self, row: Json) -> str:
        """A build of the other family reads keys into buffers of the wrong size."""
        layout = layouts.layout_of(row["type"], row["key_size"], row["value_size"])
        if layout is not None and layout.family == 0:
            return self.states or self.any
        return self.v6 if layout is not None and layout.family == 6 else self.v4


def chosen(output: Output, candidates: tuple[str, ...]) -> str:
    """The first line, if it is one of the words that were asked about."""
    line = output.stdout.split("\n")[0]
    return line if line in candidates else ""


def cli_of(lines: list[str]) -> Cli:
    """From those candidates that run."""
    v4 = _V4_CLI if _V4_CLI in lines else ""
    for candidate in _ANY_CLI:
        if candidate in lines:
            return Cli(candidate, candidate, v4)
    return Cli(v4, _V6_CLI if _V6_CLI in lines else "", v4)


def bpffs_of(mountinfo: str) -> Json:
    """The first of the reader's places where a bpf filesystem is mounted."""
    points = {words[4] for line in mountinfo.split("\n") if len(words := line.split()) > 4}
    path = next((place for place in reader.BPFFS_PATHS if place in points), None)
    return {"path": path, "reason": "" if path else f"no bpf filesystem at {' or '.join(reader.BPFFS_PATHS)}"}


def list_pins(bpffs: str) -> str:
    """The command that lists the agent's directory and all pins below it."""
    top = f"{bpffs}/{reader.AGENT_DIRECTORY}"
    return f'for pin in {top} {top}/*/*; do [ -e "$pin" ] || [ -L "$pin" ] || continue; printf \'%s\\n\' "$pin"; done'


def system(output: Output) -> dict[str, str]:
    """``uname`` of the document; kernels before 6.1 do not tell the machine in this way."""
    found = dict(line.split(" ", 1) for line in output.stdout.split("\n") if " " in line)
    names = {"sysname": "ostype", "release": "osrelease", "machine": "arch", "nodename": "hostname"}
    return {name: found.get(key, "").strip() for name, key in names.items()}


def clocks(output: Output) -> Json:
    """The reader's three clocks. Uptime is CLOCK_BOOTTIME in 1/100 s, the boot time of /proc/stat in whole s."""
    text = output.stdout
    uptime = re.search(r"^uptime (\d{1,10})\.(\d\d)\b", text, re.MULTILINE)
    monotonic = re.search(r"^timers now at (\d{1,19}) nsecs", text, re.MULTILINE)
    booted = re.search(r"^btime (\d{1,10})$", text, re.MULTILINE)
    boottime = int(uptime[1]) * 10**9 + int(uptime[2]) * 10**7 if uptime else 0
    return {
        "monotonic_ns": int(monotonic[1]) if monotonic else boottime,
        "boottime_ns": boottime,
        "realtime_ns": int(booted[1]) * 10**9 + boottime if booted else 0,
    }
