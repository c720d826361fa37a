"""Compiles the lab's datapath with clang, once per source and set of switches."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE_DIR = Path(__file__).parent / "datapath"
SOURCE = SOURCE_DIR / "policy.bpf.c"
DIRECTIONS = ("ingress", "egress")

NPA_GENERATIONS = (10001, 10004, 10005, 10100, 10200, 10202, 10204, 10300, 10307, 10402)
"""The first agent version of each distinct datapath as a number (agent facts 0.3; 1.2.4 -> 10204)."""


class BuildError(RuntimeError):
    """The datapath could not be compiled; the text says what is missing or what clang said."""


def find_clang() -> str:
    clang = os.environ.get("NETPOL_LAB_CLANG") or shutil.which("clang")
    if clang is None:
        raise BuildError("clang is not installed: the lab compiles its BPF programs with `clang -target bpf`")
    return clang


def _uapi_include() -> list[str]:
    """Debian keeps asm/types.h in a directory named after the machine, which -target bpf does not search."""
    machine = os.uname().machine
    path = Path(f"/usr/include/{machine}-linux-gnu")
    return [f"-I{path}"] if path.is_dir() else []


def cache_dir() -> Path:
    configured = os.environ.get("NETPOL_LAB_CACHE")
    return Path(configured) if configured else Path(tempfile.gettempdir()) / f"netpol-lab-cache-{os.getuid()}"


def defines(npa_gen: int, ipv6: bool) -> dict[str, int | None]:
    """The switches of one generation and family."""
    return {"NPA_GEN": npa_gen, **({"NPA_IPV6": 1} if ipv6 else {})}


def pod_state_keys(npa_gen: int) -> int:
    """Agent facts 1.2: no pod_state map, the NetworkPolicy state only, or the cluster policy state as well."""
    return 2 if npa_gen >= 10300 else 1 if npa_gen >= 10200 else 0


def has_cluster_policy(npa_gen: int) -> bool:
    return npa_gen >= 10300


def variants() -> list[tuple[int, bool]]:
    """All (npa_gen, ipv6) that differ from each other. Any version number builds, as the variant it belongs to."""
    return [(npa_gen, ipv6) for npa_gen in NPA_GENERATIONS for ipv6 in (False, True)]


def _flags(direction: str, defines: dict[str, int | None]) -> list[str]:
    switches = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in sorted(defines.items())]
    return ["-O2", "-target", "bpf", "-mcpu=v2", "-Wall", "-Werror", "-Wno-unused-function", *_uapi_include(),
            f"-I{SOURCE_DIR}", f"-DDIRECTION_{direction.upper()}", *switches]  # fmt: skip


def _fingerprint(clang: str, flags: list[str]) -> str:
    digest = hashlib.sha256(f"{clang}\0{chr(0).join(flags)}".encode())
    for path in sorted(SOURCE_DIR.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def compile_datapath(direction: str, defines: dict[str, int | None] | None = None) -> bytes:
    """The ELF object of one direction ("ingress" or "egress"), with -D switches for the layout generation."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r}")
    clang = find_clang()
    flags = _flags(direction, defines or {})
    target = cache_dir() / f"{_fingerprint(clang, flags)}.o"
    if not target.exists():
        _compile(clang, flags, target)
    return target.read_bytes()


def _compile(clang: str, flags: list[str], target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Several test workers may build the same object at once: each writes its own file, the rename is atomic.
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        out = Path(work) / "out.o"
        command = [clang, *flags, "-c", str(SOURCE), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)}\n{done.stderr}")
        out.rename(target)
