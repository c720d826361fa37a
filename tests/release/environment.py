"""What scripts/build-env made, and what a test says when it is not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
WHEELS = BUILD / "wheels"


def cannot(text: str) -> None:
    """Skips the test and says why; with NETPOL_LAB_REQUIRED=1 it fails instead."""
    if os.environ.get("NETPOL_LAB_REQUIRED") == "1":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def require_build_env() -> None:
    """What scripts/test made to build with, by the locks of now."""
    if subprocess.run([ROOT / "scripts" / "build-env", "--check"]).returncode:
        cannot("the build's environments are not there or not those of requirements/*.txt: run scripts/build-env")
