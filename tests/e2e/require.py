"""What these tests need of the machine, and what they say when it is not there."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import images
from tests.lab import require

ANSWER_SECONDS = 60.0
PULL_SECONDS = 600


class MissingError(Exception):
    """What is not there, and what can be done."""


def _run(*command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _answer_of_docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A daemon that hangs takes a request and says nothing."""
    try:
        return _run("docker", *arguments, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise MissingError(f"no Docker: the daemon does not answer within {ANSWER_SECONDS:g} s") from None


def docker() -> None:
    """The daemon has to be on this machine: the datapath is loaded into the node's network from here."""
    if shutil.which("docker") is None:
        raise MissingError("no Docker: the program docker is not installed (tests/e2e/machine/docker installs it)")
    done = _answer_of_docker("info", "--format", "{{.ServerVersion}}")
    if done.returncode != 0:
        raise MissingError(f"no Docker: {_last_line(done)} (tests/e2e/machine/docker starts a daemon)")


def image(reference: str, purpose: str, variable: str) -> None:
    """In Docker's store, pulled if need be."""
    if _answer_of_docker("image", "inspect", reference).returncode == 0:
        return
    try:
        done = _run("docker", "pull", "--quiet", reference, timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        raise MissingError(f"no image {reference} ({purpose}): not pulled in {PULL_SECONDS} s") from None
    if done.returncode != 0:
        raise MissingError(
            f"no image {reference} ({purpose}): {_last_line(done)}; name another one with {variable}, or make "
            "images without a registry: tests/e2e/images/build"
        )


def kind(config: pytest.Config) -> Path:
    """The program."""
    wanted = config.getoption("kind_bin") or images.KIND.value
    found = shutil.which(wanted)
    if found is None:
        raise MissingError(f"no kind: {wanted} is not there; name it with --kind-bin or {images.KIND.variable}")
    return Path(found)


def of_the_machine(config: pytest.Config) -> None:
    """Raises MissingError with the first thing that is not there."""
    if require.missing():
        raise MissingError(f"the lab needs: {'; '.join(require.missing())}")
    if shutil.which("kubectl") is None:
        raise MissingError("kubectl is not installed")
    docker()
    kind(config)
    image(config.getoption("kind_image") or images.NODE.value, images.NODE.purpose, images.NODE.variable)
    for one in images.OF_PODS:
        image(one.value, one.purpose, one.variable)


@functools.cache
def missing(config: pytest.Config) -> str:
    """Empty: nothing is missing."""
    try:
        of_the_machine(config)
    except MissingError as told:
        return f"no cluster: {told}"
    return ""


def or_skip(config: pytest.Config) -> None:
    """Skips and says what is missing; with NETPOL_E2E_REQUIRED=1 it fails instead."""
    text = missing(config)
    if text and os.environ.get("NETPOL_E2E_REQUIRED") == "1":
        pytest.fail(text, pytrace=False)
    if text:
        pytest.skip(text)
