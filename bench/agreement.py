"""The model of `kernel.verdict` against the kernel: 100,000 random packets over every datapath variant."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter

from tests.kernel import agreement

CASES, PACKETS = 100_000, 25
"""Cases in all, and packets for each set of random maps."""


def main() -> None:
    """Random maps, states, conntrack tables and packets: does the model say what the loaded program returns?"""
    seed = int(os.environ.get("NETPOL_SEED") or secrets.randbits(32))
    variants = agreement.variants()
    worlds = -(-CASES // (len(variants) * PACKETS))
    print(f"  NETPOL_SEED={seed}, {len(variants)} variants")
    begin = time.perf_counter()
    counts: Counter[str] = Counter()
    for variant in variants:
        for case in agreement.cases(variant, seed, worlds, PACKETS):
            if case.disagreement:
                raise SystemExit(f"NETPOL_SEED={seed}: {case.disagreement}: {case}")
            counts["open" if case.open else "passed" if case.kernel == 0 else "dropped"] += 1
    total = sum(counts.values())
    print(
        f"  {total} cases in {time.perf_counter() - begin:.0f} s, all agree: {counts['passed']} passed, "
        f"{counts['dropped']} dropped, {counts['open']} left open (agents 1.2.x, slots of any protocol with ports)"
    )
