"""Whole processes side by side: wall-clock time, and the peak memory that the kernel counted for each."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEAK = str(Path(__file__).with_name("peak.py"))
FINE = (0, 1)
"""Exit codes of a run that counts: 1 is the plugin's "there are findings"."""


@dataclass(frozen=True)
class Command:
    """One process, or several in a pipe; all are started at once. ``stdin``: a file for the first one."""

    name: str
    processes: Sequence[Sequence[str]]
    stdin: str = os.devnull


def command(name: str, *argv: str) -> Command:
    return Command(name, [argv])


@dataclass(frozen=True)
class Sample:
    """Seconds of one run; ``cpu`` of all its processes together, which other work on the machine hardly changes."""

    wall: float
    cpu: float


def run(one: Command) -> Sample:
    """Run it once, output to /dev/null."""
    return _run(one.name, one.processes, one.stdin)


def _run(name: str, processes: Sequence[Sequence[str]], stdin: str) -> Sample:
    with open(stdin, "rb") as source, open(os.devnull, "wb") as nowhere, tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        running: list[subprocess.Popen[bytes]] = []
        for number, argv in enumerate(processes):
            stdout = nowhere if number == len(processes) - 1 else subprocess.PIPE
            given = running[-1].stdout if running else source
            running.append(subprocess.Popen(argv, cwd=ROOT, stdin=given, stdout=stdout, stderr=said))
            if given is not source and given is not None:
                given.close()
        ends = [os.wait4(process.pid, 0) for process in running]
        elapsed = time.perf_counter() - begin
        for process, (_, status, _) in zip(running, ends, strict=True):
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode not in FINE:
                said.seek(0)
                raise SystemExit(f"{name}: exit code {process.returncode}: {said.read().decode(errors='replace')}")
    return Sample(elapsed, sum(usage.ru_utime + usage.ru_stime for _, _, usage in ends))


def peaks(one: Command) -> list[int]:
    """KiB resident at most, per process of the pipe. A run of its own, since asking takes time."""
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory, str(number)) for number in range(len(one.processes))]
        asking = [
            [sys.executable, "-IS", PEAK, str(file), *argv] for file, argv in zip(files, one.processes, strict=True)
        ]
        _run(one.name, asking, one.stdin)
        return [int(file.read_text()) for file in files]


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
        memory = "+".join(f"{peak / 1024:.0f}" for peak in peaks(one))
        line = f"  {one.name:{width}} {median(samples) * 1000:8.0f} {median(samples, 'cpu') * 1000:8.0f} {memory:>9}"
        for base in bases if one not in bases else ():
            wall, cpu = (ratio(found[base.name], samples, what) for what in ("wall", "cpu"))
            line += f"   {f'{wall:.1f} x, {cpu:.1f} x':>20}"
        print(line, flush=True)
