"""Imports go one way, and the pure rooms do no I/O (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "kubectl_netpol"
PURE = ("model", "kernel", "policy", "diagnose", "redact")
IMPURE_MODULES = {"os", "sys", "io", "time", "datetime", "socket", "subprocess", "pathlib", "threading", "logging"}
MAY_IMPORT = {
    "model": {"model"},
    "kernel": {"kernel", "model"},
    "policy": {"policy", "kernel", "model", "errors"},
    "diagnose": {"diagnose", "policy", "kernel", "model", "errors"},
    "redact": {"redact", "kernel", "model", "errors"},
    "report": {"report", "diagnose", "policy", "kernel", "model", "errors"},
    "cluster": {"cluster", "model", "errors"},
    # Layouts and encoders: texts of tools become the bytes that the reader would have sent.
    "node": {"node", "cluster", "kernel", "model", "errors"},
}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "kubectl_netpol":
                found.update(f"kubectl_netpol.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("kubectl_netpol.")}
        assert rooms - {"__version__"} <= MAY_IMPORT[room], f"{room}/{path.name} imports {rooms - MAY_IMPORT[room]}"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_do_no_io(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        bad = {name.split(".")[0] for name in imports(path)} & IMPURE_MODULES
        assert not bad, f"{room}/{path.name} imports {bad}"
        calls = {n.func.id for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        assert not calls & {"print", "open", "input"}, f"{room}/{path.name}"


def test_only_reports_and_the_edge_print() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        calls = {n.func.id for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        if room not in ("report", "cli.py", "start.py", "progress.py", "helptext.py"):
            assert "print" not in calls, path


def test_help_and_bundles_do_not_import_the_kubernetes_package() -> None:
    """Heavy imports are inside the commands that need them."""
    bundle = PACKAGE / "examples" / "article.tar.gz"
    for arguments in (["--help"], ["explain", "pod/nginx", "--bundle", str(bundle)]):
        code = (
            "import sys; from kubectl_netpol.cli import run; run(sys.argv[1:]); "
            "sys.exit(sorted(m for m in sys.modules if m.split('.')[0] in ('kubernetes', 'websocket', 'urllib3'))[:1])"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert "[]" in done.stderr, done.stderr


def test_an_interrupt_while_the_program_is_loaded_is_one_line() -> None:
    code = """
import sys
from kubectl_netpol import start

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
start.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
