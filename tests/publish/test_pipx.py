"""pipx, as the README says it: both commands are on its path, and it leaves nothing when it takes them away."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .packages import build, check_installed, pip, run


def pipx_of(directory: Path) -> Path:
    """The one of PATH, or a new one."""
    found = shutil.which("pipx")
    if found:
        return Path(found)
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    pip("install", "--quiet", "--no-compile", "pipx", python=directory / "bin" / "python")
    return directory / "bin" / "pipx"


def test_pipx(tmp_path: Path) -> None:
    wheel = build(tmp_path / "build").wheel
    pipx, home, scripts = pipx_of(tmp_path / "pipx"), tmp_path / "home", tmp_path / "bin"
    env = {"PIPX_HOME": str(home), "PIPX_BIN_DIR": str(scripts), "PIPX_MAN_DIR": str(home / "man"), "HOME": str(home)}
    env["PIPX_DEFAULT_PYTHON"] = getattr(sys, "_base_executable", sys.executable)
    # HOME is another one: pip's own settings are the user's all the same.
    configs = [Path.home() / ".config" / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf"]
    for config in configs if "PIP_CONFIG_FILE" not in os.environ else ():
        if config.exists():
            env["PIP_CONFIG_FILE"] = str(config)
    said = run(pipx, "install", wheel, **env)
    assert "kubectl-netpol_ebpf" in said and "kubectl_complete-netpol_ebpf" in said
    assert sorted(path.name for path in scripts.iterdir()) == ["kubectl-netpol_ebpf", "kubectl_complete-netpol_ebpf"]
    check_installed(scripts)
    run(pipx, "uninstall", "kubectl-netpol-ebpf", **env)
    assert list(scripts.iterdir()) == []
