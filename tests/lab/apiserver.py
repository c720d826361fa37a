"""The lab's Kubernetes API server: real JSON over TLS for the Python client and for kubectl.

    with ApiServer() as server:
        server.add_node(make_node("node-1", "192.168.0.10"))
        server.write_kubeconfig(path)

Everything that a client can see goes through one store; a stand-in for the kubelets runs pods with a `Runtime`,
stand-ins for the controllers and the scheduler run in the thread of the change that they react to.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import queue
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from . import api_defaults
from .api_auth import ALL, Rule, User, Users
from .api_controllers import Controllers
from .api_faults import Fault, Faults, PodFault
from .api_http import LabHttpServer, Request
from .api_kubelet import Kubelet, condition, pod_condition, set_condition
from .api_rbac import bound_rules
from .api_runtime import ExecError, ImagePullError, LocalRuntime, PodHandle, Runtime, StartError
from .api_selectors import label_selector
from .api_service import Options, Service
from .api_store import Change, Store, key_of, new_uid
from .api_tls import make_certificate
from .api_types import AWS, Registry

__all__ = [
    "ApiServer",
    "Change",
    "ExecError",
    "Fault",
    "ImagePullError",
    "LocalRuntime",
    "PodFault",
    "PodHandle",
    "Request",
    "Rule",
    "Runtime",
    "StartError",
    "User",
    "make_node",
]

Json = dict[str, Any]

AWS_PLURALS = tuple(resource.plural for resource in AWS)
VERSION = "v1.32.9-eks-113cf36"


def make_node(
    name: str,
    ip: str,
    *,
    ready: bool = True,
    labels: dict[str, str] | None = None,
    compute_type: str = "ec2",
    os: str = "linux",
    arch: str = "amd64",
    os_image: str = "Amazon Linux 2023.8.20250818",
    kernel: str = "6.1.147-172.266.amzn2023.x86_64",
    taints: Sequence[Json] = (),
    unschedulable: bool = False,
    zone: str = "ap-northeast-1a",
) -> Json:
    """A Node as EKS registers it. compute_type: ec2, fargate, auto (EKS Auto Mode), hybrid."""
    base = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": os,
        "kubernetes.io/arch": arch,
        "topology.kubernetes.io/zone": zone,
        "topology.kubernetes.io/region": zone[:-1],
    }
    taints = list(taints)
    if compute_type != "ec2":
        base["eks.amazonaws.com/compute-type"] = compute_type
    if compute_type == "fargate":
        taints.append({"key": "eks.amazonaws.com/compute-type", "value": "fargate", "effect": "NoSchedule"})
    spec: Json = {"providerID": f"aws:///{zone}/i-{hashlib.sha256(name.encode()).hexdigest()[:17]}"}
    if taints:
        spec["taints"] = taints
    if unschedulable:
        spec["unschedulable"] = True
    sizes = {"cpu": "2", "memory": "8023312Ki", "pods": "29", "ephemeral-storage": "83873772Ki"}
    status: Json = {
        "addresses": [
            {"type": "InternalIP", "address": ip},
            {"type": "InternalDNS", "address": name},
            {"type": "Hostname", "address": name},
        ],
        "capacity": sizes,
        "allocatable": sizes,
        "conditions": [],
        "nodeInfo": {
            "architecture": arch,
            "bootID": "lab",
            "containerRuntimeVersion": "containerd://1.7.27",
            "kernelVersion": kernel,
            "kubeProxyVersion": "",
            "kubeletVersion": VERSION,
            "machineID": "lab",
            "operatingSystem": os,
            "osImage": "Windows Server 2022 Datacenter" if os == "windows" else os_image,
            "systemUUID": "lab",
        },
    }
    _set_ready(status, ready)
    metadata = {"name": name, "labels": base | (labels or {}), "annotations": {}}
    return {"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}


def _replace_condition(value: Json, pod: Json) -> None:
    set_condition(pod["status"], dict(value))


def _set_ready(status: Json, ready: bool) -> None:
    if ready:
        set_condition(status, condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"))
    else:
        message = "Kubelet stopped posting node status."
        set_condition(status, condition("Ready", "Unknown", "NodeStatusUnknown", message))


class ApiServer:
    """`runtime` runs the pods; `custom` names the plurals of networking.k8s.aws that are installed.

    Public parts: `store` (objects), `service` (writes with all checks), `registry`, `users`, `faults`, `requests`
    (the log), `kubelet`, `controllers` (`name_hook`, `scheduler`), `errors` (bugs of the stand-in itself).
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        custom: Iterable[str] = AWS_PLURALS,
        tls: bool = True,
        version: str = VERSION,
        controllers: bool = True,
        family: int = 4,
    ) -> None:
        """`family`: of the cluster's Services."""
        self.git_version = version
        self.aggregated_discovery = True
        self.authorize_websocket_create = False  # Kubernetes >= 1.35 asks for `create` on GET .../exec as well
        self.bookmark_seconds = 60.0
        self.most_in_page = 0  # a server may give fewer than `limit`; 0: as many as were asked for
        self.closing = threading.Event()
        self.errors: list[Exception] = []
        self.requests: list[Request] = []
        self.faults = Faults()
        self.registry = Registry(custom)
        self.store = Store()
        bound = partial(bound_rules, self.store, self.registry)
        self.users = Users([User("admin", ALL, ("system:masters", "system:authenticated"))], bound)
        self.service = Service(self.store, self.registry)
        self.runtime: Runtime = runtime if runtime is not None else LocalRuntime()
        self.kubelet = Kubelet(self.store, self.registry, self.runtime, self.faults)
        self.controllers = Controllers(
            self.store, self.registry, self.faults, self.kubelet.events, self._create, family
        )
        self.controllers_enabled = controllers
        self.service.controllers = self.controllers
        self._certificate, key = make_certificate() if tls else ("", "")
        self._http = LabHttpServer(self, _context(self._certificate, key) if tls else None)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self._callbacks: list[Callable[[Change], None]] = []
        self._sync_callbacks: list[Callable[[Change], None]] = []
        self._changes: queue.Queue[Change | None] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self.store.on_change(self._changed)
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
            api_defaults.apply(namespace)
            self.put(namespace)  # not create(): that would load all the models before anybody needs them
        self._install_definitions()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> ApiServer:
        serve = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="apiserver", daemon=True)
        work = threading.Thread(target=self._deliver, name="apiserver-changes", daemon=True)
        self._threads = [serve, work]
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Stop serving and end all pods; nothing is left running."""
        if self.closing.is_set():
            return
        self.closing.set()
        self.store.wake()
        if self._threads:
            self._http.shutdown()
        self._http.close_connections()
        self._http.server_close()
        self.kubelet.close()
        self._changes.put(None)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> ApiServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- changes ---------------------------------------------------------------------------------------------

    def on_change(self, callback: Callable[[Change], None], *, sync: bool = False) -> None:
        """Call with every change (type, resource, object, previous): in order in a worker thread, or at once in the
        thread that made the change. A synchronous callback must not wait for a request to this server."""
        (self._sync_callbacks if sync else self._callbacks).append(callback)

    def settle(self, timeout: float = 10) -> None:
        """Wait until all callbacks have seen all changes made so far, and those that these made."""
        deadline = time.monotonic() + timeout
        while self._changes.unfinished_tasks:
            if time.monotonic() > deadline:
                raise TimeoutError("callbacks are still busy")
            time.sleep(0.002)

    def _changed(self, change: Change) -> None:
        if self.controllers_enabled:
            self.controllers.changed(change)
        self.kubelet.changed(change)
        if change.type == "DELETED" and change.resource.namespaced:
            self.service.finish_namespace(change.object["metadata"]["namespace"])
        for callback in self._sync_callbacks:
            callback(change)
        if self._callbacks and self._threads:
            self._changes.put(change)

    def _deliver(self) -> None:
        while True:
            change = self._changes.get()
            try:
                if change is None:
                    return
                for callback in self._callbacks:
                    callback(change)
            except Exception as error:
                self.errors.append(error)
            finally:
                self._changes.task_done()

    # -- objects, for tests ----------------------------------------------------------------------------------

    def _create(self, obj: Json) -> Json:
        return self.create(obj)

    def create(self, obj: Json, namespace: str | None = None) -> Json:
        """Create with defaults, validation and admission, as if a user had; namespace: the object's, or
        default.
        """
        resource = self.registry.of_object(obj)
        where = namespace or obj["metadata"].get("namespace") or "default"
        return self.service.create(resource, where if resource.namespaced else "", obj, Options())

    def put(self, obj: Json) -> Json:
        """Put an object exactly as it is, status included, unchecked; create or replace. Pods put here are not run:
        give them their status, and `kubelet.adopt(pod, handle)` if they shall be exec'ed into."""
        resource = self.registry.of_object(obj)
        obj = obj | {"metadata": dict(obj["metadata"])}
        if resource.namespaced:
            obj["metadata"].setdefault("namespace", "default")
        with self.store.transaction():
            old = self.store.find(resource, *key_of(obj))
            if old is not None:
                obj["metadata"].pop("resourceVersion", None)
                return self.store.update(resource, obj)
            if resource.kind == "Pod":
                self.kubelet.leave_alone(obj["metadata"].setdefault("uid", new_uid()))
            return self.store.create(resource, obj)

    def get(self, kind: str, name: str, namespace: str = "default") -> Json:
        """By kind, plural or short name; raises ApiError 404."""
        return self.store.get(self.registry.of(kind), namespace, name)

    def find(self, kind: str, name: str, namespace: str = "default") -> Json | None:
        return self.store.find(self.registry.of(kind), namespace, name)

    def list(self, kind: str, namespace: str | None = None, labels: str = "") -> list[Json]:
        return self.store.list(self.registry.of(kind), namespace, label_selector(labels))

    def change(self, kind: str, name: str, edit: Callable[[Json], object], namespace: str = "default") -> Json | None:
        """Edit an object in place (status too), unchecked."""
        return self.store.change(self.registry.of(kind), namespace, name, edit)

    def delete(self, kind: str, name: str, namespace: str = "default", grace_seconds: int | None = None) -> None:
        body = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        resource = self.registry.of(kind)
        self.service.delete(resource, namespace if resource.namespaced else "", name, body)

    def wait(
        self,
        kind: str,
        name: str,
        test: Callable[[Json], object],
        namespace: str = "default",
        timeout: float = 10,
    ) -> Json:
        """Wait until an object is there and the test holds for it."""
        deadline = time.monotonic() + timeout
        while True:
            with self.store.changed:
                found = self.find(kind, name, namespace)
                if found is not None and test(found):
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{kind} {namespace}/{name}: {found and found.get('status')}")
                self.store.changed.wait(left)

    def wait_running(self, name: str, namespace: str = "default", timeout: float = 10) -> Json:
        return self.wait("Pod", name, lambda p: p["status"].get("phase") == "Running", namespace, timeout)

    def wait_gone(self, kind: str, name: str, namespace: str = "default", timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        with self.store.changed:
            while self.find(kind, name, namespace) is not None:
                if not self.store.changed.wait(max(0, deadline - time.monotonic())):
                    raise TimeoutError(f"{kind} {namespace}/{name} is still there")

    # -- nodes, users, custom resources ----------------------------------------------------------------------

    def add_node(self, node: Json) -> Json:
        return self.put(node)

    def set_node_ready(self, name: str, ready: bool) -> None:
        """A kubelet that goes away: its node NotReady, its pods not ready, exec impossible; or back again."""
        self.change("Node", name, lambda node: _set_ready(node["status"], ready))
        for pod in self.list("Pod"):
            if pod["spec"].get("nodeName") == name and pod["status"].get("phase") == "Running":
                meta = pod["metadata"]
                value = pod_condition("Ready", "True" if ready else "False", "" if ready else "NodeNotReady")
                self.change("Pod", meta["name"], partial(_replace_condition, value), meta["namespace"])

    def add_user(
        self, name: str, rules: Sequence[Rule] = (), groups: Sequence[str] = ("system:authenticated",)
    ) -> User:
        """A user with a token of its own; without rules it may do nothing but discovery, and what roles that are bound
        to it or its groups allow."""
        return self.users.add(User(name, rules, groups))

    def enable(self, plural: str, enabled: bool = True) -> None:
        """Install or remove one of the AWS custom resource definitions; objects stay, as in etcd."""
        resource = next(r for r in AWS if r.plural == plural)
        (self.registry.add if enabled else self.registry.remove)(resource)
        self._install_definitions()

    def _install_definitions(self) -> None:
        crd = self.registry.of("CustomResourceDefinition")
        for resource in AWS:
            name = f"{resource.plural}.{resource.group}"
            served = self.registry.find(resource.group, resource.version, resource.plural) is not None
            there = self.store.find(crd, None, name) is not None
            if there and not served:
                self.store.remove(crd, None, name)
            elif served and not there:
                self.store.create(crd, _definition(resource.kind, resource))

    # -- kubeconfig ------------------------------------------------------------------------------------------

    def kubeconfig(
        self, user: str = "admin", namespace: str | None = "default", extra_users: Iterable[str] = ()
    ) -> Json:
        """One context per user, named like the user; the first one is current. Unknown users get a bad token."""
        names = list(dict.fromkeys([user, *extra_users]))
        tokens = {known.name: known.token for known in self.users.all()}
        cluster: Json = {"server": self.url}
        if self._certificate:
            cluster["certificate-authority-data"] = base64.b64encode(self._certificate.encode()).decode()
        context = {"cluster": "lab"} | ({"namespace": namespace} if namespace else {})
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": tokens.get(name, "unknown")}} for name in names],
            "contexts": [{"name": name, "context": context | {"user": name}} for name in names],
            "current-context": user,
        }

    def write_kubeconfig(
        self,
        path: str | Path,
        user: str = "admin",
        namespace: str | None = "default",
        extra_users: Iterable[str] = (),
    ) -> Path:
        path = Path(path)
        path.write_text(yaml.safe_dump(self.kubeconfig(user, namespace, extra_users)))
        path.chmod(0o600)
        return path


def _definition(kind: str, resource: Any) -> Json:
    names = {
        "plural": resource.plural,
        "singular": resource.singular,
        "kind": kind,
        "listKind": f"{kind}List",
    }
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": resource.version, "served": True, "storage": True, "schema": schema}
    return {
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": names | ({"shortNames": list(resource.short)} if resource.short else {}),
            "versions": [version | {"subresources": {"status": {}}}],
        },
        "status": {
            "conditions": [condition("NamesAccepted", "True"), condition("Established", "True")],
            "acceptedNames": names,
            "storedVersions": [resource.version],
        },
    }


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module only reads files; the key is on disk for this moment alone.
    handle, name = tempfile.mkstemp(prefix="lab-apiserver-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(certificate + key)
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()
    return context
