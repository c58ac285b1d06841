"""Find how contrast should sample on your data.

python sweeps/tune_sampling.py --cfg NAME|PATH --trials 48 --cost
"""

from __future__ import annotations

import functools

from icon_dist import search
from icon_dist.errors import run_cli
from icon_dist.search import Range

SPACE = {
    "loss.tau": Range(0.03, 0.5, log=True),
    "loss.single.queries": Range(1, 12),  # Q
    "loss.single.negatives": Range(1, 12),  # Hn
    "loss.pair.negatives": Range(1, 7),
    "loss.bank.slots": (128, 256, 512, 1024),
    "loss.max_queries": (32, 128, 512, 0),  # points that ask, per category; 0 = all
    "loss.max_negatives": (64, 256, 512, 0),  # candidates of a category; 0 = all
}
PAPER = {
    "loss.tau": 0.07,
    "loss.single.queries": 5,
    "loss.single.negatives": 6,
    "loss.pair.negatives": 4,
    "loss.bank.slots": 512,
    "loss.max_queries": 0,  # 16 people with 16 points: the 256 of the paper
    "loss.max_negatives": 512,
}

if __name__ == "__main__":
    run_cli(functools.partial(search.main, name="sampling", about=__doc__.splitlines()[0], space=SPACE, paper=PAPER))
