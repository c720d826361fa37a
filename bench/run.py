"""Benchmarks: ratios side by side in one run. `python bench/run.py [NAME ...]`; names: startup, requests.

Absolute times depend on the machine; what counts are the ratios of one run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BUNDLE = str(ROOT / "kubectl_netpol" / "examples" / "article.tar.gz")
ROUNDS = 15


def seconds(argv: list[str]) -> float:
    """Wall-clock time of one whole process."""
    begin = time.perf_counter()
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    elapsed = time.perf_counter() - begin
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(argv)}: exit code {done.returncode}: {done.stderr}")
    return elapsed


def side_by_side(commands: dict[str, list[str]]) -> None:
    """Run all commands in turn, so that a slow moment of the machine hits all of them; print medians and ratios."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, argv in commands.items():
            times[name].append(seconds(argv))
    base = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        print(f"  {name:42} {median * 1000:8.1f} ms {median / base:7.1f} x")


def startup() -> None:
    """Whole-process time of --help and of explain on the shipped bundle, against a bare interpreter."""
    plugin = [sys.executable, "-m", "kubectl_netpol"]
    side_by_side(
        {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import kubernetes'": [sys.executable, "-c", "import kubernetes"],
            "version": [*plugin, "version"],
            "--help": [*plugin, "--help"],
            "explain POD --bundle": [*plugin, "explain", "pod/nginx", "--bundle", BUNDLE],
            "explain POD --from POD --port 80 --bundle": [
                *plugin, "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "--bundle", BUNDLE,
            ],
        }
    )  # fmt: skip


def requests() -> None:
    """API requests per explain, counted by the lab's API server (needs root, clang and kubectl)."""
    from tests.lab import article

    with article.cluster() as lab:
        article.build(lab)
        for arguments in (["pod/nginx"], ["pod/nginx", "--from", "pod/accesstrue", "--port", "80"]):
            before = len(lab.server.requests)
            argv = [sys.executable, "-m", "kubectl_netpol", "explain", *arguments]
            subprocess.run(argv, cwd=ROOT, env=lab.environment(), stdout=subprocess.DEVNULL, check=True)
            count = len(lab.server.requests) - before
            print(f"  explain {' '.join(arguments):45} {count:3} requests")


BENCHMARKS: dict[str, Callable[[], None]] = {"startup": startup, "requests": requests}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name].__doc__}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
