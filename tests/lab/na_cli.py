"""Builds the stand-in for aws-eks-na-cli and puts it where a node has the real one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import build
from .node import Node

SOURCE = Path(__file__).parent / "na_cli.c"
PATH = "/opt/cni/bin/aws-eks-na-cli"
FLAGS = ["-O2", "-static", "-Wall", "-Werror"]


def compile_cli(npa_gen: int, ipv6: bool = False) -> Path:
    """A static program that prints as the CLI of that agent (1.3.7 -> 10307) does."""
    return compile_static(SOURCE, f"-DNPA_GEN={npa_gen}", *(["-DNPA_IPV6"] if ipv6 else []))


def compile_static(source: Path, *switches: str) -> Path:
    """A program that needs nothing of the file system that it runs in. Built once per source and switches."""
    clang = build.find_clang()
    flags = [*FLAGS, *switches]
    digest = hashlib.sha256(f"{clang}\0{chr(0).join(flags)}\0".encode() + source.read_bytes()).hexdigest()[:24]
    target = build.cache_dir() / f"{source.stem.replace('_', '-')}-{digest}"
    if not target.exists():
        _compile([clang, *flags, str(source)], target)
    return target


def _compile(command: list[str], target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Several test workers may build the same program at once: each writes its own file, the rename is atomic.
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        out = Path(work) / "program"
        done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise build.BuildError(f"{' '.join(command)}\n{done.stderr}")
        out.rename(target)


def install(node: Node, npa_gen: int, ipv6: bool = False, path: str = PATH) -> None:
    """Put it into a node's file system, where a path below /opt/cni/bin and /run is the node's own.

    /usr is the machine's: a path there is only seen as if it were there (a bind in the node's mount namespace over
    an existing file is up to the caller).
    """
    target = Path(f"{node.root}{path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.new")
    shutil.copyfile(compile_cli(npa_gen, ipv6), work)
    work.chmod(0o755)
    # A rename, so that one that runs is not written to.
    os.replace(work, target)
