"""How long the archive for krew takes to start, in the forms that PyInstaller has."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from bench import timing

ROOT = timing.ROOT
BUNDLE = str(ROOT / "kubectl_netpol" / "examples" / "article.tar.gz")
ROUNDS = 15
FORMS = {"": "folder, modules as files", "packed": "folder, modules in one archive", "onefile": "one file"}
"""NETPOL_FORM of krew/netpol-ebpf.spec: the first is the one that is shipped."""


def _interpreter() -> str:
    """The one that is in the archive, not a shell script in front of it."""
    python = ROOT / ".build" / "product" / "bin" / "python"
    return str(python.resolve())


def _built(form: str, directory: Path) -> Path:
    """The program in one form."""
    output = directory / (form or "shipped")
    subprocess.run([ROOT / "krew" / "build", output], env={**os.environ, "NETPOL_FORM": form}, check=True)
    (archive,) = output.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", output], check=True)
    return output / "kubectl-netpol_ebpf"


def main() -> None:
    """Whole-process time of the archive's program, by form, against a bare interpreter of the same build: wall-clock
    and CPU time, and how many times longer than the bare one."""
    with tempfile.TemporaryDirectory() as directory:
        commands = [timing.command("python -c pass", _interpreter(), "-c", "pass")]
        for form, name in FORMS.items():
            program = str(_built(form, Path(directory)))
            for arguments in (["version"], ["--help"], ["explain", "pod/nginx", "--bundle", BUNDLE]):
                commands.append(timing.command(f"{name}: {arguments[0]}", program, *arguments))
        found = timing.measured(commands, ROUNDS)
    bare = found["python -c pass"]
    for name, samples in found.items():
        wall, cpu = (
            f"{timing.median(samples, of) * 1000:7.1f} ms {timing.ratio(samples, bare, of):5.1f} x"
            for of in ("wall", "cpu")
        )
        print(f"  {name:42} {wall}   cpu {cpu}")
