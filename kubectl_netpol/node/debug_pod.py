"""One ephemeral debug pod per node: made, awaited, used, and deleted whatever happens.

The pod is the one that ``kubectl debug node/N --image=I --profile=sysadmin -- sleep S`` posts, but for the
entries of ``WANTED_DIFFERENCES``; with the profile `minimal` it may do less (``profiles``). It is made through
the API, since kubectl's output is for people and kubectl never deletes the pod.

Who removes it
    A pod is deleted when the block that uses it is left: with success, by any exception, Ctrl-C, SIGTERM or
    SIGHUP, also when the answer to the create request was lost (a label that is unique per run finds it).
    What no client can do (SIGKILL, a lost network), ``activeDeadlineSeconds`` does: the kubelet ends the pod,
    and the next run on that node deletes the ended object.

Who uses it
    With ``keep`` a pod stays until its deadline. Any later run with the same image and namespace, with or
    without ``keep``, works in it instead of starting another, as long as at least ``LEAST_TIME_LEFT`` seconds
    remain. A reused pod is never deleted: it belongs to whoever kept it, perhaps another person, and ends at
    its deadline. A pod of a run that is still going and was not kept is never shared: its run is about to
    delete it.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import platform
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kubectl_netpol.cluster.stream import ExecResult, exec_in_pod
from kubectl_netpol.errors import ApiError, ConnectionFailed, Interrupted, NodeError
from kubectl_netpol.node import profiles
from kubectl_netpol.node.profiles import BPFFS_MOUNT, BPFFS_VOLUME

if TYPE_CHECKING:
    from kubectl_netpol.cluster.api import Api

Json = dict[str, Any]
Progress = Callable[[str], None]

IMAGE = "public.ecr.aws/amazonlinux/amazonlinux:2023"
CONTAINER = "debugger"
MANAGED_BY = "app.kubernetes.io/managed-by"
TOOL = "kubectl-netpol-ebpf"
RUN, REUSE, KEPT = f"{TOOL}/run", f"{TOOL}/reuse-key", f"{TOOL}/kept"
STARTED_BY, STARTED_AT = f"{TOOL}/started-by", f"{TOOL}/started-at"

LEAST_TIME_LEFT = 60
"""Seconds a kept pod must still have before its deadline to be used again."""
DELETE_SECONDS = 15.0
"""How long leaving waits for the delete request, with signals held back."""
STOP_SECONDS = 60.0
"""How long an interrupted run waits until the pods of its other threads are deleted."""
LOOKS = 6
"""How often, a second apart, a pod is looked for whose create request was not answered."""
POLL_SECONDS = 0.5
WATCH_SECONDS = 30.0


@dataclass(frozen=True)
class DebugPodOptions:
    """How the pod is made. ``deadline_seconds`` is its whole life on the server, the image pull included;
    ``start_timeout`` is how long its container is waited for, ``exec_timeout`` how long a silent exec (s)."""

    image: str = IMAGE
    namespace: str = "kube-system"
    keep: bool = False
    deadline_seconds: int = 300
    start_timeout: float = 60.0
    exec_timeout: float = 120.0
    selinux_type: str = ""
    """SELinux process type; empty: what the runtime gives to a privileged container."""
    host_writable: bool = False
    """Mount the node's root writable, as kubectl does: needed only to install a package there."""
    profile: str = profiles.SYSADMIN
    with_log: bool = True
    """Whether a minimal pod has the agent's log directory: not on nodes that have none."""


@dataclass(frozen=True)
class Difference:
    """One field in which the pod differs from kubectl's. ``ours`` is None where it varies from run to run."""

    path: str
    ours: Any
    why: str


RESOURCES: Json = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"cpu": "1", "memory": "512Mi"},
}

WANTED_DIFFERENCES: tuple[Difference, ...] = (
    Difference("metadata.name", None, "kubectl makes up a name; here the server does, so that none is taken twice"),
    Difference("metadata.generateName", None, "tells what the pod is and where it runs"),
    Difference("metadata.labels", None, "finds the pod again: by tool, by run, by reuse key"),
    Difference("metadata.annotations", None, "tells an administrator who started it, and when"),
    Difference("spec.activeDeadlineSeconds", None, "the server ends the pod when no client is left to delete it"),
    Difference("spec.automountServiceAccountToken", False, "nothing in the pod talks to the API server"),
    Difference("spec.terminationGracePeriodSeconds", 1, "sleep has nothing to finish; 0 would force the deletion"),
    Difference("spec.enableServiceLinks", False, "no environment variables of all Services of the namespace"),
    Difference("spec.containers[0].resources", RESOURCES, "bounded on a busy node, and accepted under a quota"),
    Difference("spec.containers[0].volumeMounts[0].readOnly", True, "the reader only reads"),
    Difference(
        "spec.containers[0].volumeMounts[1]",
        BPFFS_MOUNT,
        "below /host the bpf filesystem shows only where the runtime binds / recursively",
    ),
    Difference("spec.volumes[1]", BPFFS_VOLUME, "the volume of that mount"),
)
"""All fields in which the pod differs from the one of kubectl; a test compares it with the real kubectl."""


def manifest(node: str, options: DebugPodOptions, owner: str, now_text: str, run: str = "") -> Json:
    """The pod as it is posted. ``owner`` and ``now_text`` become annotations, ``run`` a label."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"netpol-ebpf-{_short_node(node)}-",
            "labels": _labels(options, run),
            "annotations": {STARTED_BY: owner, STARTED_AT: now_text},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            **_shape(options).namespaces,
            "tolerations": [{"operator": "Exists"}],
            "activeDeadlineSeconds": options.deadline_seconds,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "volumes": _shape(options).volumes,
            "containers": [_container(options)],
        },
    }


def _container(options: DebugPodOptions) -> Json:
    return {
        "name": CONTAINER,
        "image": options.image,
        # Longer than the deadline, so that it is the deadline that ends the pod, with its reason in the status.
        "command": ["sleep", str(options.deadline_seconds + 60)],
        "terminationMessagePolicy": "File",
        "securityContext": _shape(options).security,
        "resources": RESOURCES,
        "volumeMounts": _shape(options).mounts,
    }


def _shape(options: DebugPodOptions) -> profiles.Shape:
    return profiles.shape(
        options.profile,
        selinux_type=options.selinux_type,
        host_writable=options.host_writable,
        with_log=options.with_log,
    )


def _labels(options: DebugPodOptions, run: str) -> dict[str, str]:
    labels = {MANAGED_BY: TOOL, REUSE: reuse_key(options), KEPT: "true" if options.keep else "false"}
    return {**labels, RUN: run} if run else labels


def reuse_key(options: DebugPodOptions) -> str:
    """Equal for pods that can stand in for each other. Not the node: that is asked for by spec.nodeName."""
    kind = f"1 {options.image} {options.selinux_type} {options.host_writable} {options.profile} {options.with_log}"
    return hashlib.sha256(kind.encode()).hexdigest()[:16]


def _short_node(node: str) -> str:
    """The first label of a node's name, so that the whole stays below the 58 characters the server keeps."""
    return re.sub(r"[^a-z0-9-]", "-", node.lower().split(".")[0])[:40].strip("-") or "node"


# ---- the node, before anything is made


def check_node(api: Api, node: str) -> Json:
    """One GET, and its answer: raises ``NodeError`` where a debug pod could not run. A cordoned or tainted node is
    fine."""
    try:
        found = api.get(f"/api/v1/nodes/{node}")
    except ApiError as error:
        if error.status == 404:
            raise NodeError(f'node "{node}" not found', "`kubectl get nodes` lists them") from error
        if error.status == 403:
            raise _missing_right(error, f'cannot look at node "{node}"', "get nodes") from error
        raise
    labels = _dict(_dict(found, "metadata"), "labels")
    info = _dict(_dict(found, "status"), "nodeInfo")
    if "windows" in (labels.get("kubernetes.io/os"), info.get("operatingSystem")):
        raise NodeError(f'node "{node}" runs Windows: there is no eBPF network policy on it')
    if labels.get("eks.amazonaws.com/compute-type") == "fargate":
        raise NodeError(
            f'node "{node}" is a Fargate node: no privileged pod runs there, and no NetworkPolicy is enforced'
        )
    _check_ready(node, found)
    return found


def _check_ready(node: str, found: Json) -> None:
    conditions = _dict(found, "status").get("conditions")
    ready = next((row for row in conditions or () if row.get("type") == "Ready"), None)
    if ready is None or ready.get("status") == "True":
        return
    since = ready.get("lastTransitionTime") or "an unknown time"
    said = _sentence(ready.get("reason"), ready.get("message"))
    raise NodeError(
        f'node "{node}" is NotReady since {since}{said}',
        hint="its kubelet cannot start a pod; `kubectl describe node` shows more",
    )


# ---- the pod's life


@dataclass
class DebugPod:
    """A running debug pod, good for execs until the block is left."""

    api: Api = field(repr=False)
    node: str
    name: str
    namespace: str
    uid: str
    options: DebugPodOptions
    reused: bool = False

    def exec(self, argv: list[str], stdin: bytes = b"") -> ExecResult:
        """Run ``argv`` in the container. Raises ``NodeError`` where the exec was refused or the pod is gone.

        When a command ends with an error, the pod is looked at once, and what happened to it (evicted,
        deleted, out of time, out of memory) is put into ``ExecResult.error``.
        """
        try:
            result = self._exec(argv, stdin)
        except (ApiError, ConnectionFailed) as error:
            raise self._refused(error) from error
        if result.exit_code == 0:
            return result
        ended = self.why_ended()
        return replace(result, error=ended) if ended else result

    def why_ended(self) -> str:
        """What happened to the pod, or "" while it is running as it should (or cannot be looked at)."""
        gone = f"the debug pod {self.namespace}/{self.name} was deleted meanwhile"
        try:
            found = self.api.get(_pod_path(self.namespace, self.name))
        except ApiError as error:
            return gone if error.status == 404 else ""
        except ConnectionFailed:
            return ""
        if _dict(found, "metadata").get("uid") != self.uid:
            return gone
        return _ended(found, self.node) or _deleting(found)

    def _exec(self, argv: list[str], stdin: bytes) -> ExecResult:
        arguments: Json = {"container": CONTAINER, "stdin": stdin, "timeout": self.options.exec_timeout}
        try:
            return exec_in_pod(self.api, self.namespace, self.name, argv, **arguments)
        except ApiError as error:
            # The kubelet may report the container as running a moment before it finds it for an exec.
            if error.status != 500 or "container not found" not in error.message or self.why_ended():
                raise
        time.sleep(1.0)
        return exec_in_pod(self.api, self.namespace, self.name, argv, **arguments)

    def _refused(self, error: ApiError | ConnectionFailed) -> NodeError:
        what = f"cannot run a command in the debug pod {self.namespace}/{self.name}"
        if isinstance(error, ApiError) and error.status == 403:
            return _missing_right(error, what, "create pods/exec")
        return NodeError(f"{what}: {self.why_ended() or error.message}", error.hint)


def _quiet(_: str) -> None:
    """Progress that nobody wants to see."""


@contextmanager
def open_debug_pod(
    api: Api,
    node: str,
    options: DebugPodOptions | None = None,
    progress: Progress = _quiet,
    warn: Progress | None = None,
) -> Iterator[DebugPod]:
    """A running debug pod on ``node`` for the length of the block.

    Requests: one GET of the node, one list of the tool's pods on it, one create, one watch, one delete.
    Raises ``NodeError`` with the reason when the pod cannot be had, ``Interrupted`` on SIGTERM or SIGHUP.
    ``warn`` gets what a person must see even without progress: a pod that could not be deleted.

    Signals reach the main thread only. Who opens pods in other threads holds ``interruptible`` around them.
    """
    found = check_node(api, node)
    labels = _dict(_dict(found, "metadata"), "labels")
    options = replace(options or DebugPodOptions(), with_log=profiles.has_log(labels))
    lease = _Lease(api, node, options, progress, warn or progress)
    with _Signals() as signals, lease.listed():
        # Two layers: the first signal raises, the following ones wait. One that strikes while the inner block
        # is being left still finds the outer one, which nothing can interrupt any more.
        try:
            try:
                yield lease.acquire()
            finally:
                signals.hold()
        finally:
            signals.hold()
            lease.release()


@contextmanager
def interruptible() -> Iterator[_Signals]:
    """Held in the main thread while other threads open debug pods. The first signal deletes all their pods, and so does
    any other exception: those threads are not waited for, but their pods are.
    """
    _stopping.clear()
    with _Signals(_stop_all) as signals:
        try:
            yield signals
        except BaseException:
            signals.hold()
            if not _stopping.is_set():
                _stop_all()
            _await_releases()
            raise


_leases: set[_Lease] = set()
_stopping = threading.Event()


def _stop_all() -> None:
    _stopping.set()
    for lease in list(_leases):
        threading.Thread(target=lease.release_early, daemon=True).start()


def _await_releases() -> None:
    """A create request that is under way ends by its time-out; then its own thread deletes what it made."""
    until = time.monotonic() + STOP_SECONDS
    for lease in list(_leases):
        while lease.owes_pod and time.monotonic() < until:
            lease.settled.wait(0.1)
        if lease.owes_pod:
            lease.warn(lease.left_behind(f"no answer within {STOP_SECONDS:.0f} s"))


class _Signals:
    """SIGINT, SIGTERM and SIGHUP as exceptions: the first one raises, later ones wait until the block is
    left.

    In other threads than the main one signals cannot be handled, and none arrives: then this does nothing.
    """

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.holding = False
        self.pending: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # What the user chose to ignore (nohup) stays ignored; None is a handler that is not Python's.
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.previous[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self.pending is not None and kind is None:
            raise self._exception(self.pending)

    def hold(self) -> None:
        """From now on a signal is remembered, and raised when the block is left."""
        self.holding = True

    def _arrived(self, number: int, _: object) -> None:
        if self.holding:
            self.pending = number
            return
        self.holding = True
        self.before()
        raise self._exception(number)

    @staticmethod
    def _exception(number: int) -> BaseException:
        name = signal.Signals(number).name
        return KeyboardInterrupt() if name == "SIGINT" else Interrupted(f"ended by {name}")


class _Lease:
    """Gets one debug pod and gives it back."""

    def __init__(self, api: Api, node: str, options: DebugPodOptions, progress: Progress, warn: Progress) -> None:
        self.api, self.node, self.options, self.progress, self.warn = api, node, options, progress, warn
        self.run = secrets.token_hex(8)
        self.posted = False
        """The create request may have reached the server."""
        self.answered = False
        """The server said that it did not make the pod, in a way that it may be wrong about (500 and the like)."""
        self.created: Json | None = None
        self.pod: DebugPod | None = None
        self.settled = threading.Event()
        """No pod of this lease is in the cluster any more, or it was told how to get rid of it."""
        self._releasing = threading.Lock()

    @contextmanager
    def listed(self) -> Iterator[None]:
        """Known to ``interruptible`` while the block lasts."""
        _leases.add(self)
        try:
            yield
        finally:
            self.settled.set()
            _leases.discard(self)

    # getting it

    def acquire(self) -> DebugPod:
        self.pod = self._reusable() or self._new()
        return self.pod

    def _reusable(self) -> DebugPod | None:
        """A kept pod that fits, found by the one list that also finds what earlier runs left behind."""
        selectors = {"labelSelector": f"{MANAGED_BY}={TOOL}", "fieldSelector": f"spec.nodeName={self.node}"}
        try:
            found = self.api.list(_pods_path(self.options.namespace), **selectors).items
        except ApiError as error:
            self.progress(f"cannot look for debug pods of earlier runs: {error.message}")
            return None
        for pod in found:
            if _dict(pod, "status").get("phase") in ("Succeeded", "Failed"):
                self._remove_leftover(pod)
        usable = [pod for pod in found if self._fits(pod)]
        if not usable:
            return None
        reused = self._debug_pod(max(usable, key=lambda pod: ends_at(pod) or 0.0), reused=True)
        self.progress(f"using the kept debug pod {reused.namespace}/{reused.name}")
        return reused

    def _remove_leftover(self, pod: Json) -> None:
        name, uid = _identity(pod)
        try:
            self.api.delete(_pod_path(self.options.namespace, name), uid=uid)
            self.progress(f"deleted the ended debug pod {self.options.namespace}/{name} of an earlier run")
        except (ApiError, ConnectionFailed) as error:
            self.progress(f"cannot delete the ended debug pod {name} of an earlier run: {error.message}")

    def _fits(self, pod: Json) -> bool:
        """Kept, running, of the same kind, not about to end. Labels are claims: the pod itself is checked."""
        metadata, spec = _dict(pod, "metadata"), _dict(pod, "spec")
        labels = _dict(metadata, "labels")
        container: Json = next((c for c in spec.get("containers") or () if c.get("name") == CONTAINER), {})
        return (
            labels.get(KEPT) == "true"
            and labels.get(REUSE) == reuse_key(self.options)
            and not metadata.get("deletionTimestamp")
            and _container_state(pod)[0] == "running"
            and spec.get("nodeName") == self.node
            and spec.get("hostNetwork") is True
            and container.get("image") == self.options.image
            and _dict(container, "securityContext") == _shape(self.options).security
            and (ends_at(pod) or 0.0) - time.time() >= LEAST_TIME_LEFT
        )

    def _new(self) -> DebugPod:
        options = self.options
        body = manifest(self.node, options, _owner(), _utc(time.time()), self.run)
        where = f"namespace {options.namespace}, image {options.image}"
        self.progress(f"starting a debug pod on node {self.node} ({where})")
        # In this order: whoever stops all looks at it the other way round.
        self.posted = True
        if self._stopped():
            self.posted = False
            raise self._interrupted()
        try:
            self.created = self.api.create(_pods_path(options.namespace), body)
        except ApiError as error:
            if 400 <= error.status < 500:
                # Refused: nothing was made. With any other error, or none, it may have been.
                self.posted = False
            self.answered = bool(error.status)
            raise _create_refused(error, self.node, options.namespace) from error
        return self._debug_pod(self._await_running(self.created), reused=False)

    def _debug_pod(self, pod: Json, reused: bool) -> DebugPod:
        name, uid = _identity(pod)
        return DebugPod(self.api, self.node, name, self.options.namespace, uid, self.options, reused)

    def _await_running(self, created: Json) -> Json:
        seen, newest = "", created
        for pod in self._versions(created):
            if self._stopped():
                raise self._interrupted()
            newest = pod
            ended = _ended(pod, self.node) or _deleting(pod) or _cannot_start(pod)
            if ended:
                raise NodeError(ended, _start_hint(pod, self.options))
            state, reason, _ = _container_state(pod)
            if state == "running":
                return pod
            if reason and reason != seen:
                self.progress(f"debug pod {_identity(pod)[0]}: {reason}")
                seen = reason
        raise self._too_slow(newest)

    def _versions(self, created: Json) -> Iterator[Json]:
        """The pod as it changes, until the start timeout: by watch, else by polling."""
        name = _identity(created)[0]
        end = time.monotonic() + self.options.start_timeout
        pod, watching = created, True
        while True:
            yield pod
            left = end - time.monotonic()
            if left <= 0:
                return
            if watching:
                try:
                    yield from self._watched(name, pod, min(left, WATCH_SECONDS))
                except ApiError as error:
                    # 410: this version is too old, which the next GET repairs. Everything else will not
                    # change.
                    watching = error.status == 410
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            pod = self._current(name)

    def _watched(self, name: str, pod: Json, seconds: float) -> Iterator[Json]:
        version = str(_dict(pod, "metadata").get("resourceVersion") or "")
        selectors = {"fieldSelector": f"metadata.name={name}", "resourceVersion": version}
        events = self.api.watch(_pods_path(self.options.namespace), seconds=seconds, **selectors)
        with contextlib.closing(events):  # type: ignore[type-var]
            for kind, found in events:
                if kind == "DELETED":
                    raise self._vanished(name)
                if kind == "ERROR":
                    return
                yield found

    def _current(self, name: str) -> Json:
        try:
            return self.api.get(_pod_path(self.options.namespace, name))
        except ApiError as error:
            if error.status == 404:
                raise self._vanished(name) from error
            if error.status == 403:
                raise _missing_right(error, "cannot follow the start of the debug pod", "get pods") from error
            raise

    def _vanished(self, name: str) -> NodeError:
        return NodeError(
            f"the debug pod {self.options.namespace}/{name} was deleted before it was running",
            hint="a policy engine or a clean-up job may do that; try another --debug-namespace",
        )

    @staticmethod
    def _stopped() -> bool:
        """Signals raise in the main thread; the others are told like this."""
        return _stopping.is_set() and threading.current_thread() is not threading.main_thread()

    def _interrupted(self) -> NodeError:
        return NodeError(f"interrupted while the debug pod on node {self.node} was started")

    def _too_slow(self, pod: Json) -> NodeError:
        name, _ = _identity(pod)
        _, reason, message = _container_state(pod)
        phase = reason or str(_dict(pod, "status").get("phase") or "Pending")
        why = self._newest_warning(pod) or message
        return NodeError(
            f"the debug pod {self.options.namespace}/{name} on node {self.node} did not start within "
            f"{self.options.start_timeout:.0f} s: it is still {phase}{_sentence(why)}",
            hint=profiles.start_hint(why) if why else "a large image on a slow link needs a longer --start-timeout",
        )

    def _newest_warning(self, pod: Json) -> str:
        name, uid = _identity(pod)
        selector = f"involvedObject.name={name},involvedObject.uid={uid},type=Warning"
        path = f"/api/v1/namespaces/{self.options.namespace}/events"
        try:
            events = self.api.list(path, fieldSelector=selector).items
        except (ApiError, ConnectionFailed):
            return ""
        newest = max(events, key=_event_time, default=None)
        return _sentence(newest.get("reason"), newest.get("message"))[2:] if newest else ""

    # giving it back

    @property
    def owes_pod(self) -> bool:
        """There may be a pod that this run has to delete. One that was reused or is to be kept is not."""
        return self.posted and not self.settled.is_set() and not (self.pod is not None and self.options.keep)

    def release(self) -> None:
        """Delete the pod that is owed. Never raises or waits for long."""
        if not self.owes_pod:
            return
        done: list[str] = []
        worker = threading.Thread(target=lambda: done.append(self._delete_once()), daemon=True)
        worker.start()
        worker.join(DELETE_SECONDS)
        failure = done[0] if done else f"no answer within {DELETE_SECONDS:.0f} s"
        if failure:
            self.warn(self.left_behind(failure))

    def release_early(self) -> None:
        """The same while the pod is in use, for another thread. If it fails, ``release`` tries again, and tells."""
        if self.owes_pod:
            self._delete_once()

    def _delete_once(self) -> str:
        with self._releasing:
            failure = "" if self.settled.is_set() else self._delete()
            if not failure:
                self.settled.set()
            return failure

    def _delete(self) -> str:
        """Why the pod could not be deleted, or "" when it is gone."""
        try:
            found = self._mine()
            if not found:
                return "" if self.answered else "the server did not say whether it made it"
            for name, uid in found:
                self._delete_one(f"{_pods_path(self.options.namespace)}/{name}", uid)
        except ApiError as error:
            # 409: the uid does not fit, so ours is gone and its name has a new owner.
            return "" if error.status == 409 else error.message
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    def _delete_one(self, path: str, uid: str) -> None:
        """Tried twice: a server that changes its leader answers 500 for a moment, a busy one 429, and a connection that
        was idle during a long exec may be gone."""
        try:
            return self.api.delete(path, uid=uid)
        except ApiError as error:
            if error.status and error.status < 500 and error.status != 429:
                raise
        except ConnectionFailed:
            pass
        time.sleep(1.0)
        return self.api.delete(path, uid=uid)

    def _mine(self) -> list[tuple[str, str]]:
        """(name, uid) of this run's pod. Without an answer to the create request it is looked for, again and again:
        the server may still be at work on a request whose connection is gone."""
        if self.created is not None:
            return [_identity(self.created)]
        for attempt in range(2 if self.answered else LOOKS):
            time.sleep(min(attempt, 1) * 1.0)
            found = self.api.list(_pods_path(self.options.namespace), labelSelector=f"{RUN}={self.run}").items
            if found:
                return [_identity(pod) for pod in found]
        return []

    def left_behind(self, failure: str) -> str:
        context = getattr(getattr(self.api, "connection", None), "context", "")
        which = _identity(self.created)[0] if self.created else f"-l {RUN}={self.run}"
        kubectl = f"kubectl --context {context}" if context else "kubectl"
        command = f"{kubectl} delete pod -n {self.options.namespace} {which}"
        until = _utc(time.time() + self.options.deadline_seconds)
        return (
            f"warning: the debug pod on node {self.node} could not be deleted ({failure}); remove it with "
            f"`{command}`, or leave it: the server ends it by {until}"
        )


# ---- reading a pod's status

IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
CREATE_REASONS = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}


def _ended(pod: Json, node: str) -> str:
    """Why the pod's container will not run (any more), or ""."""
    status = _dict(pod, "status")
    name, reason, message = _identity(pod)[0], status.get("reason"), status.get("message")
    state, why, said = _container_state(pod)
    if reason == "DeadlineExceeded":
        seconds = _dict(pod, "spec").get("activeDeadlineSeconds")
        return f"the debug pod {name} reached its deadline of {seconds} s and was ended by the server"
    if reason in ("Evicted", "Preempting", "Terminated", "NodeShutdown", "Shutdown"):
        return f"the debug pod {name} was ended by node {node}: {reason}{_sentence(message)}"
    if state == "terminated":
        return f"the container of the debug pod {name} ended: {why}{_sentence(said)}"
    if status.get("phase") == "Failed":
        return f"node {node} refused the debug pod {name}{_sentence(reason, message) or ' without a reason'}"
    if status.get("phase") == "Succeeded":
        return f"the container of the debug pod {name} ended"
    return ""


def _deleting(pod: Json) -> str:
    deleted = _dict(pod, "metadata").get("deletionTimestamp")
    return f"the debug pod {_identity(pod)[0]} is being deleted by someone else" if deleted else ""


def _cannot_start(pod: Json) -> str:
    state, reason, message = _container_state(pod)
    image = next((c.get("image") for c in _dict(pod, "spec").get("containers") or ()), "?")
    if state == "waiting" and reason in IMAGE_REASONS:
        return f"the image {image} cannot be pulled: {reason}{_sentence(message)}"
    if state == "waiting" and reason in CREATE_REASONS:
        name = _identity(pod)[0]
        return f"the container of the debug pod {name} cannot be started: {reason}{_sentence(message)}"
    return ""


def _start_hint(pod: Json, options: DebugPodOptions) -> str:
    state, reason, message = _container_state(pod)
    if reason in IMAGE_REASONS:
        return "choose an image that the node can pull, for example a mirror inside the VPC, with --image"
    if state == "terminated" and re.search(r"sleep\W.*not found|no such file", message):
        return f"the image {options.image} has no `sleep`: choose another with --image"
    return ""


def _container_state(pod: Json) -> tuple[str, str, str]:
    """(running | waiting | terminated | "", reason, message) of the debugger container."""
    for row in _dict(pod, "status").get("containerStatuses") or ():
        if row.get("name") != CONTAINER:
            continue
        for state, details in _dict(row, "state").items():
            details = details or {}
            reason = str(details.get("reason") or "")
            if state == "terminated":
                reason = f"exit code {details.get('exitCode')}" + (f", {reason}" if reason else "")
            return state, reason, _one_line(details.get("message"))
    return "", "", ""


def ends_at(pod: Json) -> float | None:
    """Seconds since the epoch at which the server ends the pod; None where it does not say. To be compared with the
    clock of this machine, which may be another one."""
    # Counted from the moment the kubelet takes the pod, which is hardly later than its creation.
    started = time_of(_dict(pod, "status").get("startTime")) or time_of(_dict(pod, "metadata").get("creationTimestamp"))
    seconds = _dict(pod, "spec").get("activeDeadlineSeconds")
    if started is None or not isinstance(seconds, int) or abs(seconds) > MOST_SECONDS:
        return None
    return started + seconds


MOST_SECONDS = 2**31
"""The API server keeps `activeDeadlineSeconds` below this."""


def time_of(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 text; None for anything else."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def _event_time(event: Json) -> str:
    """RFC 3339 texts of one server compare like the times they stand for."""
    metadata = _dict(event, "metadata")
    return str(event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp") or "")


# ---- refusals


def _create_refused(error: ApiError, node: str, namespace: str) -> NodeError:
    """The server's refusal of the pod in our words: whose rule it was, and the way round it."""
    text = error.message
    what = f"cannot start a debug pod on node {node}"
    if level := re.search(r'violates PodSecurity "([^":]+)', text):
        return NodeError(
            f'{what}: namespace "{namespace}" enforces the PodSecurity level "{level[1]}", '
            "which allows no privileged pod",
            hint="choose one labelled pod-security.kubernetes.io/enforce=privileged with --debug-namespace",
        )
    if right := re.search(r"cannot (\w+) resource", text):
        return _missing_right(error, what, f"{right[1]} pods", namespace)
    if re.search(r"exceeded quota|failed quota", text):
        return NodeError(f'{what}: the quota of namespace "{namespace}" is used up: {text}', _OTHER_NAMESPACE)
    if error.status == 404:
        return NodeError(f'{what}: namespace "{namespace}" not found', _OTHER_NAMESPACE)
    if webhook := re.search(r'admission webhook "([^"]+)"', text):
        return NodeError(f'{what}: the admission webhook "{webhook[1]}" refused it: {text}', _OTHER_NAMESPACE)
    return NodeError(f"{what}: {text}", error.hint if error.status != 403 else _OTHER_NAMESPACE)


_OTHER_NAMESPACE = "choose another namespace for the debug pod with --debug-namespace"


def _missing_right(error: ApiError, what: str, right: str, namespace: str = "") -> NodeError:
    """Names the missing right by the server's own sentence; ``right`` (verb resource) where it says none."""
    found = re.search(r'cannot (\w+) resource "([^"]+)"', error.message)
    verb, resource = (found[1], found[2]) if found else right.split()
    where = re.search(r'in the namespace "([^"]+)"', error.message)
    flag = f" -n {where[1] if where else namespace}" if where or namespace else ""
    name, _, sub = resource.partition("/")
    check = f"kubectl auth can-i {verb} {name}{f' --subresource={sub}' if sub else ''}{flag}"
    return NodeError(
        f"{what}: the right `{verb} {resource}` is missing ({error.message})",
        hint=f"`{check}` shows it; the rights that each verb needs are listed in docs/rbac.md",
    )


# ---- small things


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def _pod_path(namespace: str, name: str) -> str:
    return f"{_pods_path(namespace)}/{name}"


def _identity(pod: Json) -> tuple[str, str]:
    metadata = _dict(pod, "metadata")
    return str(metadata.get("name") or ""), str(metadata.get("uid") or "")


def _dict(parent: Json, key: str) -> Json:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _one_line(text: object) -> str:
    words = "".join(c if c.isprintable() else " " for c in str(text or "")).split()
    return " ".join(words)[:600]


def _sentence(*parts: object) -> str:
    """``: reason: message`` of the parts that say something, or ""."""
    return "".join(f": {line}" for part in parts if (line := _one_line(part)))


def _owner() -> str:
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (OSError, KeyError):
        return platform.node() or "unknown"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
