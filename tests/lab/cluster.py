"""A whole lab: API server, nodes, agents and the controller, tied together so that kubectl drives all of it.

    with LabCluster() as lab:
        lab.add_node("ip-172-31-103-129.ap-northeast-1.compute.internal", "172.31.103.129")
        lab.kubectl("create", "deploy", "nginx", "--image=nginx")

Pods that the API server schedules become network namespaces on their node; policies that it stores are
resolved by the controller stand-in and programmed by the agents; `exec` runs inside the pod.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from . import agent_pod, controller, na_cli, security
from .agent import Agent, Generation, Mode
from .api_runtime import exit_code
from .apiserver import ApiServer, Change, ExecError, StartError, make_node
from .netns import LabError, NsPopen
from .node import Container, Fabric, Image, Node, PodSandbox, wait_for_listener

Json = dict[str, Any]
T = TypeVar("T")

RECONCILED = {"Pod", "Namespace", "Service", "NetworkPolicy"}
WEB_ROOT = "/opt/cni/bin/lab-www"
# Without an address busybox serves both families.
IMAGES: Mapping[str, list[str]] = {"nginx": ["busybox", "httpd", "-f", "-p", "80", "-h", WEB_ROOT]}
"""What an image runs when the pod names no command."""
NETWORKS = {4: "172.31.96.0/20", 6: "2001:db8:1f:9600::/64"}
DEBUG_IMAGES: Mapping[str, str] = {"busybox": "busybox"}
"""Images of privileged pods that are not the default one, by the word in their name."""


class _Processes:
    """The exec'ed processes of one pod: they die with it, and their pipes are closed."""

    def __init__(self) -> None:
        self._running: list[NsPopen] = []
        self._lock = threading.Lock()

    def add(self, process: NsPopen) -> NsPopen:
        with self._lock:
            self._running = [p for p in self._running if p.poll() is None]
            self._running.append(process)
        return process

    def kill(self) -> None:
        with self._lock:
            for process in self._running:
                with contextlib.suppress(OSError):
                    process.kill()


class SandboxPod:
    """An ordinary pod: its namespaces on the node, its main process in them.

    Of several containers only the first one's process runs, and all are one place.
    """

    def __init__(self, cluster: LabCluster, pod: Json) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        self._cluster, self._node = cluster, cluster.nodes[spec["nodeName"]]
        self._namespace, self._name = meta["namespace"], meta["name"]
        host_network = bool(spec.get("hostNetwork"))
        address = None if host_network else cluster.address_for(self._namespace, self._name)
        self.sandbox: PodSandbox = self._node.add_pod(
            self._namespace,
            self._name,
            address,
            links=_by_longest_name(cluster.links, self._name) or (),
            host_network=host_network,
            hosts=cluster.service_names(),
            veth_prefix=_by_longest_name(cluster.veth_prefixes, self._name) or "eni",
        )
        cluster.agents[self._node.name].pod_added(self._namespace, self._name)
        container = spec["containers"][0]
        argv = [*(container.get("command") or []), *(container.get("args") or [])]
        argv = argv or list(IMAGES.get(container["image"], ["sleep", "infinity"]))
        self._main = self._node.popen(argv, self.sandbox, subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL)
        self._processes = _Processes()
        if argv[:2] == ["busybox", "httpd"]:
            wait_for_listener(self.sandbox, int(argv[argv.index("-p") + 1].rpartition(":")[2]))

    @property
    def pod_ip(self) -> str:
        return self.sandbox.ip

    def exec(self, argv: list[str], *, stdin: bool, tty: bool, container: str) -> NsPopen:
        return self._processes.add(_spawn(self._node, self.sandbox, argv, stdin))

    def stop(self, grace_seconds: float) -> None:
        self._processes.kill()
        with contextlib.suppress(KeyError):
            self._cluster.agents[self._node.name].pod_removed(self._namespace, self._name)
            self._node.remove_pod(self._namespace, self._name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._main.wait(5)

    def wait_exit(self, timeout: float | None = None) -> int | None:
        try:
            return exit_code(self._main.wait(timeout))
        except subprocess.TimeoutExpired:
            return None


class ContainerPod:
    """A pod that is trusted with its node, as debug pods and the agent's are.

    Each container is one on the node, with the mounts of its spec. The pod ends when its first one does.
    """

    def __init__(self, cluster: LabCluster, pod: Json) -> None:
        self._node = cluster.nodes[pod["spec"]["nodeName"]]
        self._processes = _Processes()
        self.containers: dict[str, Container] = {}
        try:
            for container in pod["spec"]["containers"]:
                self.containers[container["name"]] = self._start(cluster, pod["spec"], container)
        except BaseException:
            self.stop(0)
            raise

    def _start(self, cluster: LabCluster, spec: Json, container: Json) -> Container:
        paths = {v["name"]: v["hostPath"]["path"] for v in spec.get("volumes") or () if "hostPath" in v}
        for volume in spec.get("volumes") or ():
            self._check_type(volume["name"], volume.get("hostPath") or {})
        mounts = [
            (paths[m["name"]], m["mountPath"], bool(m.get("readOnly")))
            for m in container.get("volumeMounts") or ()
            if m["name"] in paths
        ]
        rootfs, own = cluster.image_of(container["image"], self._node.name)
        argv = [*(container.get("command") or own), *(container.get("args") or [])] or ["sleep", "infinity"]
        return self._node.add_container(
            argv,
            host_network=bool(spec.get("hostNetwork")),
            host_pid=bool(spec.get("hostPID")),
            mounts=mounts,
            rootfs=rootfs,
            hostname=self._node.name.split(".")[0],
            masked=not _security(container).get("privileged"),
            host_ipc=bool(spec.get("hostIPC")),
            security=security.confinement(spec, container),
        )

    def _check_type(self, name: str, host_path: Json) -> None:
        """The kubelet's, in its words."""
        path = host_path.get("path")
        if host_path.get("type") == "Directory" and not Path(f"{self._node.root}{path}").is_dir():
            why = f"hostPath type check failed: {path} is not a directory"
            raise StartError(f'MountVolume.SetUp failed for volume "{name}" : {why}', "ContainerCreating")

    @property
    def pod_ip(self) -> str:
        return self._node.ip

    @property
    def _first(self) -> Container:
        return next(iter(self.containers.values()))

    def exec(self, argv: list[str], *, stdin: bool, tty: bool, container: str) -> NsPopen:
        return self._processes.add(_spawn(self._node, self.containers[container], argv, stdin))

    def logs(self, container: str) -> bytes:
        return self.containers.get(container, self._first).logs().encode()

    def stop(self, grace_seconds: float) -> None:
        self._processes.kill()
        for container in self.containers.values():
            container.close()

    def wait_exit(self, timeout: float | None = None) -> int | None:
        try:
            return exit_code(self._first.wait(timeout))
        except subprocess.TimeoutExpired:
            return None


def _security(container: Json) -> Json:
    return container.get("securityContext") or {}


def _is_trusted(spec: Json) -> bool:
    """Whether it gets something of its node: all of it, a path, or more capabilities than others."""
    contexts = [_security(container) for container in spec["containers"]]
    more = any(one.get("privileged") or (one.get("capabilities") or {}).get("add") for one in contexts)
    return more or any("hostPath" in volume for volume in spec.get("volumes") or ())


def _by_longest_name(wanted: Mapping[str, T], pod: str) -> T | None:
    """The value of the longest key that is the pod's name or begins it (up to a "-")."""
    fitting = [key for key in wanted if pod == key or pod.startswith(f"{key}-")]
    return wanted[max(fitting, key=len)] if fitting else None


def _spawn(node: Node, sandbox: PodSandbox | Container, argv: list[str], stdin: bool) -> NsPopen:
    """An exec session. A program that does not exist is the runtime's error, as containerd words it."""
    path = sandbox.env.get("PATH", os.defpath)
    root = str(sandbox.root)
    places = [argv[0]] if argv[0].startswith("/") else [f"{p}/{argv[0]}" for p in path.split(":")]
    if not any(_is_program(root, place) for place in places):
        raise ExecError(f'exec: "{argv[0]}": executable file not found in $PATH')
    pipe = subprocess.PIPE
    return node.popen(argv, sandbox, pipe if stdin else subprocess.DEVNULL, pipe, pipe, bufsize=0)


def _is_program(root: str, place: str) -> bool:
    """Follows links inside the sandbox's own root, where they point."""
    for _ in range(10):
        full = f"{root}{place}"
        if not os.path.islink(full):
            return os.path.isfile(full) or os.path.isfile(f"{root}{os.path.realpath(full).removeprefix(root)}")
        target = os.readlink(full)
        place = target if target.startswith("/") else f"{os.path.dirname(place)}/{target}"
    return False


class LabCluster:
    """API server, controller and any number of nodes with agents. Everything ends with ``close``.

    ``generation``: of the agents and their datapath. ``debug_image``: what the default debug image is here.
    ``agent_pods``: nodes get what EKS puts there for the agent, see ``add_agent_pod``; without, they have no CLI.
    ``family``: 4 or 6, of everything: nodes, pods, Services. ``mode``: of the agents.
    ``addresses``: pod name -> address, for pods whose address a test wants to know before. A name may be the
    beginning of one, as "nginx" of "nginx-f8d9c6576-8b4vf". In the same way ``veth_prefixes`` ("vlan" for a pod
    with security groups of its own) and ``links`` (addresses of further interfaces).
    """

    def __init__(
        self,
        *,
        generation: Generation | str = "1.4.1",
        family: Literal[4, 6] = 4,
        mode: Mode = "standard",
        network: str | None = None,
        debug_image: str = "python3.11",
        agent_pods: bool = False,
        addresses: Mapping[str, str] | None = None,
        veth_prefixes: Mapping[str, str] | None = None,
        links: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.generation, self.family, self.mode, self.debug_image = generation, family, mode, debug_image
        self.agent_pods = agent_pods
        self.veth_prefixes, self.links = dict(veth_prefixes or {}), dict(links or {})
        self.nodes: dict[str, Node] = {}
        self.agents: dict[str, Agent] = {}
        self.controller_enabled = True
        """False: a controller that is off resolves nothing; what it made before stays."""
        self._wanted = dict(addresses or {})
        self._given: dict[tuple[str, str], str] = {}
        free = "172.31.{}.{}" if family == 4 else "2001:db8:1f:9600:{}::{}"
        self._free = (free.format(98 + n // 200, 10 + n % 200) for n in range(1000))
        self._lock = threading.RLock()
        self.fabric = Fabric(network or NETWORKS[family])
        self._directory = tempfile.TemporaryDirectory(prefix="netpol-lab-")
        self.directory = Path(self._directory.name)
        self.server = ApiServer(self, family=family)
        self.server.on_change(self._changed)
        self.server.start()
        self.kubeconfig = self.server.write_kubeconfig(self.directory / "kubeconfig")

    # the runtime of the API server's pods ---------------------------------------------------------------------

    def start_pod(self, pod: Json) -> SandboxPod | ContainerPod:
        try:
            with self._lock:
                return ContainerPod(self, pod) if _is_trusted(pod["spec"]) else SandboxPod(self, pod)
        except OSError as error:
            raise StartError(str(error)) from error

    def image_of(self, reference: str, node: str) -> tuple[Image | str, list[str]]:
        """What a container on a node is made of, and the command of the image itself."""
        found = agent_pod.image(reference, self.agents[node].generation)
        return found or (next((i for word, i in DEBUG_IMAGES.items() if word in reference), self.debug_image), [])

    def address_for(self, namespace: str, name: str) -> str:
        """The wanted address of a pod (by the longest name that begins its name), or a free one."""
        key = (namespace, name)
        if key not in self._given:
            wanted = _by_longest_name(self._wanted, name)
            # One pod only: a second one of the same beginning gets a free address.
            self._wanted = {n: a for n, a in self._wanted.items() if a != wanted}
            self._given[key] = wanted or next(self._free)
        return self._given[key]

    def service_names(self) -> dict[str, str]:
        """Service names for /etc/hosts, in the place of DNS."""
        return {
            s["metadata"]["name"]: s["spec"]["clusterIP"]
            for s in self.server.list("Service")
            if s["spec"].get("clusterIP") not in (None, "", "None")
        }

    # nodes ---------------------------------------------------------------------------------------------------

    def add_node(self, name: str, ip: str, **more: Any) -> Node:
        """A node of the cluster; ``more`` goes to the Node object (labels, compute_type ...)."""
        node = Node(name, ip, self.fabric)
        self.nodes[name] = node
        www = Path(f"{node.root}{WEB_ROOT}")
        www.mkdir(parents=True)
        (www / "index.html").write_text("welcome\n")
        self.agents[name] = Agent(node, self.generation, self.mode)
        self.server.add_node(make_node(name, ip, **more))
        if self.agent_pods:
            self._install_agent(name)
        return node

    def _install_agent(self, node: str) -> None:
        """The CLI at the place that the kind of node has it at, and the pod of aws-node where there is one."""
        if agent_pod.has_daemonset(self.server.get("Node", node)):
            self.add_agent_pod(node)
        else:
            self._install_cli(node, agent_pod.AUTO_MODE_CLI)

    def add_agent_pod(self, node: str) -> str:
        """The running pod of aws-node on a node, and the CLI that it puts into /opt/cni/bin. Returns its name."""
        if not agent_pod.has_daemonset(self.server.get("Node", node)):
            raise LabError(f"no DaemonSet aws-node runs on {node}")
        self._install_cli(node, na_cli.PATH)
        made = self.server.create(agent_pod.manifest(node, self.agents[node].generation))["metadata"]
        self.server.wait_running(made["name"], made["namespace"])
        return str(made["name"])

    def _install_cli(self, node: str, path: str) -> None:
        na_cli.install(self.nodes[node], self.agents[node].generation.npa_gen, self.family == 6, path)

    def agent_of(self, namespace: str, name: str) -> Agent:
        return self.agents[self.server.get("Pod", name, namespace)["spec"]["nodeName"]]

    def sandbox(self, namespace: str, name: str) -> PodSandbox:
        """The namespaces of a running pod."""
        for node in self.nodes.values():
            if (namespace, name) in node.pods:
                return node.pods[namespace, name]
        raise KeyError(f"{namespace}/{name}")

    # controller and agents -----------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if change.resource.kind in RECONCILED:
            self.reconcile()

    def reconcile(self) -> None:
        """Resolve all policies, store the PolicyEndpoints, program every node."""
        with self._lock:
            if self.controller_enabled:
                kinds = ("NetworkPolicy", "Pod", "Namespace", "Service")
                self._store_endpoints(controller.resolve(*(self.server.list(kind) for kind in kinds)))
            self._set_services()
            self.sync_agents()

    def sync_agents(self) -> None:
        """Let every agent program what the API server holds now."""
        with self._lock:
            endpoints = self.server.list("PolicyEndpoint")
            cluster_endpoints = self.server.list("ClusterPolicyEndpoint")
            for agent in self.agents.values():
                agent.sync(endpoints, cluster_endpoints)

    def _store_endpoints(self, wanted: Iterable[Json]) -> None:
        by_key = {(e["metadata"]["namespace"], e["metadata"]["name"]): e for e in wanted}
        for old in self.server.list("PolicyEndpoint"):
            key = (old["metadata"]["namespace"], old["metadata"]["name"])
            if key not in by_key:
                self.server.delete("PolicyEndpoint", key[1], key[0])
            elif old["spec"] == by_key[key]["spec"]:
                del by_key[key]
        for endpoint in by_key.values():
            self.server.put(endpoint)

    def _set_services(self) -> None:
        pods = [p for p in self.server.list("Pod") if p["status"].get("podIP")]
        services: dict[str, dict[tuple[str, int], list[tuple[str, int]]]] = {}
        for service in self.server.list("Service"):
            spec = service["spec"]
            if spec.get("clusterIP") in (None, "", "None") or not spec.get("selector"):
                continue
            behind = [
                pod["status"]["podIP"]
                for pod in pods
                if pod["metadata"]["namespace"] == service["metadata"]["namespace"]
                and spec["selector"].items() <= (pod["metadata"].get("labels") or {}).items()
            ]
            services[spec["clusterIP"]] = {
                (p.get("protocol", "TCP").lower(), p["port"]): [(ip, _target(p)) for ip in behind]
                for p in spec["ports"]
                if behind
            }
        for node in self.nodes.values():
            node.set_services(services)
            for pod in node.pods.values():
                pod.set_hosts(self.service_names())

    def settle(self) -> None:
        """Wait until everything that was changed is in the kernel."""
        self.server.settle()
        if self.server.errors:
            raise self.server.errors[0]

    # clients -------------------------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        """For kubectl and the plugin: only this cluster, no user's settings."""
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME", "PYTHONPATH", "TMPDIR")}
        return {**keep, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory), **more}

    def kubectl(
        self, *arguments: str, check: bool = True, input: str | None = None, timeout: float = 60, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the real kubectl against this cluster."""
        kubectl = shutil.which("kubectl")
        assert kubectl, "kubectl is not installed"
        done = subprocess.run(
            [kubectl, *arguments],
            env=self.environment(**env),
            input=input,
            text=True,
            capture_output=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    # end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self.server.close()
        for node in list(self.nodes.values()):
            node.close()
        self.fabric.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _target(port: Json) -> int:
    target = port.get("targetPort", port["port"])
    return int(target) if isinstance(target, int) else int(port["port"])
