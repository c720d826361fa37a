"""Programmable trouble: what a client meets in a bad hour, on demand and countable."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass
class Fault:
    """One kind of trouble for the requests that match; `count` times (None: for ever), after `skip` good ones.

    `path` is a regular expression searched in the path; `verb` is the API verb (get, list, watch, create, update,
    patch, delete, deletecollection, or "exec", "attach", "log" for those subresources); `method` the HTTP one.
    `then` is called when the trouble strikes, before the client sees anything of it.
    """

    kind: str  # http, raw, close, slow, call, cut, exec_cut, exec_stall, exec_change, exec_error
    path: str = ""
    verb: str = ""
    method: str = ""
    user: str = ""
    count: int | None = None
    skip: int = 0
    status: int = 0
    message: str = ""
    reason: str = ""
    retry_after: int | None = None
    seconds: float = 0
    after_bytes: int = 0
    body: bytes = b""
    content_type: str = ""
    change: Callable[[bytes], bytes] | None = None
    then: Callable[[], object] | None = None
    hits: int = 0

    def matches(self, verb: str, method: str, path: str, user: str) -> bool:
        wanted = ((self.verb, verb), (self.method, method), (self.user, user))
        return all(not want or want == have for want, have in wanted) and bool(re.search(self.path, path))


@dataclass
class PodFault:
    """Trouble in a pod's life. `name` and `namespace` are regular expressions; `image` too."""

    kind: str  # stuck, image, start, reject, unschedulable, evict
    name: str = ""
    namespace: str = ""
    image: str = ""
    count: int | None = None
    message: str = ""
    reason: str = ""
    seconds: float = 0
    hits: int = 0

    def matches(self, pod: Json) -> bool:
        meta = pod["metadata"]
        images = [c.get("image", "") for c in pod["spec"].get("containers") or []]
        return (
            bool(re.search(self.name, meta["name"]))
            and bool(re.search(self.namespace, meta.get("namespace", "")))
            and any(re.search(self.image, image) for image in images)
        )


class Faults:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: list[Fault] = []
        self.pods: list[PodFault] = []

    def clear(self) -> None:
        with self._lock:
            self.requests.clear()
            self.pods.clear()

    def _add(self, fault: Fault) -> Fault:
        with self._lock:
            self.requests.append(fault)
        return fault

    # -- requests --------------------------------------------------------------------------------------------

    def http(self, status: int, path: str = "", **more: Any) -> Fault:
        """Answer with this status: message=, reason=, retry_after= (seconds), verb=, method=, count=, skip=."""
        return self._add(Fault("http", path, status=status, **more))

    def raw(self, status: int, body: bytes, path: str = "", *, content_type: str = "text/html", **more: Any) -> Fault:
        """Answer with a body of this kind: a proxy on the way that speaks for itself."""
        return self._add(Fault("raw", path, status=status, body=body, content_type=content_type, **more))

    def call(self, function: Callable[[], object], path: str = "", **more: Any) -> Fault:
        """Call this when the request arrives, then answer as ever: what happens in the middle of a run."""
        return self._add(Fault("call", path, then=function, **more))

    def close(self, path: str = "", **more: Any) -> Fault:
        """Close the connection instead of answering."""
        return self._add(Fault("close", path, **more))

    def slow(self, seconds: float, path: str = "", **more: Any) -> Fault:
        """Answer later, but well."""
        return self._add(Fault("slow", path, seconds=seconds, **more))

    def cut(self, after_bytes: int, path: str = "", **more: Any) -> Fault:
        """Announce the whole body, send only its first bytes, close."""
        return self._add(Fault("cut", path, after_bytes=after_bytes, **more))

    def exec_refused(self, status: int, message: str = "", path: str = "", **more: Any) -> Fault:
        """No upgrade: 403, 500 ... before the stream starts. kubectl asks a second time (SPDY) after some."""
        return self._add(Fault("http", path, verb="exec", status=status, message=message, **more))

    def exec_cut(self, after_bytes: int, path: str = "", **more: Any) -> Fault:
        """The stream's connection is lost after so many bytes of output, or after all of it: no status, no close
        frame. `change=`: what comes of stdout, if not all."""
        return self._add(Fault("exec_cut", path, verb="exec", after_bytes=after_bytes, **more))

    def exec_stall(self, after_bytes: int, path: str = "", **more: Any) -> Fault:
        """After so many bytes of output no more comes, and the connection stays open."""
        return self._add(Fault("exec_stall", path, verb="exec", after_bytes=after_bytes, **more))

    def exec_change(self, change: Callable[[bytes], bytes], path: str = "", **more: Any) -> Fault:
        """All of stdout comes when the command has ended, changed: a damaged answer with a good status."""
        return self._add(Fault("exec_change", path, verb="exec", change=change, **more))

    def exec_error(self, message: str, path: str = "", **more: Any) -> Fault:
        """The stream opens, then its error channel tells of an internal error instead of an exit code."""
        return self._add(Fault("exec_error", path, verb="exec", message=message, **more))

    def take(self, kinds: tuple[str, ...], verb: str, method: str, path: str, user: str) -> Fault | None:
        """The first fault that applies to this request, counted."""
        with self._lock:
            for fault in self.requests:
                if fault.kind not in kinds or not fault.matches(verb, method, path, user):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.count is None or fault.hits < fault.count:
                    fault.hits += 1
                    return fault
        return None

    # -- pods ------------------------------------------------------------------------------------------------

    def _add_pod(self, fault: PodFault) -> PodFault:
        with self._lock:
            self.pods.append(fault)
        return fault

    def pod_stuck(self, name: str = "", *, reason: str = "ContainerCreating", **more: Any) -> PodFault:
        """Pods stay in ContainerCreating for ever; with reason="" the kubelet never says anything at all."""
        return self._add_pod(PodFault("stuck", name, reason=reason, **more))

    def image_pull(self, name: str = "", *, message: str = "", **more: Any) -> PodFault:
        """ErrImagePull, then ImagePullBackOff, with what the registry said."""
        return self._add_pod(PodFault("image", name, message=message, **more))

    def start_error(self, name: str = "", *, message: str, reason: str = "RunContainerError", **more: Any) -> PodFault:
        return self._add_pod(PodFault("start", name, message=message, reason=reason, **more))

    def reject(self, name: str = "", *, message: str, reason: str = "Evicted", **more: Any) -> PodFault:
        """The kubelet does not admit the pod: it has failed before it began."""
        return self._add_pod(PodFault("reject", name, message=message, reason=reason, **more))

    def unschedulable(self, name: str = "", *, message: str = "", **more: Any) -> PodFault:
        """The scheduler finds no node (only asked for pods without nodeName)."""
        return self._add_pod(PodFault("unschedulable", name, message=message, **more))

    def evict(self, name: str = "", *, after_seconds: float = 0, message: str = "", **more: Any) -> PodFault:
        """The kubelet evicts the pod so long after it runs."""
        return self._add_pod(PodFault("evict", name, seconds=after_seconds, message=message, **more))

    def take_pod(self, kinds: tuple[str, ...], pod: Json) -> PodFault | None:
        with self._lock:
            for fault in self.pods:
                usable = fault.count is None or fault.hits < fault.count
                if fault.kind in kinds and usable and fault.matches(pod):
                    fault.hits += 1
                    return fault
        return None
