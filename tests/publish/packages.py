"""The packages as they would be published, and environments of their own that they are installed into.

Dependencies come from the package index that pip is set up for: without one these tests are skipped, or fail where
NETPOL_LAB_REQUIRED=1 is set, as in CI, which has fetched its own environment from there.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""Those that the project promises."""
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
BUNDLE_NAME = "kubectl_netpol/examples/article.tar.gz"


def run(*argv: str | Path, **env: str) -> str:
    """stdout of a command that has to succeed."""
    keep = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in argv], env={**keep, **env}, cwd="/", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: {done.stdout}{done.stderr}"
    return done.stdout


def pip(*words: str | Path, python: Path | None = None) -> str:
    """This environment's pip, for another one."""
    own = ["--disable-pip-version-check", *(["--python", str(python)] if python else [])]
    return run(sys.executable, "-m", "pip", *own, *words)


@dataclass(frozen=True)
class Dists:
    wheel: Path
    sdist: Path


def build(directory: Path) -> Dists:
    """Of the tracked files, by the hooks of the build backend, as every frontend builds them."""
    source, tools, out = directory / "source", directory / "tools", directory / "dist"
    for name in run("git", "-C", ROOT, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    _fetch_backend(tools)
    out.mkdir()
    sdist = out / run(sys.executable, "-c", HOOK, source, "build_sdist", out, PYTHONPATH=str(tools)).split()[-1]
    wheel = out / run(sys.executable, "-c", HOOK, source, "build_wheel", out, PYTHONPATH=str(tools)).split()[-1]
    return Dists(wheel, sdist)


HOOK = """
import os, sys
from setuptools import build_meta
source, hook, out = sys.argv[1:]
os.chdir(source)
print(getattr(build_meta, hook)(out))
"""


def _fetch_backend(tools: Path) -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert system["build-backend"] == "setuptools.build_meta"
    argv = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--target",
        str(tools),
        *system["requires"],
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    if done.returncode == 0:
        return
    reason = f"no package index to install from: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}"
    if os.environ.get("NETPOL_LAB_REQUIRED"):
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def interpreter(version: str) -> Path | None:
    """A Python of this version that can make environments: of PATH, of pyenv, or where systems have theirs."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)]
    found += [Path(place) / f"python{version}" for place in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")]
    code = "import sys, venv; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    for each in filter(None, found):
        if Path(each).exists():
            done = subprocess.run([str(each), "-c", code], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip() == version:
                return Path(each)
    return None


def check_installed(scripts: Path, *, with_kubernetes: bool = True) -> None:
    """``scripts``: the directory with the installed commands. Nothing of this tree is on any path."""
    env = {"PATH": f"{scripts}:{os.environ['PATH']}", "HOME": str(scripts.parent), "KUBECONFIG": os.devnull}
    with_kubectl = shutil.which("kubectl") is not None
    plugin: tuple[str | Path, ...] = ("kubectl", "netpol-ebpf") if with_kubectl else (scripts / "kubectl-netpol_ebpf",)
    said = run(*plugin, "version", "--client", **env)
    assert said.startswith("Client Version: ")
    # The bundle that came with the package.
    python = (scripts / "kubectl-netpol_ebpf").resolve().parent / "python"
    package = Path(run(python, "-c", "import kubectl_netpol as k; print(k.__path__[0])").strip())
    assert not package.is_relative_to(ROOT) and (package / "py.typed").exists()
    question = (*plugin, "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80")
    done = subprocess.run(
        [*question, "--bundle", package.parent / BUNDLE_NAME],
        env={**os.environ, **env}, cwd="/", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout[:6]) == (1, "DROP: "), done.stderr
    completer = (
        ("kubectl", "__complete", "netpol-ebpf") if with_kubectl else (scripts / "kubectl_complete-netpol_ebpf",)
    )
    assert run(*completer, "expl", **env).splitlines()[0].split("\t")[0] == "explain"
    said = run(*plugin, "completion", "install", **env)
    assert (
        said
        == f"{scripts}/kubectl_complete-netpol_ebpf is there already: it came with the installation of the plugin\n"
    )
    if with_kubernetes:
        # What asks a cluster is there too: it is asked, and is not there.
        done = run(*plugin, "version", "--server", "http://127.0.0.1:1", **env)
        assert "Server Version: unknown" in done
