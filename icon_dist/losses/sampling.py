"""Random numbers without state, and choices of categories: hard, random or all (METHOD 2.8-2.10; paper Table 7).

Randomness is a pure function of counters (seed, step, person, category): any number of ranks draws the same numbers
for the same people, and nothing has to be saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.types import DeviceStep

PURPOSES = (0, 1, 2, 3, 4, 100, 101, 102)  # of the keys of a step: exchange, queries and negatives, hard views
Count = int | tuple[int, int]  # fixed, or drawn uniformly from low .. high inclusive (random sampling only)


@dataclass(frozen=True)
class Draw:
    """How categories are chosen: the ``count`` of them that are best (``hard``), as many at ``random``, or ``all``."""

    strategy: str
    count: Count = 1
    key: int | Int64[Tensor, ""] = 0  # of all random numbers

    def mean(self, most: int) -> float:
        """How many are asked for on average, where ``all`` are ``most``."""
        if self.strategy == "all":
            return most
        return self.count if isinstance(self.count, int) else sum(self.count) / 2


def key_of(*counters: int) -> int:
    """One well-mixed 63-bit key of some counters, such as (seed, step, purpose)."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_key(seed: int, step: int | DeviceStep, purpose: int) -> int | Int64[Tensor, ""]:
    """The key of what is drawn in a step for a purpose."""
    return step.keys[purpose] if isinstance(step, DeviceStep) else key_of(seed, step, purpose)


def uniform(key: int | Int64[Tensor, ""], *counters: Int64[Tensor, ...]) -> Float[Tensor, ...]:
    """Uniform numbers in [0, 1), one per element of the broadcast counters (splitmix64 steps)."""
    state = torch.zeros((), dtype=torch.int64, device=counters[0].device) + key
    for counter in counters:
        state = _splitmix64(state + counter)
    return _shift(state, 11).double() * 2.0**-53


def draw_count(
    count: Count, key: int | Int64[Tensor, ""], instance: Int64[Tensor, " rows"], *, most: int
) -> Int64[Tensor, " rows"]:
    """How many categories each row's person takes, clipped to the ``most`` there are."""
    low, high = (count, count) if isinstance(count, int) else count
    low, high = min(low, most), min(high, most)
    return low + (uniform(key, instance) * (high - low + 1)).long()


def choose(
    score: Float[Tensor, "rows C"], allowed: Bool[Tensor, "rows C"], count: Int64[Tensor, "#rows"]
) -> Bool[Tensor, "rows C"]:
    """The ``count`` best allowed categories of each row (fewer where fewer are allowed); ties go to the lower index."""
    order = score.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    best = torch.arange(score.shape[1], device=score.device) < count[:, None]
    return torch.zeros_like(allowed).scatter(1, order, best.expand_as(order)) & allowed


def choose_categories(
    draw: Draw,
    score: Float[Tensor, "A C"],
    allowed: Bool[Tensor, "A C"],
    category: Int64[Tensor, " A"],
    person: Int64[Tensor, " A"],
) -> Bool[Tensor, "A C"]:
    """Which of the ``allowed`` categories each query, of a ``category`` of a ``person``, is compared with."""
    if draw.strategy == "all":
        return allowed
    categories = torch.arange(allowed.shape[1], device=allowed.device)
    wanted = draw_count(draw.count, draw.key, person, most=len(categories) - 1)
    if draw.strategy == "random":
        score = uniform(draw.key, person[:, None], category[:, None], categories).to(score.dtype)
    return choose(score, allowed, wanted)


def _splitmix64(x: Int64[Tensor, ...]) -> Int64[Tensor, ...]:
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x: Int64[Tensor, ...], bits: int) -> Int64[Tensor, ...]:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
