"""Faults of the exec stream, the reader's answer, the debug pod and its node, and of the places that answers go to."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator

from tests.lab.article import NODE
from tests.system.injected.row import Chapter, Prints, Row, Scene, Stdout
from tests.system.injected.words import (
    CAPTURE,
    CHECK,
    CLEANUP,
    CONNTRACK,
    DEBUG_PODS,
    DOCTOR,
    DROPS,
    FLOW,
    JSON,
    MAPS,
    OTHER_IMAGE,
    POD,
    TRY,
    not_run,
    unread,
)

HEADER = re.compile(rb"NPE1 (\d+) ([0-9a-f]{64})\n")
CUT = "the answer of pod kube-system/netpol-ebpf-… was cut: … of … bytes came (exec in pod …: the stream was cut (…))"
LONG_CONNECTIONS = "try again; a proxy or load balancer that ends long connections is the usual cause"


# ---- the stream

ALL = 1 << 30
"""More than any answer has."""


def cut(after_bytes: int) -> Callable[[Scene], object]:
    return lambda scene: scene.faults.exec_cut(after_bytes)


def cut_at_tenth(tenths: int) -> Callable[[Scene], object]:
    return lambda scene: scene.faults.exec_cut(ALL, change=lambda answer: answer[: len(answer) * tenths // 10])


def each_tenth() -> Iterator[Row]:
    for tenths in range(10):
        says = (f"error: {CUT}", f"hint: {LONG_CONNECTIONS}")
        if tenths == 0:
            says = ("error: pod kube-system/netpol-ebpf-… did not answer (exec in pod …: the stream was cut (…))", TRY)
        yield Row(
            f"cut-{tenths}",
            f"the stream is cut after {tenths} tenths of the answer",
            MAPS,
            3,
            says,
            cut_at_tenth(tenths),
        )


STREAM = Chapter(
    "The exec stream",
    (
        *each_tenth(),
        Row(
            "cut-10",
            "the stream is cut after all of the answer, before its status",
            MAPS,
            0,
            (),
            cut(ALL),
            Prints.WHOLE,
        ),
        Row(
            "cut-header",
            "the stream is cut in the first line of the answer",
            MAPS,
            3,
            ("error: the answer of pod kube-system/netpol-ebpf-… was cut inside its header (30 bytes came)",),
            cut(30),
        ),
        Row(
            "cut-explain",
            "the stream is cut",
            FLOW,
            3,
            unread(f"{CUT} ({LONG_CONNECTIONS})"),
            cut(700),
            Prints.UNKNOWN,
        ),
        Row("cut-check", "the same", CHECK, 3, (), cut(700), Prints.UNKNOWN),
        Row("cut-check-json", "the same", (*CHECK, *JSON), 3, (), cut(700), Prints.UNKNOWN),
        Row("cut-conntrack", "the same", CONNTRACK, 3, (f"error: {CUT}", f"hint: {LONG_CONNECTIONS}"), cut(700)),
        Row("cut-drops", "the same", DROPS, 3, (f"error: {CUT}", f"hint: {LONG_CONNECTIONS}"), cut(700)),
        Row("cut-doctor", "the same", DOCTOR, 1, (), cut(700), Prints.ANSWER, r"reading +failed +.* was cut"),
        Row(
            "cut-capture",
            "the same",
            CAPTURE,
            3,
            (f"warning: node …: {CUT}…",),
            cut(700),
            writes=("b.tar.gz",),
            says_more=True,
        ),
        Row(
            "error-channel",
            "the stream ends with an error instead of an exit code",
            MAPS,
            3,
            (
                "error: the reader could not be run in pod kube-system/netpol-ebpf-…: "
                "Internal error occurred: error dialing backend: EOF",
                TRY,
            ),
            lambda scene: scene.faults.exec_error("error dialing backend: EOF"),
        ),
    ),
)


# ---- the answer


def framed(payload: bytes) -> bytes:
    """As the reader frames its answer."""
    return b"NPE1 %d %s\n" % (len(payload), hashlib.sha256(payload).hexdigest().encode()) + payload


def split(answer: bytes) -> tuple[int, bytes, bytes]:
    """(length, digest, payload) of a good answer."""
    found = HEADER.match(answer)
    assert found, answer[:100]
    return int(found[1]), found[2], answer[found.end() :]


def document_with(**fields: object) -> Callable[[bytes], bytes]:
    def changed(answer: bytes) -> bytes:
        document = json.loads(zlib.decompress(split(answer)[2]))
        return framed(zlib.compress(json.dumps(document | fields).encode()))

    return changed


def flipped(answer: bytes) -> bytes:
    middle = len(answer) // 2
    return answer[:middle] + bytes([answer[middle] ^ 1]) + answer[middle + 1 :]


def promising(more: int) -> Callable[[bytes], bytes]:
    def changed(answer: bytes) -> bytes:
        length, digest, payload = split(answer)
        return b"NPE1 %d %s\n" % (length + more, digest) + payload

    return changed


def other_digest(answer: bytes) -> bytes:
    length, _, payload = split(answer)
    return b"NPE1 %d %s\n" % (length, b"0" * 64) + payload


OF_POD = "error: the answer of pod kube-system/netpol-ebpf-…"
DOCUMENT = "error: the node's document"
DAMAGED: tuple[tuple[str, str, Callable[[bytes], bytes], tuple[str, ...]], ...] = (
    ("flipped", "one bit is flipped", flipped, (f"{OF_POD} is damaged: its checksum does not fit", TRY)),
    (
        "longer",
        "the header promises more bytes than come",
        promising(10),
        (f"{OF_POD} was cut: … of … bytes came", f"hint: {LONG_CONNECTIONS}"),
    ),
    (
        "shorter",
        "more bytes come than the header promises",
        promising(-10),
        (f"{OF_POD} is damaged: 10 bytes after …",),
    ),
    ("digest", "the checksum is another one", other_digest, (f"{OF_POD} is damaged: its checksum does not fit", TRY)),
    (
        "huge",
        "the header promises a gigabyte",
        lambda answer: b"NPE1 1000000000 %s\n" % (b"0" * 64),
        (f"{OF_POD} announces 1000000000 bytes; more than 268435456 are not taken",),
    ),
    (
        "zlib",
        "it is not compressed",
        lambda answer: framed(b"not compressed"),
        (f"{OF_POD} is damaged: Error -3 while decompressing data: incorrect header check",),
    ),
    (
        "zlib-cut",
        "it ends inside what is compressed",
        lambda answer: framed(split(answer)[2][:-20]),
        (f"{OF_POD} is damaged: its compressed part does not end where it says",),
    ),
    (
        "json",
        "it is not JSON",
        lambda answer: framed(zlib.compress(b"{not json")),
        (f"{OF_POD} is damaged: not JSON (…)",),
    ),
    (
        "array",
        "it is another document",
        lambda answer: framed(zlib.compress(b"[]")),
        (f"{DOCUMENT} is damaged: the document should be an object, it is an array",),
    ),
    (
        "format",
        "its format is of another release",
        document_with(format=99),
        (f"{DOCUMENT} has format 99; this version reads …",),
    ),
    (
        "field",
        "a field has another type",
        document_with(maps="none"),
        (f"{DOCUMENT} is damaged: maps should be an array, it is 'none'",),
    ),
    (
        "empty",
        "it is empty",
        lambda answer: b"",
        ("error: the reader in pod kube-system/netpol-ebpf-… said nothing",),
    ),
    (
        "other",
        "another program's text comes first",
        lambda answer: b"\x1b[31mWelcome\x1b[0m to Linux\n" + answer,
        (f"{OF_POD} is not one of the reader: it begins with …Welcome…",),
    ),
    (
        "after",
        "another program's text comes after it",
        lambda answer: answer + b"bash: logout\n",
        (f"{OF_POD} is damaged: 13 bytes after its end",),
    ),
)


def each_damage() -> Iterator[Row]:
    for name, broken, change, says in DAMAGED:
        yield Row(f"answer-{name}", broken, MAPS, 3, says, answer_is(change))


def answer_is(change: Callable[[bytes], bytes]) -> Callable[[Scene], object]:
    return lambda scene: scene.faults.exec_change(change)


READER = Chapter(
    "The reader's answer, with a good status",
    (
        *each_damage(),
        Row(
            "answer-explain",
            "one bit is flipped",
            FLOW,
            3,
            unread("the answer of pod … is damaged: its checksum does not fit (try again)"),
            answer_is(flipped),
            Prints.UNKNOWN,
        ),
        Row("answer-check", "the same", ("check", POD, *JSON), 3, (), answer_is(flipped), Prints.UNKNOWN),
    ),
)


# ---- the pod and its node


def not_ready(scene: Scene) -> None:
    scene.server.set_node_ready(NODE, False)
    scene.on_exit.append(lambda: scene.server.set_node_ready(NODE, True))


def kubelet_gone(scene: Scene) -> None:
    scene.faults.call(lambda: scene.server.set_node_ready(NODE, False), "/exec")
    scene.on_exit.append(lambda: scene.server.set_node_ready(NODE, True))


def node_terminated(scene: Scene) -> None:
    """The stream breaks; the node's object and its pods are gone when somebody looks."""
    node = scene.server.get("Node", NODE)

    def terminate() -> None:
        scene.server.delete("Node", NODE)
        for name in scene.debug_pods():
            scene.server.delete("Pod", name, "kube-system", grace_seconds=0)

    scene.faults.exec_cut(700, then=terminate)
    scene.on_exit.append(lambda: scene.server.put(node))


def ended(scene: Scene) -> None:
    """Wait until the kubelet has ended the pod."""
    (name,) = scene.debug_pods()
    scene.server.wait("Pod", name, lambda pod: pod["status"]["phase"] == "Failed", "kube-system")


def evicted(message: str | None = None) -> Callable[[Scene], object]:
    """In the middle of the answer, which then breaks off."""

    def breaks(scene: Scene) -> None:
        def evict() -> None:
            scene.server.kubelet.evict("kube-system", scene.debug_pods()[0], message)
            ended(scene)

        scene.faults.exec_cut(700, then=evict)

    return breaks


def deadline(scene: Scene) -> None:
    """30 seconds of it pass in three."""
    kubelet = scene.server.kubelet
    kubelet.deadline_scale = 0.1
    scene.on_exit.append(lambda: setattr(kubelet, "deadline_scale", 1.0))
    scene.faults.exec_cut(700, then=lambda: ended(scene))


PRESSURE = "Pod was rejected: The node had condition: [DiskPressure]. "
LOW_ON_DISK = (
    "The node was low on resource: ephemeral-storage. Threshold quantity: 2139512454, available: 1048576Ki. "
    "Container debugger was using 12Ki, request is 0, has larger consumption of ephemeral-storage. "
)
NO_SPACE = "write /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs: no space left on device"
WAS_CUT = "the answer of pod kube-system/netpol-ebpf-… was cut: … of … bytes came"
BY_NODE = "(the debug pod netpol-ebpf-… was ended by node …: Evicted: …)"
MIDDLE = (f"error: {WAS_CUT} {BY_NODE}", f"hint: {LONG_CONNECTIONS}")
PODS = Chapter(
    "The debug pod and its node",
    (
        Row(
            "not-ready",
            "the node is NotReady",
            MAPS,
            3,
            (
                'error: node "…" is NotReady since …: NodeStatusUnknown: Kubelet stopped posting node status.',
                "hint: its kubelet cannot start a pod; `kubectl describe node` shows more",
            ),
            not_ready,
        ),
        Row(
            "kubelet-gone",
            "the node goes away before it is read",
            MAPS,
            3,
            not_run("Internal error occurred: error dialing backend: dial tcp …:10250: i/o timeout", "hint: …"),
            kubelet_gone,
        ),
        Row(
            "node-gone",
            "the node is terminated while it is read",
            MAPS,
            3,
            (f"error: {WAS_CUT} (the debug pod … was deleted meanwhile)", f"hint: {LONG_CONNECTIONS}"),
            node_terminated,
        ),
        Row(
            "node-gone-explain",
            "the same",
            FLOW,
            3,
            unread(f"{WAS_CUT} (the debug pod … was deleted meanwhile) ({LONG_CONNECTIONS})"),
            node_terminated,
            Prints.UNKNOWN,
        ),
        Row("evicted", "the debug pod is evicted while the node is read", MAPS, 3, MIDDLE, evicted()),
        Row(
            "evicted-explain",
            "the same",
            FLOW,
            3,
            unread(f"{WAS_CUT} {BY_NODE} ({LONG_CONNECTIONS})"),
            evicted(),
            Prints.UNKNOWN,
        ),
        Row("evicted-check", "the same", CHECK, 3, (), evicted(), Prints.UNKNOWN),
        Row(
            "deadline",
            "the debug pod reaches its deadline while the node is read",
            (*MAPS, "--deadline", "30"),
            3,
            (
                f"error: {WAS_CUT} "
                "(the debug pod netpol-ebpf-… reached its deadline of 30 s and was ended by the server)",
                f"hint: {LONG_CONNECTIONS}",
            ),
            deadline,
        ),
        Row(
            "disk-admits",
            "the node is out of disk: it admits no pod",
            MAPS,
            3,
            (
                "error: the debug pod netpol-ebpf-… was ended by node …: Evicted: "
                "Pod was rejected: The node had condition: [DiskPressure].",
            ),
            lambda scene: scene.faults.reject(DEBUG_PODS, message=PRESSURE),
        ),
        Row("disk-evicts", "the node gets out of disk: it evicts the debug pod", MAPS, 3, MIDDLE, evicted(LOW_ON_DISK)),
        Row(
            "disk-creates",
            "the node is out of disk: the container cannot be made",
            MAPS,
            3,
            (
                "error: the container of the debug pod netpol-ebpf-… cannot be started: CreateContainerError: "
                "…no space left on device",
            ),
            lambda scene: scene.faults.start_error(DEBUG_PODS, message=NO_SPACE, reason="CreateContainerError"),
        ),
        Row(
            "disk-pulls",
            "the node is out of disk: the image cannot be pulled",
            MAPS,
            3,
            ("error: the image … cannot be pulled: ErrImagePull: …no space left on device", OTHER_IMAGE),
            lambda scene: scene.faults.image_pull(DEBUG_PODS, message=f"failed to pull and unpack image: {NO_SPACE}"),
        ),
        Row(
            "stuck",
            "the debug pod does not start",
            (*MAPS, "--start-timeout", "1"),
            3,
            (
                "error: the debug pod kube-system/netpol-ebpf-… on node … did not start within 1 s: "
                "it is still ContainerCreating",
                "hint: a large image on a slow link needs a longer --start-timeout",
            ),
            lambda scene: scene.faults.pod_stuck(DEBUG_PODS),
        ),
    ),
)


# ---- where the answer goes


def small_disk(scene: Scene) -> None:
    """A file system with room for one page."""
    disk = scene.directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "netpol-test", str(disk)], check=True)
    scene.on_exit.append(lambda: subprocess.run(["umount", str(disk)], check=True))
    scene.on_exit.append(lambda: no_half_bundle(scene))


def no_half_bundle(scene: Scene) -> None:
    """It is not there, or nobody takes it for a whole one."""
    path = scene.directory / "disk" / "b.tar.gz"
    if path.exists():
        assert scene.user.run("explain", POD, "--bundle", str(path)).returncode == 2


NO_ROOM = ("error: the output could not be written: No space left on device",)
NOT_THERE = 'error: pod "nobody" not found in namespace "default"'
OUTPUT = Chapter(
    "Where the answer goes",
    (
        Row("head", "the reader has seen enough", FLOW, 0, (), prints=Prints.LINE, stdout=Stdout.HEAD),
        Row("head-rows", "the same, rows as they come", CHECK, 0, (), prints=Prints.LINE, stdout=Stdout.HEAD),
        Row("head-json", "the same", (*MAPS, *JSON), 0, (), prints=Prints.LINE, stdout=Stdout.HEAD),
        Row("gone", "nobody reads", FLOW, 0, (), stdout=Stdout.GONE),
        Row("gone-rows", "the same, rows as they come", CHECK, 0, (), stdout=Stdout.GONE),
        Row("gone-doctor", "the same", DOCTOR, 0, (), stdout=Stdout.GONE),
        Row("gone-help", "the same", ("explain", "--help"), 0, (), stdout=Stdout.GONE),
        Row("full", "the disk is full", FLOW, 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-rows", "the same, rows as they come", CHECK, 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-json", "the same", (*MAPS, *JSON), 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-follow", "the same", (*DROPS, "--follow"), 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-cleanup", "the same", CLEANUP, 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-version", "the same", ("version",), 3, NO_ROOM, stdout=Stdout.FULL),
        Row("full-help", "the same", ("--help",), 3, NO_ROOM, stdout=Stdout.FULL),
        Row("closed", "stdout is closed: the exit code is all that is asked for", FLOW, 0, (), stdout=Stdout.CLOSED),
        Row("stderr-full", "the disk is full for stderr", ("maps", "nobody"), 2, (), stdout=Stdout.STDERR_FULL),
        Row("stderr-closed", "stderr is closed", ("maps", "nobody"), 2, (), stdout=Stdout.STDERR_CLOSED),
        Row("stderr-gone", "nobody reads stderr", ("maps", "nobody"), 2, (), stdout=Stdout.STDERR_GONE),
        Row(
            "stderr-full-note",
            "the disk is full for a warning: the answer comes",
            FLOW,
            3,
            (),
            lambda scene: scene.faults.exec_cut(700),
            Prints.UNKNOWN,
            stdout=Stdout.STDERR_FULL,
        ),
        Row(
            "capture-full",
            "the disk is full: no file that looks like a bundle",
            ("capture", POD, "-f", "{dir}/disk/b.tar.gz"),
            3,
            ("error: …b.tar.gz: the bundle could not be written: No space left on device",),
            small_disk,
        ),
        Row(
            "capture-nowhere",
            "no such directory",
            ("capture", POD, "-f", "{dir}/nowhere/b.tar.gz"),
            2,
            ("error: …b.tar.gz: the file could not be made: No such file or directory",),
        ),
    ),
)
CHAPTERS = (STREAM, READER, PODS, OUTPUT)
