"""Sampling of queries, and of categories that their negatives come from: hard, random or all (paper Table 7).

A token is one point of one joint, or of one limb, of one instance; its category is that joint or limb. Choices are
masks over all tokens of a batch, so that shapes are static and a GPU never waits for the host.

Random numbers are a pure function of counters (seed, step, instance, category): any number of ranks draws the same
numbers for the same instances, and nothing has to be saved.
Where embeddings are read from the map is in ``tokens.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.losses.tokens import Tokens
from icon_dist.tensors.random import uniform
from icon_dist.types import DeviceStep, KeySet

PURPOSES = (0, 1, 2, 3, 4, 100, 101, 102)  # of the keys of a step: exchange, queries and negatives, hard views
Count = int | tuple[int, int]  # fixed, or drawn uniformly from low .. high inclusive (random sampling only)


@dataclass(frozen=True)
class Draw:
    """How categories are chosen: the ``count`` of them that are best (``hard``), as many at ``random``, or ``all``."""

    strategy: str
    count: Count = 1
    key: int | Int64[Tensor, ""] = 0  # of all random numbers

    def most(self, available: int) -> int:
        """How many can be chosen of those that are ``available``."""
        high = self.count if isinstance(self.count, int) else self.count[1]
        return available if self.strategy == "all" else min(high, available)

    def mean(self, most: int) -> float:
        """How many are chosen on average, where ``all`` are ``most``."""
        if self.strategy == "all":
            return most
        return self.count if isinstance(self.count, int) else sum(self.count) / 2


@dataclass(frozen=True)
class Queries:
    """The queries of a batch, one a row (i in the paper's Eq. 1)."""

    features: Float[Tensor, "A m"]  # unit norm
    category: Int64[Tensor, " A"]
    owner: Int64[Tensor, " A"]  # the instance that the token belongs to, or its image: a positive has another owner
    instance: Int64[Tensor, " A"]  # random numbers are drawn for it
    active: Bool[Tensor, " A"]  # whether the row counts: the others are padding


@dataclass(frozen=True)
class Negatives:
    """What a query is pushed away from (n in the paper's Eq. 1)."""

    draw: Draw  # of Hn other categories
    score: str = "mean"  # mean | max: cosine to the keys of a category, by which hard ones are ranked
    others_only: bool = False  # never of the query's own owner
    most: int = 0  # keys of each category, chosen at random for all queries alike (paper Table 8); 0 = all


# ---------------------------------------------------------------------------------------------- random numbers, choices


def key_of(*counters: int) -> int:
    """One well-mixed 63-bit key of some counters, such as (seed, step, purpose)."""
    return int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_key(seed: int, step: int | DeviceStep, purpose: int) -> int | Int64[Tensor, ""]:
    """The key of what is drawn in a step for a purpose."""
    return step.keys[purpose] if isinstance(step, DeviceStep) else key_of(seed, step, purpose)


def draw_count(
    count: Count, key: int | Int64[Tensor, ""], instance: Int64[Tensor, " rows"], *, most: int
) -> Int64[Tensor, " rows"]:
    """How many categories each row's instance takes, clipped to the ``most`` there are."""
    low, high = (count, count) if isinstance(count, int) else count
    low, high = min(low, most), min(high, most)
    if low == high:
        return torch.full_like(instance, low)
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
    instance: Int64[Tensor, " A"],
) -> Bool[Tensor, "A C"]:
    """Which of the ``allowed`` categories are the negative ones of each query of a ``category`` of an ``instance``."""
    if draw.strategy == "all":
        return allowed
    categories = torch.arange(allowed.shape[1], device=allowed.device)
    count = draw_count(draw.count, draw.key, instance, most=len(categories) - 1)
    if draw.strategy == "random":
        score = uniform(draw.key, instance[:, None], category[:, None], categories).to(score.dtype)
    return choose(score, allowed, count)


# -------------------------------------------------------------------------------------------------------------- queries


def hard_scores(
    heatmaps: Float[Tensor, "N K h w"],
    errors: Float[Tensor, "N K"],
    present: Bool[Tensor, "N K"],
    *,
    entropy: str = "heatmap",
    scope: str = "person",
) -> Float[Tensor, "N K"]:
    """``E / sum E + l / sum l`` over the present joints of an instance, or of the batch; 0 for the others.

    E is the entropy of the heatmap as a distribution over its pixels, or of its peak as a probability; l is the error.
    """
    uncertainty = (heatmap_entropy if entropy == "heatmap" else peak_entropy)(heatmaps.to(errors.dtype))
    return _share(uncertainty * present, scope) + _share(errors * present, scope)


def heatmap_entropy(heatmaps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K"]:
    """Entropy of ``relu(heatmap) / sum`` in units of the largest there is, log(h w).

    A heatmap without any positive pixel says nothing about the joint: its entropy is that largest one.
    """
    mass = heatmaps.flatten(2).relu()
    total = mass.sum(2)
    entropy = torch.special.entr(mass).sum(2) / total + total.log()  # sum_i -p_i log p_i of p = mass / total
    return torch.where(total > 0, entropy / math.log(mass.shape[2]), 1.0)


def peak_entropy(heatmaps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K"]:
    """Entropy of a yes or no, in bits, with the peak as the probability of a yes: 1 at a peak of .5, 0 at 0 and 1."""
    peak = heatmaps.amax((2, 3)).clamp(0, 1)
    entropy: Tensor = (torch.special.entr(peak) + torch.special.entr(1 - peak)) / math.log(2)
    return entropy


def limb_scores(score: Float[Tensor, "N K"], limbs: Int64[Tensor, "P R"]) -> Float[Tensor, "N P"]:
    """A limb is as hard as its joints together."""
    return score[:, limbs].sum(2)


def choose_queries(
    draw: Draw,
    score: Float[Tensor, "N C"],
    present: Bool[Tensor, "N C"],
    instance: Int64[Tensor, " N"],
    *,
    scope: str = "person",
) -> Bool[Tensor, "N C"]:
    """Which present categories of each instance are queries: Q of them (``draw.count``), or as many in the whole batch.

    The batch is this rank's micro-batch: with scope ``batch``, N ranks do not equal one rank on the joined batch.
    """
    if draw.strategy == "all":
        return present
    rows, classes = present.shape
    count = draw_count(draw.count, draw.key, instance, most=classes)
    if draw.strategy == "random":
        score = uniform(draw.key, instance[:, None], torch.arange(classes, device=score.device)).to(score.dtype)
    if scope == "person":
        return choose(score, present, count)
    return choose(score.view(1, -1), present.view(1, -1), count.sum(0, keepdim=True)).view(rows, classes)


def limit_queries(
    is_query: Bool[Tensor, "N C T"], instance: Int64[Tensor, " N"], *, most: int, key: int | Int64[Tensor, ""]
) -> Bool[Tensor, "N C T"]:
    """At most ``most`` points of each category, chosen at random; of this rank, whatever the others have."""
    rows, classes, points = is_query.shape
    category, point = (torch.arange(n, device=is_query.device) for n in (classes, points))
    luck = uniform(key, instance[:, None, None], category[:, None], point).transpose(0, 1).flatten(1)
    kept = choose(luck, is_query.transpose(0, 1).flatten(1), torch.full((1,), most, device=is_query.device))
    return kept.view(classes, rows, points).transpose(0, 1)


def query_tokens(
    draw: Draw, tokens: Tokens, instance: Int64[Tensor, " N"], *, scope: str = "person", most: int = 0
) -> Bool[Tensor, "N C T"]:
    """Which tokens are queries: all points of the chosen categories, or at most ``most`` points of each category."""
    chosen = choose_queries(draw, tokens.score, tokens.active[..., 0], instance, scope=scope)
    is_query = tokens.active & chosen[..., None]
    return limit_queries(is_query, instance, most=most, key=draw.key) if most else is_query


def most_queries(draw: Draw, *, shape: Sequence[int], most: int) -> int:
    """How many of ``[N, C, T]`` points can be queries; ``most`` of a category, 0 = no limit."""
    rows, classes, points = shape
    return min(rows * draw.most(classes) * points, classes * most or rows * classes * points)


def first_rows(is_query: Bool[Tensor, "N C T"], limit: int) -> tuple[Int64[Tensor, " A"], Bool[Tensor, " A"]]:
    """``limit`` rows of the flattened tokens, the queries first and in order, and which of them are queries."""
    flat = is_query.flatten()
    rows = flat.long().argsort(descending=True, stable=True)[:limit]
    return rows, flat[rows]


def query_rows(
    tokens: Tokens,
    is_query: Bool[Tensor, "N C T"],
    *,
    instance: Int64[Tensor, " N"],
    owner: Int64[Tensor, " N"],
    limit: int,
) -> Queries:
    """The query tokens, one a row, in ``limit`` rows."""
    _, classes, points = is_query.shape
    row, active = first_rows(is_query, limit)
    n = row // (classes * points)
    features = tokens.features.flatten(0, 2).index_select(0, row)
    return Queries(features, row // points % classes, owner[n], instance[n], active)


def _share(x: Float[Tensor, "N K"], scope: str) -> Float[Tensor, "N K"]:
    total = x.sum(1, keepdim=True) if scope == "person" else x.sum()
    return torch.where(total > 0, x / total, 0.0)


# ------------------------------------------------------------------------------------------------------------ negatives


def limit_negatives(valid: Bool[Tensor, "C S"], most: int, *, key: int | Int64[Tensor, ""]) -> Bool[Tensor, "C S"]:
    """At most ``most`` keys of each category, chosen at random: the same ones for all queries of a step.

    Our reading of the paper's Table 8, "negatives per class". Not the newest: a large batch would shut out the bank.
    """
    category, place = (torch.arange(n, device=valid.device) for n in valid.shape)
    return choose(uniform(key, category[:, None], place), valid, torch.full((1,), most, device=valid.device))


def choose_negatives(queries: Queries, keys: KeySet, negatives: Negatives) -> Bool[Tensor, "A C"]:
    """The negative categories of each query: never its own, never one without a key.

    Random ones are the same for all points of an instance's joint.
    """
    categories = torch.arange(len(keys.valid), device=queries.category.device)
    if negatives.others_only or (negatives.score == "max" and negatives.draw.strategy == "hard"):
        scores, some = _scores_by_key(queries, keys, negatives)
    else:
        # mean_s cos(q, k_s) = q . mean_s k_s: one [A, m] x [m, C] product instead of all keys
        number = keys.valid.sum(1)
        total = torch.bmm(keys.valid[:, None].to(queries.features), keys.features)[:, 0]
        scores = queries.features @ (total / number.clamp(min=1)[:, None]).T
        some = (number > 0).expand_as(scores)
    allowed = some & (queries.category[:, None] != categories)
    return choose_categories(negatives.draw, scores, allowed, queries.category, queries.instance)


def _scores_by_key(
    queries: Queries, keys: KeySet, negatives: Negatives
) -> tuple[Float[Tensor, "A C"], Bool[Tensor, "A C"]]:
    """The score of each category for each query, and whether it has any key for it."""
    scores, some = [], []
    for features, valid, owner in zip(keys.features, keys.valid, keys.instance, strict=True):
        # By category: the whole [A, C, S] would be large.
        cosine = queries.features @ features.T
        allowed = valid & (owner != queries.owner[:, None]) if negatives.others_only else valid.expand_as(cosine)
        if negatives.score == "max":
            scores.append(cosine.masked_fill_(~allowed, -torch.inf).amax(1))
        else:
            scores.append((cosine * allowed).sum(1) / allowed.sum(1).clamp(min=1))
        some.append(allowed.any(1))
    return torch.stack(scores, 1), torch.stack(some, 1)
