"""Records the shipped example bundle and the README's terminal picture from a running lab."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from . import article
from .cluster import LabCluster

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "kubectl_netpol" / "examples" / "article.tar.gz"
PICTURE = ROOT / "docs" / "explain.svg"
COLUMNS = 120


def plugin(lab: LabCluster, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "kubectl_netpol", *arguments]


def wget(lab: LabCluster, pod: str) -> None:
    lab.kubectl("exec", pod, "--", "wget", "--spider", "-T", "1", "-t", "1", "nginx", check=False)


def on_a_terminal(argv: list[str], env: dict[str, str]) -> str:
    """What a command writes when stdout is a terminal, colours included."""
    master, slave = pty.openpty()
    process = subprocess.Popen(argv, stdout=slave, stderr=slave, env={**env, "TERM": "xterm-256color"})
    os.close(slave)
    parts = []
    try:
        while data := os.read(master, 65536):
            parts.append(data)
    except OSError:
        pass  # the terminal's other end is closed
    process.wait()
    os.close(master)
    return b"".join(parts).decode().replace("\r\n", "\n")


def picture(command: str, output: str) -> str:
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))
    console.print(Text(f"$ {command}", style="bold"))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="kubectl netpol-ebpf")
    # No font from elsewhere: the picture must look the same without a network.
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)


def main() -> None:
    with article.cluster() as lab:
        article.build(lab)
        wget(lab, "accesstrue")
        wget(lab, "accessfalse")
        BUNDLE.parent.mkdir(exist_ok=True)
        env = lab.environment(PYTHONPATH=str(ROOT))
        subprocess.run(plugin(lab, "capture", "pod/nginx", "-f", str(BUNDLE)), env=env, check=True)
        question = ["explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80"]
        shown = on_a_terminal(plugin(lab, *question), env)
        # The line that is redrawn while waiting is not part of the picture.
        shown = re.sub(r"[^\n]*\r", "", shown)
        PICTURE.write_text(picture("kubectl netpol-ebpf " + " ".join(question), shown))
        print(shown)


if __name__ == "__main__":
    main()
