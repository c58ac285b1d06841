"""Which categories of a person ask, and which categories they are compared with (METHOD 2.8 - 2.10).

Randomness is a pure function of counters (seed, step, person, category): any number of ranks draws the same numbers
for the same people, and nothing has to be saved.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.types import KeySet

Count = int | tuple[int, int]  # fixed, or drawn uniformly from low .. high inclusive (random sampling only)


def key_of(*counters: int) -> int:
    """One well-mixed 63-bit key of some counters, such as (seed, step, purpose)."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def uniform(key: int, *counters: Int64[Tensor, ...]) -> Float[Tensor, ...]:
    """Uniform numbers in [0, 1), one per element of the broadcast counters (splitmix64 steps)."""
    state = torch.full((), key, device=counters[0].device)
    for counter in counters:
        state = _splitmix64(state + counter)
    return _shift(state, 11).double() * 2.0**-53


def draw_count(count: Count, key: int, instance: Int64[Tensor, " rows"], *, most: int) -> Int64[Tensor, " rows"]:
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


def hard_scores(
    heatmaps: Float[Tensor, "N K h w"], errors: Float[Tensor, "N K"], present: Bool[Tensor, "N K"]
) -> Float[Tensor, "N K"]:
    """``E / sum E + l / sum l`` over a person's present joints; 0 for the others.

    E is the entropy of the heatmap as a distribution over its pixels. A heatmap without any positive pixel says
    nothing about the joint: its entropy is the largest there is, log(h w).
    """
    mass = heatmaps.to(errors.dtype).flatten(2).relu()
    total = mass.sum(2, keepdim=True)
    even = torch.full_like(mass, 1 / mass.shape[2])
    entropy = torch.special.entr(torch.where(total > 0, mass / total, even)).sum(2) / np.log(mass.shape[2])
    return _share(entropy * present) + _share(errors * present)


def pair_scores(score: Float[Tensor, "N K"], limbs: Int64[Tensor, "P 2"]) -> Float[Tensor, "N P"]:
    """A pair is as hard as its two ends together."""
    return score[:, limbs].sum(2)


def choose_queries(
    strategy: str,
    count: Count,
    score: Float[Tensor, "N C"],
    present: Bool[Tensor, "N C"],
    instance: Int64[Tensor, " N"],
    *,
    key: int,
) -> tuple[Int64[Tensor, "N Q"], Bool[Tensor, "N Q"]]:
    """The categories each person asks with, as ``[N, Q]`` indices (static shape) and which of them are real."""
    categories = torch.arange(present.shape[1], device=present.device)
    if strategy == "all":
        return categories.expand_as(present), present
    wanted = draw_count(count, key, instance, most=len(categories))
    if strategy == "random":
        score = uniform(key, instance[:, None], categories).to(score.dtype)
    chosen = choose(score, present, wanted)
    width = min(count if isinstance(count, int) else count[1], len(categories))
    index = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :width]  # the chosen ones first
    return index, chosen.gather(1, index)


def choose_negatives(
    strategy: str,
    count: Count,
    query: Float[Tensor, "A m"],
    category: Int64[Tensor, " A"],
    instance: Int64[Tensor, " A"],
    keys: list[KeySet],
    *,
    others_only: bool,
    person: Int64[Tensor, " A"],
    key: int,
) -> Bool[Tensor, "A C"]:
    """The categories each query is compared with: never its own, never one without a candidate.

    Hard: by mean cosine to the category's candidates. Random: drawn for each ``person``, the same for all points of a
    joint. ``instance`` is who owns a query, as in the keys.
    """
    categories = torch.arange(len(keys[0].valid), device=query.device)
    other = category[:, None] != categories
    if others_only:
        score, some = _mean_cosine_of_others(query, instance, keys)
    else:
        # mean_s cos(q, k_s) = q . mean_s k_s: one [A, m] x [m, C] product instead of all candidates
        number = sum(k.valid.sum(1) for k in keys)
        total = sum(torch.bmm(k.valid[:, None].to(query), k.features.detach().to(query))[:, 0] for k in keys)
        assert isinstance(number, Tensor)
        assert isinstance(total, Tensor)
        score = query @ (total / number.clamp(min=1)[:, None]).T
        some = (number > 0).expand_as(score)
    return choose_categories(strategy, count, score, other & some, category, person, key=key)


def choose_categories(
    strategy: str,
    count: Count,
    score: Float[Tensor, "A C"],
    allowed: Bool[Tensor, "A C"],
    category: Int64[Tensor, " A"],
    instance: Int64[Tensor, " A"],
    *,
    key: int,
) -> Bool[Tensor, "A C"]:
    """The ``count`` best by score, as many at random, or all, of the categories that a query may be compared with."""
    if strategy == "all":
        return allowed
    categories = torch.arange(allowed.shape[1], device=allowed.device)
    wanted = draw_count(count, key, instance, most=len(categories) - 1)
    if strategy == "random":
        score = uniform(key, instance[:, None], category[:, None], categories).to(score.dtype)
    return choose(score, allowed, wanted)


def _mean_cosine_of_others(
    query: Float[Tensor, "A m"], instance: Int64[Tensor, " A"], keys: list[KeySet]
) -> tuple[Float[Tensor, "A C"], Bool[Tensor, "A C"]]:
    total = query.new_zeros(len(query), len(keys[0].valid))
    number = torch.zeros_like(total)
    for k in keys:
        for c in range(total.shape[1]):  # by category: the whole [A, C, S] would be large
            others = (k.valid[c] & (k.instance[c] != instance[:, None])).to(query)
            total[:, c] += (query @ k.features[c].detach().to(query).T * others).sum(1)
            number[:, c] += others.sum(1)
    return total / number.clamp(min=1), number > 0


def _share(x: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    total = x.sum(1, keepdim=True)
    return torch.where(total > 0, x / total, 0.0)


def _splitmix64(x: Int64[Tensor, ...]) -> Int64[Tensor, ...]:
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x: Int64[Tensor, ...], bits: int) -> Int64[Tensor, ...]:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
