"""Break runs at random and prove that nothing is lost: ``python -m tests.adversarial.faults --cases 100 --seed 1``.

One line a case, then a summary; exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.s3 import moto_server


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.adversarial.faults", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", default="0", help="another seed, other faults")
    parser.add_argument("--only", metavar="KIND", help="kill, resize, corrupt, ..., or ray")
    options = parser.parse_args()
    from icon_dist.shards.synthetic import Crowd, generate_shards
    from tests.adversarial.faults.campaign import CASES, Campaign

    started = time.monotonic()
    done: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, moto_server(Path(folder)):
        for split, people, seed in (("train", 64, 0), ("val", 24, 1)):
            generate_shards(f"{folder}/{split}", Crowd(people=people, seed=seed), split=split, per_shard=20)
        campaign = Campaign(Path(folder), Path(folder) / "runs")
        kinds = [options.only] if options.only else [kind for kind in CASES if CASES[kind][1]]
        for number in range(options.cases):
            rng = random.Random(f"{options.seed} {number}")
            kind = rng.choices(kinds, [CASES[kind][1] or 1 for kind in kinds])[0]
            done[kind] += 1
            begun = time.monotonic()
            try:
                said = CASES[kind][0](campaign, rng)
            except AssertionError as error:
                lost[kind] += 1
                said = f"FAILED: {error}"
            print(f"{number:>4} {kind:<20}{time.monotonic() - begun:5.1f} s  {said}", flush=True)
    counts = ", ".join(f"{count} x {kind}" for kind, count in done.items())
    print(f"{counts}; seed {options.seed}, {time.monotonic() - started:.0f} s: {sum(lost.values())} failed")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
