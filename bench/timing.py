"""Whole processes side by side: wall-clock time, and the peak memory that the kernel counted for each."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEAK = str(Path(__file__).with_name("peak.py"))
FINE = (0, 1)
"""Exit codes of a run that counts: 1 is the plugin's "there are findings"."""


@dataclass(frozen=True)
class Command:
    """One process. ``stdin``: a file for it. ``then``: what is done here with its output, and counts too; without
    it the output goes to /dev/null."""

    name: str
    argv: Sequence[str]
    stdin: str = os.devnull
    then: Callable[[bytes], None] | None = None


def command(name: str, *argv: str) -> Command:
    return Command(name, argv)


@dataclass(frozen=True)
class Sample:
    """Seconds of one run; ``cpu`` of the process and of what was done with its output, which other work on the
    machine hardly changes."""

    wall: float
    cpu: float


def run(one: Command) -> Sample:
    """Run it once."""
    with open(one.stdin, "rb") as source, tempfile.TemporaryFile() as said:
        begin, own = time.perf_counter(), time.process_time()
        wanted = subprocess.PIPE if one.then else subprocess.DEVNULL
        process = subprocess.Popen(one.argv, cwd=ROOT, stdin=source, stdout=wanted, stderr=said)
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in FINE:
            said.seek(0)
            raise SystemExit(f"{one.name}: exit code {process.returncode}: {said.read().decode(errors='replace')}")
        if one.then:
            one.then(output)
        cpu = usage.ru_utime + usage.ru_stime + (time.process_time() - own if one.then else 0.0)
        return Sample(time.perf_counter() - begin, cpu)


def peak(one: Command) -> int:
    """KiB resident at most in the process. A run of its own, since asking takes time."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "peak")
        run(Command(one.name, [sys.executable, "-IS", PEAK, str(file), *one.argv], one.stdin))
        return int(file.read_text())


def measured(commands: Sequence[Command], rounds: int) -> dict[str, list[Sample]]:
    """All commands in turn, ``rounds`` times, so that a slow moment of the machine hits all of them."""
    for one in commands:
        run(one)
    found: dict[str, list[Sample]] = {one.name: [] for one in commands}
    for _ in range(rounds):
        for one in commands:
            found[one.name].append(run(one))
    return found


def ratio(slow: Sequence[Sample], fast: Sequence[Sample], what: str = "wall") -> float:
    """How many times more wall-clock or cpu time ``slow`` takes: the median over the rounds."""
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in zip(slow, fast, strict=True)))


def median(samples: Sequence[Sample], what: str = "wall") -> float:
    return float(statistics.median(getattr(sample, what) for sample in samples))


def compare(commands: Sequence[Command], bases: Sequence[Command], rounds: int) -> None:
    """Print median wall-clock and cpu time and peak memory of each, and how many times less than each of ``bases``
    the rest takes, by wall-clock and by cpu time."""
    found = measured(commands, rounds)
    width = max(map(len, found))
    heads = "".join(f"   {base.name:>20}" for base in bases)
    print(f"  {'':{width}}  wall ms   cpu ms  peak MiB{heads} (wall, cpu)")
    for one in commands:
        samples = found[one.name]
        times = f"{median(samples) * 1000:8.0f} {median(samples, 'cpu') * 1000:8.0f}"
        line = f"  {one.name:{width}} {times} {peak(one) / 1024:9.0f}"
        for base in bases if one not in bases else ():
            wall, cpu = (ratio(found[base.name], samples, what) for what in ("wall", "cpu"))
            line += f"   {f'{wall:.1f} x, {cpu:.1f} x':>20}"
        print(line, flush=True)
