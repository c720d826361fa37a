"""The node of a kind cluster as the lab sees a node: a container whose network and mounts can be reached from here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.node import Interface, Sandbox, host_veth_name

Json = dict[str, Any]

PLUGIN = Path(__file__).parent / "cni/vpc-names"
CONFIGURATION = "etc/cni/net.d/00-netpol-e2e.conflist"
"""The container runtime takes the first file: where there is one of kindnet, it is not used for new pods."""


@dataclass
class KindPod(Sandbox):
    """A pod of the cluster. No more than what the agent asks of it: where its veth is."""

    namespace: str
    name: str
    ip: str
    host_network: bool
    interfaces: list[Interface] = field(default_factory=list)

    @property
    def veth(self) -> str | None:
        return self.interfaces[0].host_name if self.interfaces else None


class KindNode(Sandbox):
    """``Agent`` and the breakages work on it as on the lab's own ``Node``."""

    def __init__(self, container: str, ip: str) -> None:
        self.name, self.ip = container, ip
        done = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", container], capture_output=True, text=True, check=True
        )
        self.pid = int(done.stdout)
        self.pods: dict[tuple[str, str], KindPod] = {}
        self._netlink = self.netlink()

    def close(self) -> None:
        self._netlink.close()

    def run(self, argv: Sequence[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
        """A program of this machine in the node's network, as ``Node.run`` does it."""
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=check)

    def processes(self) -> list[str]:
        """The command lines of everything on the node."""
        command = ["docker", "exec", self.name, "ps", "-eo", "args"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[1:]

    # network and mounts ----------------------------------------

    def set_up(self, subnet: str) -> None:
        """A pod network with the names of the VPC CNI, and a BPF file system."""
        target = self.root / "opt/cni/bin/vpc-names"
        target.write_bytes(PLUGIN.read_bytes())
        target.chmod(0o755)
        file = self.root / CONFIGURATION
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self._configuration(subnet)))
        mounted = "mountpoint -q /sys/fs/bpf && stat -f -c %T /sys/fs/bpf | grep -q bpf || mount -t bpf bpf /sys/fs/bpf"
        subprocess.run(["docker", "exec", "--privileged", self.name, "sh", "-c", mounted], check=True)

    def _configuration(self, subnet: str) -> Json:
        addresses = {
            "type": "host-local",
            "dataDir": "/run/cni-ipam-state",
            "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": subnet}]],
        }
        names = {"type": "vpc-names", "nodeAddress": self.ip}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        plugins = [{"type": "ptp", "ipam": addresses}, names, ports]
        return {"cniVersion": "0.4.0", "name": "netpol-e2e", "plugins": plugins}

    # pods ----------------------------------------

    def take(self, pod: Json) -> KindPod:
        """A running pod's veth is found by the name that the VPC CNI gives it, or it is not found, as on EKS."""
        meta, status = pod["metadata"], pod["status"]
        made = KindPod(meta["namespace"], meta["name"], status["podIP"], bool(pod["spec"].get("hostNetwork")))
        if not made.host_network:
            name = host_veth_name(made.namespace, made.name)
            link = self._netlink.links().get(name)
            made.interfaces = [Interface("eth0", name, link.index, made.ip)] if link else []
        self.pods[made.namespace, made.name] = made
        return made
