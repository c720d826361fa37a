"""A real browser without a network, spoken to over two pipes (Chrome DevTools Protocol): no port, driver or package."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0
"""Seconds for one answer: a browser that hangs must not hang the suite."""


def missing() -> str:
    """Why there is no browser to look with; empty where there is one."""
    if not _browser():
        return f"no browser: none of {', '.join(NAMES)} is installed (apt-get install chromium-headless-shell)"
    if not shutil.which("unshare"):
        return "no unshare: the browser is to run without a network"
    done = subprocess.run([*_alone(), "true"], capture_output=True, text=True)
    return f"no network namespace can be made here: {done.stderr.strip()}" if done.returncode else ""


def _browser() -> str:
    return next((found for name in NAMES if (found := shutil.which(name))), "")


def _alone() -> list[str]:
    """An empty network namespace, not even with loopback."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


class Browser:
    """One page at a time. Events are kept until they are asked for."""

    def __init__(self, process: subprocess.Popen[bytes], writing: int, reading: int) -> None:
        self._process, self._writing, self._reading = process, writing, reading
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[Json] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Json:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(time.monotonic() + PATIENCE)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                found: Json = answer["result"]
                return found
            self.events.append(answer)

    def _next(self, until: float) -> Json:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._reading, 1 << 20)
            assert more, f"the browser has ended with {self._process.poll()}"
            self._rest += more
        one, _, self._rest = self._rest.partition(b"\0")
        found: Json = json.loads(one)
        return found

    def wait_for(self, method: str) -> Json:
        until = time.monotonic() + PATIENCE
        while True:
            found = next((one for one in self.events if one.get("method") == method), None)
            if found is not None:
                return found
            self.events.append(self._next(until))

    def open(self, url: str, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Load a page and wait until it is there; events of earlier pages are forgotten."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.media(dark=dark)
        for address in ("about:blank", url):
            self.events.clear()
            self.call("Page.navigate", url=address)
            self.wait_for("Page.loadEventFired")

    def media(self, kind: str = "", *, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=kind, features=[scheme])

    def settle(self) -> None:
        """Wait for two frames: what depends on the medium, and folds, is worked out with the next one."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """Of an expression in the page. The page itself may run nothing; this is the debugger."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Whatever the browser has to say about the page: policy violations, failed requests, errors of scripts."""
        # What was sent before this answer has come by now.
        self.value("new Promise(done => setTimeout(done, 50))")
        found = [one["params"]["entry"]["text"] for one in self.events if one.get("method") == "Log.entryAdded"]
        calls = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening")
        return found + [str(one["params"]) for one in self.events if one.get("method") in calls]

    def requests(self) -> list[str]:
        """The addresses that were asked for, blocked ones as well."""
        return [
            one["params"]["request"]["url"] for one in self.events if one.get("method") == "Network.requestWillBeSent"
        ]

    def picture(self, path: Path, *, whole: bool = True) -> None:
        import base64

        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, with an empty profile, which ends with the block."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4: ours must not be in the way.
    theirs_in, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out))

    def place() -> None:
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *_alone(),
            _browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        process = subprocess.Popen(
            command,
            preexec_fn=place,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Browser(process, ours_out, ours_in)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for fd in (theirs_in, theirs_out, ours_in, ours_out):
                os.close(fd)
