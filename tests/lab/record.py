"""Records the shipped example bundle and the README's terminal picture from a running lab."""

from __future__ import annotations

import html
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from . import article, cni_objects
from .cluster import LabCluster
from .flowlog import FlowLog

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


COLOURS = {"31": "#e06c75", "32": "#98c379", "33": "#e5c07b"}
WIDTH, HEIGHT, MARGIN = 7.83, 18, 14
"""Pixels of one character cell at 13 px, and around the text."""


def picture(command: str, output: str) -> str:
    """An SVG of the terminal: one text element a line, wrapped where the terminal wraps, no font from elsewhere."""
    lines = [piece for line in [f"$ {command}", *output.rstrip().split("\n")] for piece in wrapped(line)]
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + HEIGHT * (number + 1) - 5}" xml:space="preserve">{coloured(line)}</text>'
        for number, line in enumerate(lines)
    )
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}">\n'
        '<rect width="100%" height="100%" rx="6" fill="#1e2127"/>\n'
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13px" fill="#d7dae0">\n'
        f"{rows}\n</g>\n</svg>\n"
    )


def wrapped(line: str) -> list[str]:
    """Cut a line at the terminal's width; escape sequences take no room."""
    pieces, room = [""], COLUMNS
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b"):
            pieces[-1] += part
            continue
        while len(part) > room:
            pieces[-1] += part[:room]
            part, room = part[room:], COLUMNS
            pieces.append("")
        pieces[-1] += part
        room -= len(part)
    return pieces


def coloured(line: str) -> str:
    text = html.escape(line, quote=False)
    text = re.sub(r"\x1b\[(3[123])(?:;1)?m", lambda m: f'<tspan fill="{COLOURS[m[1]]}" font-weight="bold">', text)
    return re.sub(r"\x1b\[0?m", "</tspan>", text)


def main() -> None:
    with article.cluster(generation="1.4.2", agent_pods=True) as lab:
        article.build(lab)
        cni_objects.install(lab)
        lab.settle()
        with FlowLog(lab.agents[article.NODE]) as log:
            wget(lab, "accesstrue")
            wget(lab, "accessfalse")
            log.write()
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
