"""Which machine an archive is for, in krew's words, and which C library it needs."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

SYSTEMS = {"Linux": "linux", "Darwin": "darwin", "Windows": "windows"}
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
ELF = b"\x7fELF"


def here() -> tuple[str, str]:
    """(os, arch) of this machine: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/"""
    try:
        return SYSTEMS[platform.system()], MACHINES[platform.machine().lower()]
    except KeyError:
        raise SystemExit(f"error: no archives are made for {platform.system()} on {platform.machine()}") from None


def glibc(files: Iterable[Path]) -> tuple[int, int]:
    """The newest version of the GNU C library that any of these ELF files asks for, as (major, minor)."""
    elf = [file for file in files if file.read_bytes()[:4] == ELF]
    if not elf:
        raise SystemExit("error: there is no ELF file to look into")
    done = subprocess.run(["objdump", "-p", *elf], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: objdump: {done.stderr.strip()}")
    found = {(int(major), int(minor)) for major, minor in re.findall(r"\bGLIBC_(\d+)\.(\d+)", done.stdout)}
    if not found:
        raise SystemExit("error: no file asks for the GNU C library")
    return max(found)
