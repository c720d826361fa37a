"""What scripts/build-env made, and what a test says when it is not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
WHEELS = BUILD / "wheels"


def require_build_env() -> None:
    """Skips the test where scripts/test did not make the build's environments, or older ones are there; with
    NETPOL_LAB_REQUIRED=1 it fails."""
    if subprocess.run([ROOT / "scripts" / "build-env", "--check"]).returncode == 0:
        return
    text = "the build's environments are not there or not those of requirements/*.txt: run scripts/build-env"
    if os.environ.get("NETPOL_LAB_REQUIRED") == "1":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
