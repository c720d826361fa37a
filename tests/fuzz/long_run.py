"""The long run of one target: `python -m tests.fuzz.long_run TARGET --cases N`; `scripts/fuzz` runs all.

atheris (libFuzzer) keeps the inputs that reach new code of the product and changes those on; where it cannot be
imported, the same changes are made of the seeds alone. A case that does harm is kept by where it failed, one file
each, and the run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

WORK = Path(".fuzz")
ALARM = 60
"""Seconds after which one case hangs."""
EVERY = 50
"""Each of so many inputs is run twice, to see whether the outcome is the same."""
MOST_MEMORY = 3072
"""MiB of the process."""


class HangsError(Exception):
    """One case took longer than ``ALARM``."""


@dataclass
class Run:
    """Counts cases, and keeps one input for each place where the product failed."""

    target: Any
    folder: Path
    cases: int = 0
    harmful: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def one(self, data: bytes) -> None:
        self.cases += 1
        signal.alarm(ALARM)
        try:
            outcome = self.target.outcome(data)
            if self.cases % EVERY == 0 and outcome != self.target.outcome(data):
                raise AssertionError("two outcomes of one input")
        except Exception as error:
            self._keep(data, error)
        finally:
            signal.alarm(0)

    def _keep(self, data: bytes, error: Exception) -> None:
        self.harmful += 1
        where = place(error)
        if where in self.kept:
            return
        name = hashlib.sha256(where.encode()).hexdigest()[:12]
        self.kept[where] = name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)
        (self.folder / f"{name}.txt").write_text(f"{where}\n\n{''.join(traceback.format_exception(error))[-6000:]}")
        print(f"{self.target.name}: {where}: kept as {self.folder / name}", flush=True)

    def summary(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.began, 1)
        return {"target": self.target.name, "cases": self.cases, "seconds": seconds, "places": sorted(self.kept)}


def place(error: BaseException) -> str:
    """Type and innermost line of the product; of the target where the product is not in it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "kubectl_netpol" in f.filename] or [f for f in frames if "fuzz" in f.filename]
    last = own[-1] if own else frames[-1]
    kind = type(error).__name__
    more = f" {error}"[:60] if isinstance(error, AssertionError) else ""
    return f"{kind} at {Path(last.filename).name}:{last.lineno} {last.name}{more}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    asked = parser.parse_args()
    engine = None if asked.plain else _atheris()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if engine is None:
        target = _target(asked.target)
    else:
        with engine.instrument_imports(include=["kubectl_netpol"]):
            target = _target(asked.target)
    signal.signal(signal.SIGALRM, _alarm)
    run = Run(target, WORK / "findings" / target.name)
    cases = asked.cases or target.long
    if engine is None:
        _plain(run, cases, asked.seed)
    else:
        _guided(engine, run, cases, asked.seed)


def _atheris() -> Any:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: cases are made of the seeds alone", file=sys.stderr)
        return None
    return atheris


def _target(name: str) -> Any:
    from tests.fuzz.targets import TARGETS

    if name not in TARGETS:
        sys.exit(f"error: no target {name}; there are {', '.join(TARGETS)}")
    target = TARGETS[name]
    # What is imported late is imported here.
    for seed in target.seeds():
        with contextlib.suppress(Exception):
            target.outcome(seed)
    return target


def _alarm(number: int, frame: object) -> None:
    raise HangsError


def _plain(run: Run, cases: int, seed: int) -> None:
    for number in range(cases):
        run.one(run.target.case(seed * 1_000_000 + number))
    _end(run)


def _guided(engine: Any, run: Run, cases: int, seed: int) -> None:
    corpus = WORK / "corpus" / run.target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in (*run.target.seeds(), *(path.read_bytes() for path in run.target.kept())):
        (corpus / f"seed-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
    largest = max(len(data) for data in run.target.seeds()) * 3 + 4096

    def change(data: bytes, most: int, number: int) -> bytes:
        found = run.target.mutate(data, Random(number))
        return found if len(found) <= most else data

    def one(data: bytes) -> None:
        run.one(data)
        if run.cases >= cases:
            _end(run)
            # libFuzzer does not return.
            sys.stdout.flush()
            os._exit(0)

    flags = ("-runs=-1", f"-seed={seed}", f"-max_len={largest}", f"-rss_limit_mb={MOST_MEMORY}", "-timeout=120")
    engine.Setup(
        [sys.argv[0], *flags, f"-artifact_prefix={WORK}/", "-verbosity=0", str(corpus)], one, custom_mutator=change
    )
    engine.Fuzz()


def _end(run: Run) -> None:
    found = run.summary()
    with (WORK / "runs.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    print(
        f"{found['target']}: {found['cases']} cases in {found['seconds']} s, {len(found['places'])} places", flush=True
    )


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    main()
