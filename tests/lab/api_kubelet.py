"""The kubelets of all nodes: one thread a pod leads it from ContainerCreating to its end."""

from __future__ import annotations

import contextlib
import copy
import secrets
import threading
import time
from typing import Any

from .api_faults import Faults
from .api_runtime import ImagePullError, PodHandle, Runtime, StartError
from .api_store import Change, Store, now
from .api_types import Registry

Json = dict[str, Any]

TICK = 0.03
DEADLINE = "Pod was active on the node longer than the specified deadline"
EVICTED = (
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Mi. Container {container} was "
    "using 1Mi, request is 0, has larger consumption of memory. "
)


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Json:
    body = {"type": kind, "status": status, "lastTransitionTime": now()}
    if reason:
        body |= {"reason": reason}
    return body | ({"message": message} if message else {})


def pod_condition(kind: str, status: str, reason: str = "", message: str = "") -> Json:
    return {"lastProbeTime": None} | condition(kind, status, reason, message)


def set_condition(status: Json, new: Json) -> None:
    """Replace the condition of that type; the transition time stays when its status does."""
    conditions = status.setdefault("conditions", [])
    for index, old in enumerate(conditions):
        if old["type"] == new["type"]:
            if old["status"] == new["status"]:
                new["lastTransitionTime"] = old["lastTransitionTime"]
            conditions[index] = new
            return
    conditions.append(new)


def node_is_ready(node: Json) -> bool:
    conditions = node.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def node_address(node: Json) -> str:
    addresses = node.get("status", {}).get("addresses") or []
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")


class EventRecorder:
    """Writes core/v1 Events; the same event again only counts up."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store, self._registry = store, registry
        self._seen: dict[tuple[str, str, str], str] = {}

    def record(self, obj: Json, kind: str, reason: str, message: str, component: str, host: str = "") -> None:
        meta, resource = obj["metadata"], self._registry.of("Event")
        namespace = meta.get("namespace") or "default"
        key = (meta["uid"], reason, message)
        if key in self._seen:
            self._store.change(resource, namespace, self._seen[key], _again)
            return
        involved = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion") if k in meta}
        name = f"{meta['name']}.{secrets.token_hex(8)}"
        self._seen[key] = name
        self._store.create(
            resource,
            {
                "kind": "Event",
                "apiVersion": "v1",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {"kind": obj["kind"], "apiVersion": obj["apiVersion"]} | involved,
                "reason": reason,
                "message": message,
                "source": {"component": component} | ({"host": host} if host else {}),
                "firstTimestamp": now(),
                "lastTimestamp": now(),
                "count": 1,
                "type": kind,
                "eventTime": None,
                "reportingComponent": component,
                "reportingInstance": host,
            },
        )


def _again(event: Json) -> None:
    event["count"] += 1
    event["lastTimestamp"] = now()


class _PodWorker:
    """The life of one pod on its node."""

    def __init__(self, kubelet: Kubelet, pod: Json) -> None:
        self.kubelet = kubelet
        self.uid: str = pod["metadata"]["uid"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.name: str = pod["metadata"]["name"]
        self.node: str = pod["spec"]["nodeName"]
        self.handle: PodHandle | None = None
        self.removed = threading.Event()  # the object is gone, or the server closes
        self.evicted: str | None = None
        self.running_since: float | None = None
        self.deadline: float | None = None
        self.restarts = 0
        self.thread = threading.Thread(target=self._run, name=f"pod-{self.name}", daemon=True)

    # -- helpers ---------------------------------------------------------------------------------------------

    def pod(self) -> Json | None:
        found = self.kubelet.store.find(self.kubelet.pods, self.namespace, self.name)
        return found if found is not None and found["metadata"]["uid"] == self.uid else None

    def status(self, edit: Any) -> None:
        def apply(pod: Json) -> None:
            if pod["metadata"]["uid"] == self.uid:
                edit(pod, pod.setdefault("status", {}))

        self.kubelet.store.change(self.kubelet.pods, self.namespace, self.name, apply)

    def event(self, kind: str, reason: str, message: str) -> None:
        pod = self.pod()
        if pod is not None:
            self.kubelet.events.record(pod, kind, reason, message, "kubelet", self.node)

    def _node(self) -> Json | None:
        node = self.kubelet.store.find(self.kubelet.nodes, None, self.node)
        labels = (node or {}).get("metadata", {}).get("labels") or {}
        fargate = labels.get("eks.amazonaws.com/compute-type") == "fargate"
        return node if node and node_is_ready(node) and not fargate else None

    def _can_confirm(self) -> bool:
        """A kubelet that is away confirms no deletion; of a node that is gone nobody waits for one."""
        node = self.kubelet.store.find(self.kubelet.nodes, None, self.node)
        return node is None or node_is_ready(node)

    def _must_end(self) -> str | None:
        """Why the pod may not go on: removed, deleted, evicted, deadline; None if it may."""
        if self.removed.is_set():
            return "removed"
        pod = self.pod()
        if pod is None:
            return "removed"
        if pod["metadata"].get("deletionTimestamp") and self._can_confirm():
            return "deleted"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "deadline"
        return "evicted" if self.evicted is not None else None

    def _wait(self, until: float | None = None) -> str | None:
        """Wait for an end, or until a moment in time."""
        while (why := self._must_end()) is None and (until is None or time.monotonic() < until):
            self.removed.wait(TICK)
        return why

    # -- the life --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            why = self._live()
            if why:
                self._end(why)
        finally:
            if self.handle is not None:
                self.handle.stop(0)
            self.kubelet.forget(self)

    def _live(self) -> str | None:
        while self._node() is None:
            self.removed.wait(TICK)
            if (why := self._must_end()) is not None:
                return why
        pod = self.pod()
        if pod is None:
            return "removed"
        rejected = self.kubelet.faults.take_pod(("reject",), pod)
        if rejected:
            self._fail(rejected.reason, rejected.message)
            return self._after_end()
        fault = self.kubelet.faults.take_pod(("stuck",), pod)
        if fault and not fault.reason:
            return self._wait()
        self._acknowledge(pod)
        if fault:
            return self._wait()
        why = self._start()
        while why is None:
            why = self._watch_main()
        return why

    def _acknowledge(self, pod: Json) -> None:
        seconds = pod["spec"].get("activeDeadlineSeconds")
        if seconds is not None:
            self.deadline = time.monotonic() + seconds * self.kubelet.deadline_scale
        node = self._node() or {}
        ip = node_address(node)

        def edit(pod: Json, status: Json) -> None:
            unready = f"containers with unready status: [{' '.join(c['name'] for c in pod['spec']['containers'])}]"
            status |= {"phase": "Pending", "hostIP": ip, "hostIPs": [{"ip": ip}], "startTime": now()}
            set_condition(status, pod_condition("PodReadyToStartContainers", "False"))
            set_condition(status, pod_condition("Initialized", "True"))
            for name in ("Ready", "ContainersReady"):
                set_condition(status, pod_condition(name, "False", "ContainersNotReady", unready))
            set_condition(status, pod_condition("PodScheduled", "True"))
            status["containerStatuses"] = [
                self._container(c, {"waiting": {"reason": "ContainerCreating"}}) for c in pod["spec"]["containers"]
            ]

        self.status(edit)

    def _container(self, container: Json, state: Json, ready: bool = False) -> Json:
        running = "running" in state
        identity = f"containerd://{secrets.token_hex(32)}" if running or "terminated" in state else ""
        body = {
            "name": container["name"],
            "state": state,
            "lastState": {},
            "ready": ready,
            "restartCount": self.restarts,
            "image": container["image"],
            "imageID": f"docker.io/library/{container['image']}@sha256:{'0' * 64}" if identity else "",
            "started": running,
        }
        return body | ({"containerID": identity} if identity else {})

    def _states(self, state: Json, ready: bool = False) -> None:
        def edit(pod: Json, status: Json) -> None:
            status["containerStatuses"] = [
                self._container(c, copy.deepcopy(state), ready) for c in pod["spec"]["containers"]
            ]

        self.status(edit)

    def _start(self) -> str | None:
        """Start until it works; says why the pod must end if that comes first."""
        while True:
            pod = self.pod()
            if pod is None:
                return "removed"
            image = pod["spec"]["containers"][0]["image"]
            try:
                self._raise_faults(pod)
                self.event("Normal", "Pulling", f'Pulling image "{image}"')
                self.handle = self.kubelet.runtime.start_pod(copy.deepcopy(pod))
            except ImagePullError as error:
                why = self._pull_failed(image, str(error))
            except StartError as error:
                self.event("Warning", "Failed", f"Error: {error}")
                self._states({"waiting": {"reason": error.reason, "message": str(error)}})
                why = self._wait(time.monotonic() + self.kubelet.retry_seconds)
            else:
                self._started()
                return None
            if why:
                return why

    def _raise_faults(self, pod: Json) -> None:
        fault = self.kubelet.faults.take_pod(("image", "start"), pod)
        if fault and fault.kind == "image":
            image = pod["spec"]["containers"][0]["image"]
            raise ImagePullError(fault.message or f'failed to resolve reference "{image}": not found')
        if fault:
            raise StartError(fault.message, fault.reason)

    def _pull_failed(self, image: str, message: str) -> str | None:
        self.event("Warning", "Failed", f'Failed to pull image "{image}": {message}')
        self.event("Warning", "Failed", "Error: ErrImagePull")
        self._states({"waiting": {"reason": "ErrImagePull", "message": message}})
        why = self._wait(time.monotonic() + self.kubelet.retry_seconds / 2)
        if why:
            return why
        text = f'Back-off pulling image "{image}": ErrImagePull: {message}'
        self.event("Normal", "BackOff", f'Back-off pulling image "{image}"')
        self._states({"waiting": {"reason": "ImagePullBackOff", "message": text}})
        return self._wait(time.monotonic() + self.kubelet.retry_seconds)

    def _started(self) -> None:
        assert self.handle is not None
        ip = self.handle.pod_ip
        self.running_since = time.monotonic()

        def edit(pod: Json, status: Json) -> None:
            status |= {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
            for name in ("PodReadyToStartContainers", "Ready", "ContainersReady"):
                set_condition(status, pod_condition(name, "True"))
            status["containerStatuses"] = [
                self._container(c, {"running": {"startedAt": now()}}, True) for c in pod["spec"]["containers"]
            ]

        if self.pod() is not None:
            self.kubelet.handles[self.uid] = self.handle
            self.status(edit)
            self.event("Normal", "Started", "Started container")

    def _watch_main(self) -> str | None:
        """Until the main process ends or must; None when it was started again."""
        assert self.handle is not None
        pod = self.pod() or {"metadata": {"name": "", "namespace": ""}, "spec": {}}
        fault = self.kubelet.faults.take_pod(("evict",), pod) if pod["spec"] else None
        while True:
            why = self._must_end()
            if why:
                return why
            if fault and time.monotonic() - (self.running_since or 0) >= fault.seconds:
                self.evicted = fault.message or EVICTED.format(container=pod["spec"]["containers"][0]["name"])
                fault = None
                continue
            code = self.handle.wait_exit(TICK)
            if code is not None:
                return self._exited(pod, code)

    def _exited(self, pod: Json, code: int) -> str | None:
        policy = pod["spec"].get("restartPolicy", "Always")
        assert self.handle is not None
        self.handle.wait_exit()
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            self._finished(code)
            return self._after_end()
        self.restarts += 1
        message = f"back-off restarting failed container={pod['spec']['containers'][0]['name']}"
        self._states({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
        self.kubelet.handles.pop(self.uid, None)
        self.handle.stop(0)
        self.handle = None
        return self._wait(time.monotonic() + self.kubelet.retry_seconds) or self._start()

    def _terminated(self, code: int, reason: str = "") -> Json:
        reason = reason or ("Completed" if code == 0 else "Error")
        return {"terminated": {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}}

    def _finished(self, code: int) -> None:
        phase = "Succeeded" if code == 0 else "Failed"
        why = "PodCompleted" if code == 0 else "PodFailed"

        def edit(pod: Json, status: Json) -> None:
            status["phase"] = phase
            for name in ("Ready", "ContainersReady"):
                set_condition(status, pod_condition(name, "False", why))
            status["containerStatuses"] = [
                self._container(c, self._terminated(code)) for c in pod["spec"]["containers"]
            ]

        self.kubelet.handles.pop(self.uid, None)
        self.status(edit)

    def _after_end(self) -> str | None:
        """A finished pod stays until somebody deletes it; its log can still be read."""
        self.kubelet.finished[self.uid] = self.logs("")
        self.deadline = None
        return self._wait()

    def logs(self, container: str) -> bytes:
        read = getattr(self.handle, "logs", None)
        return read(container) if read else b""

    # -- the end ---------------------------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        while why in ("deadline", "evicted"):
            self._fail(*(("DeadlineExceeded", DEADLINE) if why == "deadline" else ("Evicted", self.evicted or "")))
            self.deadline, self.evicted = None, None
            why = self._wait() or "removed"
        pod = self.pod()
        grace = 0.0
        if why == "deleted" and pod is not None:
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            if self.handle is not None:
                self.event("Normal", "Killing", "Stopping container")
        self.kubelet.handles.pop(self.uid, None)
        if self.handle is not None:
            self.handle.stop(grace)
        if why == "deleted":
            self._confirm_deletion()

    def _confirm_deletion(self) -> None:
        """Processes have stopped: the object may go, unless somebody's finalizer still holds it."""

        def edit(pod: Json, status: Json) -> None:
            pod["metadata"]["deletionGracePeriodSeconds"] = 0

        self.status(edit)

    def _fail(self, reason: str, message: str) -> None:
        self.kubelet.handles.pop(self.uid, None)
        was_running = self.handle is not None
        if self.handle is not None:
            self.handle.stop(0)
            self.handle = None

        def edit(pod: Json, status: Json) -> None:
            status |= {"phase": "Failed", "reason": reason, "message": message}
            for name in ("Ready", "ContainersReady"):
                set_condition(status, pod_condition(name, "False", "PodFailed"))
            if was_running:
                state = self._terminated(137, "Error")
                status["containerStatuses"] = [self._container(c, state) for c in pod["spec"]["containers"]]

        self.status(edit)
        self.event("Normal" if reason == "DeadlineExceeded" else "Warning", reason, message)


class Kubelet:
    """All nodes' kubelets. `handles` maps the uid of every pod that can be exec'ed into to its handle."""

    def __init__(self, store: Store, registry: Registry, runtime: Runtime, faults: Faults) -> None:
        self.store, self.runtime, self.faults = store, runtime, faults
        self.pods, self.nodes = registry.of("Pod"), registry.of("Node")
        self.events = EventRecorder(store, registry)
        self.handles: dict[str, PodHandle] = {}
        self.finished: dict[str, bytes] = {}
        self.retry_seconds = 0.6
        self.deadline_scale = 1.0  # seconds that one of activeDeadlineSeconds takes
        self._workers: dict[str, _PodWorker] = {}
        self._unmanaged: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def leave_alone(self, uid: str) -> None:
        """A pod that a test put there complete, with its status: no thread for it."""
        self._unmanaged.add(uid)

    def adopt(self, pod: Json, handle: PodHandle) -> None:
        """Make a pod that something else runs reachable by exec."""
        self.handles[pod["metadata"]["uid"]] = handle

    def handle(self, pod: Json) -> PodHandle | None:
        return self.handles.get(pod["metadata"]["uid"])

    def logs(self, pod: Json, container: str) -> bytes:
        uid = pod["metadata"]["uid"]
        read = getattr(self.handles.get(uid), "logs", None)
        return read(container) if read else self.finished.get(uid, b"")

    def evict(self, namespace: str, name: str, message: str | None = None) -> None:
        """Evict a running pod now."""
        pod = self.store.get(self.pods, namespace, name)
        worker = self._workers.get(pod["metadata"]["uid"])
        if worker:
            worker.evicted = message or EVICTED.format(container=pod["spec"]["containers"][0]["name"])

    def changed(self, change: Change) -> None:
        pod = change.object
        if change.resource != self.pods:
            return
        uid = pod["metadata"]["uid"]
        if change.type == "DELETED":
            with self._lock:
                worker = self._workers.get(uid)
            if worker:
                worker.removed.set()
            elif uid in self._unmanaged:
                self.handles.pop(uid, None)
            self.finished.pop(uid, None)
        elif uid in self._unmanaged:
            if pod["metadata"].get("deletionTimestamp"):
                self._delete_unmanaged(pod)
        elif pod["spec"].get("nodeName"):
            self._manage(pod)

    def _delete_unmanaged(self, pod: Json) -> None:
        """A pod without processes of ours stops at once."""

        def edit(new: Json) -> None:
            new["metadata"]["deletionGracePeriodSeconds"] = 0

        if pod["metadata"].get("deletionGracePeriodSeconds") != 0:
            self.store.change(self.pods, pod["metadata"]["namespace"], pod["metadata"]["name"], edit)

    def _manage(self, pod: Json) -> None:
        with self._lock:
            uid = pod["metadata"]["uid"]
            if self._closed or uid in self._workers or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return
            self._workers[uid] = worker = _PodWorker(self, pod)
            worker.thread.start()

    def forget(self, worker: _PodWorker) -> None:
        with self._lock:
            self._workers.pop(worker.uid, None)
            self.handles.pop(worker.uid, None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.removed.set()
        for worker in workers:
            with contextlib.suppress(RuntimeError):
                worker.thread.join(10)
