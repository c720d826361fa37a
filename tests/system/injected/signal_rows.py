"""Signals at every phase of a run.

The cluster of these rows has two nodes, and what asks both works in threads; deadlines are ten times as short
(`running.prepare_for_signals`).
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator

from tests.lab.netns import wait_until
from tests.system.injected import servers
from tests.system.injected.row import Chapter, Leaves, Prints, Row, Scene, Stdout, When
from tests.system.injected.running import on_the_nodes, printing
from tests.system.injected.words import CAPTURE, CHECK, CLEANUP, DEBUG_PODS, DOCTOR, DROPS, FAR, FLOW, JSON, MAPS, POD

INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
INTERRUPTED = ("error: interrupted",)
LONG = 60.0
"""Seconds that a request takes which is interrupted: longer than a run may hang."""
BOTH = ("explain", POD, "--to", FAR, "--port", "80")
Breaks = Callable[[Scene], list[When]]


def slow(path: str, *, seconds: float = LONG, times: int = 1, **more: object) -> Breaks:
    """When this request has come, so often."""

    def breaks(scene: Scene) -> list[When]:
        fault = scene.faults.slow(seconds, path, **more)
        return [lambda: fault.hits >= times]

    return breaks


def connecting(scene: Scene) -> list[When]:
    servers.silent(scene)
    return [lambda: scene.taken]


def plugin(scene: Scene) -> list[When]:
    asked = scene.directory / "asked"
    asked.touch()
    scene.plugin(f"echo yes > {asked}; exec sleep 60")
    return [lambda: asked.stat().st_size]


def told_to_wait(scene: Scene) -> list[When]:
    fault = scene.faults.http(429, "/api/v1/pods", verb="list", retry_after=60)
    return [lambda: fault.hits]


def starting(scene: Scene) -> list[When]:
    before = len(scene.server.requests)
    scene.faults.pod_stuck(DEBUG_PODS)
    return [lambda: any(request.verb == "watch" for request in scene.server.requests[before:])]


def streaming(*, times: int = 1) -> Breaks:
    """In the middle of the answer, whose rest does not come."""

    def breaks(scene: Scene) -> list[When]:
        told: list[bool] = []
        scene.faults.exec_stall(700, then=lambda: told.append(True))
        return [lambda: len(told) >= times]

    return breaks


def deleting(scene: Scene) -> list[When]:
    [stream] = streaming()(scene)
    return [stream, *slow("/pods/", seconds=1, verb="delete")(scene)]


def blocked(_: Scene) -> list[When]:
    return [printing]


def kept(scene: Scene) -> list[When]:
    """There is a pod to delete, and the request for that takes its time."""
    scene.leave_pod()
    return slow("/pods/", verb="delete")(scene)


CTRL_C = Chapter(
    "Ctrl-C",
    (
        Row("int-plugin", "while the credentials plugin is asked", FLOW, 130, INTERRUPTED, plugin, signals=(INT,)),
        Row("int-connecting", "while connecting", FLOW, 130, INTERRUPTED, connecting, signals=(INT,)),
        Row(
            "int-first",
            "while the first list is awaited",
            FLOW,
            130,
            INTERRUPTED,
            slow("/api/v1/pods", verb="list"),
            signals=(INT,),
        ),
        Row("int-wait", "while the server asks to wait (429)", FLOW, 130, INTERRUPTED, told_to_wait, signals=(INT,)),
        Row(
            "int-listing",
            "while lists are read side by side",
            FLOW,
            130,
            INTERRUPTED,
            slow("/services"),
            signals=(INT,),
        ),
        Row("int-listing-check", "the same", CHECK, 130, INTERRUPTED, slow("/networkpolicies"), signals=(INT,)),
        Row("int-rights", "while rights are asked for", DOCTOR, 130, INTERRUPTED, slow("selfsubject"), signals=(INT,)),
        Row("int-node", "while the node is looked up", MAPS, 130, INTERRUPTED, slow("/nodes/"), signals=(INT,)),
        Row(
            "int-creating",
            "while the debug pod is made: the server makes it after all",
            MAPS,
            130,
            INTERRUPTED,
            slow("/pods", seconds=2, verb="create"),
            signals=(INT,),
        ),
        Row("int-starting", "while the debug pod starts", MAPS, 130, INTERRUPTED, starting, signals=(INT,)),
        Row("int-handshake", "while the exec is opened", MAPS, 130, INTERRUPTED, slow("/exec"), signals=(INT,)),
        Row("int-stream", "in the middle of the answer", MAPS, 130, INTERRUPTED, streaming(), signals=(INT,)),
        Row("int-stream-explain", "the same", FLOW, 130, INTERRUPTED, streaming(), signals=(INT,)),
        Row("int-stream-capture", "the same", CAPTURE, 130, INTERRUPTED, streaming(), signals=(INT,)),
        Row("int-stream-follow", "the same", (*DROPS, "--follow"), 130, INTERRUPTED, streaming(), signals=(INT,)),
        Row(
            "int-twice",
            "in the middle of the answer, and again while the debug pod is deleted",
            MAPS,
            130,
            INTERRUPTED,
            deleting,
            signals=(INT, INT),
        ),
        Row(
            "int-deleting",
            "while the debug pod is deleted after a good answer",
            MAPS,
            130,
            INTERRUPTED,
            slow("/pods/", seconds=1, verb="delete"),
            signals=(INT,),
        ),
        Row(
            "int-printing",
            "while nobody reads the answer",
            (*MAPS, *JSON),
            130,
            INTERRUPTED,
            blocked,
            signals=(INT,),
            stdout=Stdout.BLOCKED,
        ),
        Row(
            "int-cleanup",
            "while pods are listed",
            CLEANUP,
            130,
            INTERRUPTED,
            slow("/pods", verb="list"),
            signals=(INT,),
        ),
        Row(
            "int-cleanup-delete",
            "while an old pod is deleted: it stays",
            (*CLEANUP, "--delete", "--all"),
            130,
            INTERRUPTED,
            kept,
            signals=(INT,),
            leaves=Leaves.POD,
        ),
        Row(
            "int-both-nodes",
            "while two nodes are looked up",
            CHECK,
            130,
            INTERRUPTED,
            slow("/nodes/", times=2),
            Prints.HEADER,
            signals=(INT,),
        ),
        Row(
            "int-both-creating",
            "while two debug pods are made: the server makes them after all",
            CHECK,
            130,
            INTERRUPTED,
            slow("/pods", seconds=2, times=2, verb="create"),
            Prints.HEADER,
            signals=(INT,),
        ),
        Row(
            "int-both-streams",
            "in the middle of two answers",
            CHECK,
            130,
            INTERRUPTED,
            streaming(times=2),
            Prints.HEADER,
            signals=(INT,),
        ),
        Row("int-both-explain", "the same", BOTH, 130, INTERRUPTED, streaming(times=2), signals=(INT,)),
    ),
)
IMPORTANT = ("listing", "creating", "starting", "stream", "twice", "printing", "both-streams")


def each_other_signal() -> Iterator[Row]:
    rows = {row.name: row for row in CTRL_C.rows}
    for name, number in (("SIGTERM", TERM), ("SIGHUP", HUP)):
        for phase in IMPORTANT:
            row = rows[f"int-{phase}"]
            yield dataclasses.replace(
                row,
                name=f"{name.lower()}-{phase}",
                broken=f"{name} {row.broken}",
                signals=tuple(number for _ in row.signals),
            )


TERMINATED = Chapter("SIGTERM and SIGHUP", tuple(each_other_signal()))


# ---- killed

SHORT_LIFE = ("--deadline", "30")


def gone_by_its_deadline(scene: Scene) -> None:
    """`cleanup` lists the pod; the server ends it, and no process stays on the node; `cleanup --delete` removes it."""
    [listed] = left(scene)
    assert listed["state"] in ("running", "ended") and listed["startedBy"], listed
    wait_until(lambda: [one["state"] for one in left(scene)] == ["ended"], "the deadline", 20)
    assert not on_the_nodes(scene.user)
    done = scene.user.run(*CLEANUP, "--delete")
    assert done.returncode == 0 and "1 deleted" in done.stdout, done.stdout
    assert scene.debug_pods() == []


def left(scene: Scene) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(scene.user.run(*CLEANUP, *JSON).stdout)["items"]
    return found


def nothing_left(scene: Scene) -> None:
    assert left(scene) == []


def killed(name: str, broken: str, breaks: Breaks) -> Row:
    return Row(
        f"kill-{name}",
        broken,
        (*MAPS, *SHORT_LIFE),
        -KILL,
        (),
        breaks,
        signals=(KILL,),
        leaves=Leaves.POD,
        after=gone_by_its_deadline,
    )


KILLED = Chapter(
    "SIGKILL",
    (
        Row(
            "kill-listing",
            "while lists are read",
            MAPS,
            -KILL,
            (),
            slow("/services"),
            signals=(KILL,),
            after=nothing_left,
        ),
        killed("creating", "while the debug pod is made", slow("/pods", seconds=0.5, verb="create")),
        killed("starting", "while the debug pod starts", starting),
        killed("stream", "in the middle of the answer", streaming()),
        killed("deleting", "while the debug pod is deleted, and the server is slow", slow("/pods/", verb="delete")),
    ),
)
CHAPTERS = (CTRL_C, TERMINATED, KILLED)
