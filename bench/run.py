"""Benchmarks: ratios side by side in one run. `python bench/run.py [NAME ...]`; names: startup, requests, maps,
node, agreement, scale, check_all, archive.

Absolute times depend on the machine; what counts are the ratios of one run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import agreement, archive, check_all, maps, node, scale, timing

ROOT = timing.ROOT
BUNDLE = str(ROOT / "kubectl_netpol" / "examples" / "article.tar.gz")
ROUNDS = 15


def side_by_side(commands: dict[str, list[str]]) -> None:
    """Medians of whole processes, and how many times longer each takes than the first."""
    found = timing.measured([timing.command(name, *argv) for name, argv in commands.items()], ROUNDS)
    base = next(iter(found.values()))
    for name, samples in found.items():
        print(f"  {name:42} {timing.median(samples) * 1000:8.1f} ms {timing.ratio(samples, base):7.1f} x")


def startup() -> None:
    """Whole-process time of --help and of explain on the shipped bundle, against a bare interpreter."""
    plugin = [sys.executable, "-m", "kubectl_netpol"]
    side_by_side(
        {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import kubernetes'": [sys.executable, "-c", "import kubernetes"],
            "version": [*plugin, "version"],
            "--help": [*plugin, "--help"],
            "completion of a flag": [*plugin, "__complete", "explain", "pod/nginx", "--fr"],
            "completion of a pod of a bundle": [*plugin, "__complete", "explain", "--bundle", BUNDLE, "ng"],
            "explain POD --bundle": [*plugin, "explain", "pod/nginx", "--bundle", BUNDLE],
            "explain POD --from POD --port 80 --bundle": [
                *plugin, "explain", "pod/nginx", "--from", "pod/accessfalse", "--port", "80", "--bundle", BUNDLE,
            ],
        }
    )  # fmt: skip


def requests() -> None:
    """API requests of explain and check, counted by the lab's API server (needs root, clang and kubectl)."""
    from tests.lab import article

    with article.cluster() as lab:
        article.build(lab)
        for arguments in (
            ["explain", "pod/nginx"],
            ["explain", "pod/nginx", "--from", "pod/accesstrue", "--port", "80"],
            ["check", "-A", "--api-only"],
            ["check", "-A"],
        ):
            before = len(lab.server.requests)
            argv = [sys.executable, "-m", "kubectl_netpol", *arguments]
            subprocess.run(argv, cwd=ROOT, env=lab.environment(), stdout=subprocess.DEVNULL)
            count = len(lab.server.requests) - before
            print(f"  {' '.join(arguments):52} {count:3} requests")


BENCHMARKS: dict[str, Callable[[], None]] = {
    "startup": startup,
    "requests": requests,
    "maps": maps.main,
    "node": node.main,
    "agreement": agreement.main,
    "scale": scale.main,
    "check_all": check_all.main,
    "archive": archive.main,
}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name].__doc__}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
