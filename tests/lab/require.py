"""What the lab needs of the machine, and what a test says when it is not there."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil

import pytest

from . import build, holder

# tool -> package that has it
TOOLS = {"nsenter": "util-linux", "nft": "nftables", "clang": "clang"}
MINIMUM_KERNEL = (5, 10)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())


def _can_unshare() -> str | None:
    """Tried in a child, because what is unshared stays so."""
    pid = os.fork()
    if pid == 0:
        flags = holder.NEWNS | holder.NEWPID | holder.NEWNET | holder.NEWUTS
        os._exit(0 if holder.libc.unshare(flags) == 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == 0 else f"new namespaces: {os.strerror(code)}"


@functools.cache
def missing() -> tuple[str, ...]:
    found = []
    if platform.system() != "Linux":
        return (f"Linux (this is {platform.system()})",)
    if os.geteuid() != 0:
        found.append("root")
    if _kernel() < MINIMUM_KERNEL:
        found.append(f"kernel >= 5.10 (this is {platform.release()})")
    if platform.machine() not in holder.PIVOT_ROOT:
        found.append(f"x86_64 or aarch64 (this is {platform.machine()})")
    found += [f"{tool} (package {package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not found and (reason := _can_unshare()):
        found.append(reason)
    if not found:
        try:
            build.compile_datapath("ingress")
        except build.BuildError as exc:
            found.append(f"a compiler that builds the datapath: {exc}")
    return tuple(found)


def _say(text: str) -> None:
    if os.environ.get("NETPOL_LAB_REQUIRED") == "1":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def require_lab() -> None:
    """Skips the test and says what is missing; with NETPOL_LAB_REQUIRED=1 it fails instead."""
    if missing():
        _say(f"the lab needs: {'; '.join(missing())}")


def require_tools(*names: str) -> None:
    absent = [name for name in names if shutil.which(name) is None]
    if absent:
        _say(f"not installed: {', '.join(absent)}")
