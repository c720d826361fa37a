"""Nodes, their pods and debug containers, and the network between them."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from . import bpfsys, netns
from .netlink import Link, Netlink
from .netns import DEFAULT_ENV, File, LabError, NsPopen

BRIDGE = "fabric0"
# What a pod's default route points at; no link has it. By IP version.
POD_GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
POD_GATEWAY = POD_GATEWAYS[4]
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
STATE_DIR = "/run/netpol-lab"
PYENV_39 = next(iter(sorted(Path.home().glob(".pyenv/versions/3.9*"))), Path("/opt/python3.9"))

Services = Mapping[str, Mapping[tuple[str, int], Sequence[tuple[str, int]]]]


def host_veth_name(namespace: str, pod: str, index: int = 0, prefix: str = "eni") -> str:
    """Agent facts 4.5: eni + 11 hex digits of sha1("<namespace>.<pod>"), ".<index>" from the second on."""
    name = f"{namespace}.{pod}" if index == 0 else f"{namespace}.{pod}.{index}"
    return prefix + hashlib.sha1(name.encode()).hexdigest()[:11]


def version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def _wait_operational(netlink: Netlink, name: str) -> None:
    """A link that was just set up drops packets until a worker of the kernel has seen to it."""
    netns.wait_until(lambda: netlink.link(name).operational, f"{name} is operational")


def _wait_link_local(pid: int, name: str) -> None:
    """Asking for a neighbour takes the link's own link-local address, which a worker of the kernel makes usable.

    Until then the question is not sent, and not repeated for a second.
    """
    table, tentative = Path(f"/proc/{pid}/net/if_inet6"), 0x40

    def usable() -> bool:
        rows = [line.split() for line in table.read_text().splitlines()]
        return any(r[5] == name and r[0].startswith("fe80") and not int(r[4], 16) & tentative for r in rows)

    netns.wait_until(usable, f"link-local address of {name}")


def _host_network(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


class Sandbox:
    """Anything with namespaces: a fabric, a node, a pod, a container."""

    pid: int
    env: Mapping[str, str] = DEFAULT_ENV
    security: Mapping[str, Any] | None = None
    """What its processes are confined to (`security.confinement`); None: nothing."""

    @property
    def root(self) -> Path:
        """Its file system as seen from here."""
        return Path(f"/proc/{self.pid}/root")

    def netlink(self) -> Netlink:
        return Netlink(netns.socket_in(self.pid, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC))

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket inside, for tests that need packets and no process."""
        return netns.socket_in(self.pid, family, kind, protocol)

    def configure_ipv6(self, router: bool = False) -> None:
        """To be called before links are made.

        Duplicate address detection is off: it keeps a new link's own address unusable for a second, and with it
        every packet that needs the neighbour's.
        """
        for scope in ("all", "default"):
            self.sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
            self.sysctl(f"net/ipv6/conf/{scope}/accept_redirects", 0)
        if router:
            self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def sysctl(self, name: str, value: str | int) -> None:
        path = Path("/proc/sys", *name.split("/"))
        netns.in_netns(self.pid, lambda: path.write_text(str(value)))


class _Held(Sandbox):
    """A sandbox with a holder process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._control, self.pid, self._holder = netns.start_holder(name)
        self._pidfd = os.pidfd_open(self.pid)
        self._netlink = self.netlink()
        self._closed = False

    def _stop(self) -> None:
        self._netlink.close()
        self._control.close()
        netns.wait_gone(self._pidfd, self.name)
        os.close(self._pidfd)
        self._holder.wait()


class Fabric(_Held):
    """The VPC: a bridge that every node's eth0 is on, and the router and outside world behind it."""

    def __init__(self, network: str = "10.0.0.0/20") -> None:
        self.network = ipaddress.ip_network(network)
        self.gateway = str(self.network.network_address + 1)
        self.nodes: list[Node] = []
        self._ports = itertools.count()
        super().__init__("fabric")
        for name, value in (("ip_forward", 1), ("conf/all/send_redirects", 0), ("conf/default/rp_filter", 0)):
            self.sysctl(f"net/ipv4/{name}", value)
        self.configure_ipv6(router=True)
        self._netlink.set_up("lo")
        self._netlink.add_bridge(BRIDGE)
        self._bridge = self._netlink.link(BRIDGE).index
        self._netlink.add_address(self._bridge, self.gateway, self.network.prefixlen)

    def join(self, node: Node) -> str:
        """Gives the node its eth0; returns the name of the bridge's end."""
        port = f"port{next(self._ports)}"
        with open(f"/proc/{node.pid}/ns/net") as peer:
            self._netlink.add_veth(port, "eth0", peer.fileno(), master=self._bridge)
        self.nodes.append(node)
        return port

    def wait_port(self, port: str) -> None:
        """Until the bridge forwards to a node that just came up."""
        _wait_operational(self._netlink, port)
        _wait_operational(self._netlink, BRIDGE)
        if self.network.version == 6:
            _wait_link_local(self.pid, BRIDGE)

    def has_port(self, port: str) -> bool:
        return port in self._netlink.links()

    def add_pod_route(self, address: str, node: Node) -> None:
        self._netlink.replace_route(_host_network(address), via=node.ip)

    def delete_pod_route(self, address: str) -> None:
        self._netlink.delete_route(_host_network(address))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for node in list(self.nodes):
            node.close()
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Interface:
    """One veth pair of a pod."""

    name: str
    host_name: str
    host_index: int
    address: str


class PodSandbox(Sandbox):
    """A pod's namespaces on its node."""

    def __init__(self, node: Node, namespace: str, name: str, ip: str, host_network: bool) -> None:
        self.node, self.namespace, self.name, self.ip = node, namespace, name, ip
        self.host_network = host_network
        self.interfaces: list[Interface] = []
        hosts = f"{STATE_DIR}/hosts-{next(node.serial)}"
        self._hosts_file = Path(f"{node.root}{hosts}")
        self.set_hosts({})
        # The kubelet cuts a longer name for the same reason: the kernel takes 64 bytes.
        request = {"kind": "pod", "hostname": name[:63], "hosts": hosts, "host_network": host_network}
        self._control = node.request(request)
        try:
            self.pid = netns.wait_ready(self._control, f"pod {namespace}/{name}")
        except BaseException:
            self._control.close()
            raise
        self._pidfd = os.pidfd_open(self.pid)

    @property
    def veth(self) -> str | None:
        return self.interfaces[0].host_name if self.interfaces else None

    @property
    def addresses(self) -> list[str]:
        return [i.address for i in self.interfaces]

    def set_hosts(self, names: Mapping[str, str]) -> None:
        """The pod's /etc/hosts: name -> address."""
        lines = [
            "127.0.0.1 localhost",
            "::1 localhost",
            f"{self.ip} {self.name}",
            *(f"{ip} {n}" for n, ip in names.items()),
        ]
        self._hosts_file.write_text("\n".join(lines) + "\n")

    def stop(self) -> None:
        self._control.close()
        netns.wait_gone(self._pidfd, f"pod {self.namespace}/{self.name}")
        os.close(self._pidfd)


# images of containers ----------------------------------------


@dataclass(frozen=True)
class Image:
    """What a debug container sees of the machine: read-only binds, symbolic links, and an environment."""

    binds: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_ENV))


def _system_image(extra: Sequence[str] = (), path_first: str = "") -> Image:
    binds, links = {}, {}
    for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", *extra):
        if Path(name).is_symlink():
            links[name] = str(Path(name).readlink())
        elif Path(name).is_dir():
            binds[name] = name
    env = dict(DEFAULT_ENV)
    if path_first:
        env["PATH"] = f"{path_first}:{env['PATH']}"
    return Image(binds, links, env)


def _libraries(program: str) -> set[str]:
    """What a dynamic program needs; none for a static one."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {word for word in out.split() if word.startswith("/")}


def _busybox_image() -> Image:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is not installed")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    binds = {"/bin/busybox": busybox} | {path: os.path.realpath(path) for path in _libraries(busybox)}
    links = {f"/bin/{name}": "busybox" for name in applets if name != "busybox"}
    links |= {"/usr/bin": "../bin"}
    return Image(binds, links, DEFAULT_ENV | {"PATH": "/bin"})


def image(name: str) -> Image:
    if name == "python3.11":
        return _system_image()
    if name == "python3.9":
        if not PYENV_39.is_dir():
            raise LabError(f"image python3.9 needs {PYENV_39}")
        return _system_image([str(PYENV_39)], f"{PYENV_39}/bin")
    if name == "busybox":
        return _busybox_image()
    raise LabError(f"no image {name!r}")


Mount = tuple[str, str, bool]


class Container(Sandbox):
    """A debug pod's container. It ends with its main process, or with close()."""

    def __init__(self, node: Node, request: dict[str, Any], environment: Mapping[str, str], stdin: File) -> None:
        self.node = node
        self.env = environment
        self.security = request["security"]
        self.exit_code: int | None = None
        self._log = os.memfd_create("container-log")
        self._pidfd: int | None = None
        own_stdin = os.open(os.devnull, os.O_RDONLY) if stdin is None else None
        given = own_stdin if own_stdin is not None else stdin if isinstance(stdin, int) else stdin.fileno()  # type: ignore[union-attr]
        try:
            self._control = node.request(request, [given, self._log, self._log])
        finally:
            if own_stdin is not None:
                os.close(own_stdin)
        try:
            self.pid = netns.wait_ready(self._control, "container")
        except BaseException:
            self._control.close()
            os.close(self._log)
            raise

    def logs(self) -> str:
        """What the main process wrote so far, both streams."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, size, 0).decode(errors="replace")

    def wait(self, timeout: float | None = None) -> int:
        """The main process's exit code (negative: signal); everything else in it is gone by then."""
        while self.exit_code is None:
            try:
                event = netns.receive_event(self._control, timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired("container", timeout or 0) from None
            if event is None:
                self.exit_code = -signal.SIGKILL
            elif event[0]["event"] == "exit":
                self.exit_code = int(event[0]["code"])
            else:
                raise LabError(f"container: {event[0].get('text', event[0])}")
        return self.exit_code

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired, BlockingIOError):
            return self.wait(timeout=0)
        return None

    def close(self) -> None:
        """Kills everything in it and waits for the end."""
        if self._control.fileno() < 0:
            return
        # Half a close is the order to end; the supervisor's last word is still read, and then the end.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(netns.STOP_TIMEOUT)
        with contextlib.suppress(TimeoutError):
            while netns.receive_event(self._control, netns.STOP_TIMEOUT):
                pass
        self._control.close()
        os.close(self._log)
        with contextlib.suppress(ValueError):
            self.node.containers.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# the node ----------------------------------------


class Node(_Held):
    """One worker node: its own network, mounts (with bpffs) and processes."""

    def __init__(self, name: str, ip: str, fabric: Fabric) -> None:
        super().__init__(name)
        self.ip, self.fabric, self.version = ip, fabric, version_of(ip)
        self.serial = itertools.count(1)
        self.pods: dict[tuple[str, str], PodSandbox] = {}
        self.containers: list[Container] = []
        try:
            self._set_up_network()
        except BaseException:
            self._stop()
            raise

    def _set_up_network(self) -> None:
        self.sysctl("net/ipv4/ip_forward", 1)
        for scope in ("all", "default"):
            self.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
            self.sysctl(f"net/ipv4/conf/{scope}/send_redirects", 0)
        self.configure_ipv6(router=True)
        self._netlink.set_up("lo")
        self._port = self.fabric.join(self)
        self._netlink.set_up("eth0")
        _wait_operational(self._netlink, "eth0")
        self.fabric.wait_port(self._port)
        if self.version == 6:
            _wait_link_local(self.pid, "eth0")
        self.eth0: Link = self._netlink.link("eth0")
        self._netlink.add_address(self.eth0.index, self.ip, self.fabric.network.prefixlen)
        # Locally sent packets to a ClusterIP need a route before the output hook can translate them.
        self._netlink.replace_route(EVERYWHERE[self.version], via=self.fabric.gateway)
        for other in self.fabric.nodes:
            for pod in other.pods.values():
                if other is not self:
                    for address in pod.addresses:
                        self._netlink.replace_route(_host_network(address), via=other.ip)

    def request(self, request: dict[str, Any], stdio: Sequence[int] = ()) -> socket.socket:
        """Asks PID 1 for a new sandbox; the returned socket is the sandbox's life line."""
        ours, theirs = netns.control_pair()
        with theirs:
            netns.send_request(self._control, request, [theirs.fileno(), *stdio])
        return ours

    # pods ----------------------------------------

    def add_pod(
        self,
        namespace: str,
        name: str,
        ip: str | None = None,
        links: Sequence[str] = (),
        host_network: bool = False,
        hosts: Mapping[str, str] | None = None,
        veth_prefix: str = "eni",
    ) -> PodSandbox:
        """`links`: addresses of further interfaces (eth1, ...), as a multi-NIC pod has them.

        `veth_prefix`: "vlan" for a pod with security groups of its own.
        """
        if (namespace, name) in self.pods:
            raise LabError(f"pod {namespace}/{name} exists on {self.name}")
        if ip is None and not host_network:
            raise LabError(f"pod {namespace}/{name} needs an address")
        pod = PodSandbox(self, namespace, name, self.ip if host_network else str(ip), host_network)
        self.pods[namespace, name] = pod
        pod.set_hosts(hosts or {})
        if not host_network:
            pod.configure_ipv6()
            for index, address in enumerate([pod.ip, *links]):
                self._connect(pod, index, address, veth_prefix)
        return pod

    def _connect(self, pod: PodSandbox, index: int, address: str, veth_prefix: str) -> None:
        inside, outside = f"eth{index}", host_veth_name(pod.namespace, pod.name, index, veth_prefix)
        with open(f"/proc/{pod.pid}/ns/net") as peer:
            self._netlink.add_veth(outside, inside, peer.fileno())
        host = self._netlink.link(outside)
        with pod.netlink() as netlink:
            self._configure_pod_end(netlink, inside, index, address, host.mac)
            _wait_operational(netlink, inside)
        _wait_operational(self._netlink, outside)
        if version_of(address) == 6:
            _wait_link_local(self.pid, outside)
        self._netlink.replace_route(_host_network(address), host.index)
        pod.interfaces.append(Interface(inside, outside, host.index, address))
        self.fabric.add_pod_route(address, self)
        for other in self.fabric.nodes:
            if other is not self:
                other._netlink.replace_route(_host_network(address), via=self.ip)

    @staticmethod
    def _configure_pod_end(netlink: Netlink, name: str, index: int, address: str, gateway_mac: bytes) -> None:
        version = version_of(address)
        gateway, everything = POD_GATEWAYS[version], EVERYWHERE[version]
        if index == 0:
            netlink.set_up("lo")
        netlink.set_up(name)
        link = netlink.link(name).index
        netlink.add_address(link, address, ipaddress.ip_address(address).max_prefixlen)
        table = 254 if index == 0 else 100 + index
        netlink.replace_route(_host_network(gateway), link, table=table)
        # The gateway does not exist: a fixed neighbour entry points at the host end of the veth.
        netlink.add_permanent_neighbour(link, gateway, gateway_mac)
        netlink.replace_route(everything, link, via=gateway, table=table)
        if index:
            netlink.add_source_rule(address, table)

    def remove_pod(self, namespace: str, name: str) -> None:
        pod = self.pods.pop((namespace, name))
        for address in pod.addresses:
            self.fabric.delete_pod_route(address)
            for other in self.fabric.nodes:
                if other is not self:
                    other._netlink.delete_route(_host_network(address))
        for interface in pod.interfaces:
            self._netlink.delete_link(interface.host_name)
        pod.stop()

    # services ----------------------------------------

    def set_services(self, services: Services) -> None:
        """kube-proxy's part: after the veth's tc ingress hook, so egress is judged on the ClusterIP."""
        self.run(["nft", "-f", "-"], input=_nft_rules(services, self.version), check=True)

    # processes ----------------------------------------

    def popen(
        self,
        argv: Sequence[str],
        sandbox: PodSandbox | Container | None = None,
        stdin: File = None,
        stdout: File = None,
        stderr: File = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> NsPopen:
        """`env` is added to the sandbox's own. kill() and terminate() reach the process itself."""
        target: Sandbox = sandbox or self
        environment = {**target.env, **(env or {})}
        return netns.popen_in(target.pid, argv, stdin, stdout, stderr, environment, target.security, **options)

    def run(
        self,
        argv: Sequence[str],
        sandbox: PodSandbox | Container | None = None,
        timeout: float = 30.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        target: Sandbox = sandbox or self
        environment = {**target.env, **(env or {})}
        return netns.run_in(target.pid, argv, timeout, input, environment, check, target.security)

    def add_container(
        self,
        argv: Sequence[str] = ("sleep", "2147483647"),
        *,
        host_network: bool = True,
        host_pid: bool = True,
        mounts: Sequence[Mount] = (),
        rootfs: Image | Mapping[str, str] | str = "python3.11",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: File = None,
        hostname: str = "debug",
        masked: bool = False,
        host_ipc: bool = True,
        security: Mapping[str, Any] | None = None,
    ) -> Container:
        """`rootfs`: an image's name, an Image, or {path in it: path on the machine} to bind read-only.

        `mounts`: (path on the node, path in the container, read-only), bound recursively as a hostPath is.
        `masked`: parts of /proc are hidden and /sys is read-only, as in a container that is not privileged.
        `security`: what its processes are confined to, see `security.confinement`.
        """
        chosen = image(rootfs) if isinstance(rootfs, str) else rootfs
        if not isinstance(chosen, Image):
            chosen = Image(dict(chosen))
        environment = {**chosen.env, "HOSTNAME": hostname, **(env or {})}
        request = {
            "kind": "container", "argv": list(argv), "env": environment, "cwd": cwd, "hostname": hostname,
            "host_network": host_network, "host_pid": host_pid, "rootfs": dict(chosen.binds),
            "links": dict(chosen.links), "mounts": [list(m) for m in mounts], "masked": masked, "host_ipc": host_ipc,
            "security": security,
        }  # fmt: skip
        container = Container(self, request, environment, stdin)
        self.containers.append(container)
        return container

    # end ----------------------------------------

    def _bpf_ids(self) -> tuple[set[int], set[int]]:
        """Ids of the programs and maps that are pinned here."""
        programs: set[int] = set()
        maps: set[int] = set()
        for path in self.root.joinpath("sys/fs/bpf").rglob("*"):
            if not path.is_file():
                continue
            with contextlib.suppress(OSError):
                fd = bpfsys.obj_get(str(path))
                try:
                    kind = str(Path(f"/proc/self/fd/{fd}").readlink())
                    if "bpf-prog" in kind:
                        info = bpfsys.prog_info(fd)
                        programs.add(info.id)
                        maps.update(info.map_ids)
                    elif "bpf-map" in kind:
                        maps.add(bpfsys.map_info(fd).id)
                finally:
                    os.close(fd)
        return programs, maps

    def close(self) -> None:
        """Ends everything on the node; returns when processes, network and BPF objects are gone."""
        if self._closed:
            return
        self._closed = True
        programs, maps = self._bpf_ids()
        for container in list(self.containers):
            container._control.close()
        for pod in self.pods.values():
            pod._control.close()
            os.close(pod._pidfd)
        self._stop()
        self.fabric.nodes.remove(self)
        # A network namespace is taken down behind the scenes: the far end of its veth vanishes with it.
        netns.wait_until(lambda: not self.fabric.has_port(self._port), f"network of {self.name} gone")
        netns.wait_until(lambda: not _any_alive(programs, maps), f"BPF objects of {self.name} gone")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _any_alive(programs: set[int], maps: set[int]) -> bool:
    for ids, opener in ((programs, bpfsys.prog_fd_by_id), (maps, bpfsys.map_fd_by_id)):
        for id_ in ids:
            fd = opener(id_)
            if fd is not None:
                os.close(fd)
                return True
    return False


def _nft_rules(services: Services, version: int = 4) -> str:
    """DNAT to one backend at random; a Service without backends is refused, as kube-proxy does."""
    ip_word = "ip" if version == 4 else "ip6"
    dnat, refuse, hairpin = [], [], set()
    for cluster_ip, ports in services.items():
        for (protocol, port), backends in ports.items():
            match = f"{ip_word} daddr {cluster_ip} {protocol.lower()} dport {port}"
            if not backends:
                # An ICMPv6 error comes back so fast that connect() still holds the socket, and then it counts only
                # at the SYN's repetition, a second later. A reset waits for its turn.
                reset = " with tcp reset" if version == 6 and protocol.lower() == "tcp" else ""
                refuse.append(f"{match} reject{reset}")
                continue
            choice = ", ".join(f"{i} : {ip} . {p}" for i, (ip, p) in enumerate(backends))
            dnat.append(f"{match} dnat {ip_word} to numgen random mod {len(backends)} map {{ {choice} }}")
            hairpin |= {ip for ip, _ in backends}
    # A pod that reaches itself through its Service is masqueraded, so its answers come back by the node.
    masquerade = [f"ct status dnat {ip_word} saddr {ip} {ip_word} daddr {ip} masquerade" for ip in sorted(hairpin)]
    chains = [
        ("prerouting", "type nat hook prerouting priority dstnat", dnat),
        ("output", "type nat hook output priority -100", dnat),
        ("postrouting", "type nat hook postrouting priority srcnat", masquerade),
        ("filter_forward", "type filter hook forward priority filter", refuse),
        ("filter_output", "type filter hook output priority filter", refuse),
    ]
    body = "\n".join(f"chain {n} {{ {hook};\n" + "\n".join(rules) + "\n}" for n, hook, rules in chains)
    table = f"table {ip_word} services"
    return f"{table}\ndelete {table}\n{table} {{\n{body}\n}}\n"


def wait_for_listener(pod: Sandbox, port: int, timeout: float = 5.0) -> None:
    """Until something in the sandbox listens on a TCP port; found without sending a packet."""
    wanted = f":{port:04X}"
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        # A socket of both families is in the IPv6 table only.
        rows = [r for t in ("tcp", "tcp6") for r in Path(f"/proc/{pod.pid}/net/{t}").read_text().splitlines()[1:]]
        if any(row.split()[1].endswith(wanted) and row.split()[3] == "0A" for row in rows):
            return
        time.sleep(0.005)
    raise LabError(f"nothing listens on port {port}: {timeout} s")
