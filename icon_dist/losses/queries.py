"""Which joints, or limb pairs, of which people ask (METHOD 2.8, 2.10): ALL, RANDOM or HARD (paper Table 7), within each
person or within the batch, and at most so many points of a category (Table 8).

Everything is a mask over a micro-batch's tokens until :func:`first_rows`, so that shapes are static.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.losses.sampling import Draw, choose, draw_count, uniform


@dataclass(frozen=True)
class Queries:
    """Tokens that ask, one a row (i in the paper's Eq. 1)."""

    features: Float[Tensor, "A m"]
    category: Int64[Tensor, " A"]
    owner: Int64[Tensor, " A"]  # whose the token is, the person's id or the photo's: a positive has another
    person: Int64[Tensor, " A"]  # random draws are for it
    active: Bool[Tensor, " A"]  # whether the row counts: the others are padding


def hard_scores(
    heatmaps: Float[Tensor, "N K h w"],
    errors: Float[Tensor, "N K"],
    present: Bool[Tensor, "N K"],
    *,
    entropy: str = "heatmap",
    scope: str = "person",
) -> Float[Tensor, "N K"]:
    """``E / sum E + l / sum l`` over the present joints of a person, or of the batch; 0 for the others.

    E is the entropy of the heatmap as a distribution over its pixels, or of its peak as a probability.
    """
    uncertainty = (heatmap_entropy if entropy == "heatmap" else peak_entropy)(heatmaps.to(errors.dtype))
    return _share(uncertainty * present, scope) + _share(errors * present, scope)


def heatmap_entropy(heatmaps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K"]:
    """Entropy of ``relu(heatmap) / sum`` in units of the largest there is, log(h w).

    A heatmap without any positive pixel says nothing about the joint: its entropy is that largest one.
    """
    mass = heatmaps.flatten(2).relu()
    total = mass.sum(2, keepdim=True)
    even = torch.full_like(mass, 1 / mass.shape[2])
    share = torch.where(total > 0, mass / total, even)
    entropy: Tensor = torch.special.entr(share).sum(2) / math.log(mass.shape[2])
    return entropy


def peak_entropy(heatmaps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K"]:
    """Entropy of a yes or no, in bits, with the peak as the probability of a yes: 1 at a peak of .5, 0 at 0 and 1."""
    peak = heatmaps.amax((2, 3)).clamp(0, 1)
    entropy: Tensor = (torch.special.entr(peak) + torch.special.entr(1 - peak)) / math.log(2)
    return entropy


def pair_scores(score: Float[Tensor, "N K"], limbs: Int64[Tensor, "P 2"]) -> Float[Tensor, "N P"]:
    """A pair is as hard as its two ends together."""
    return score[:, limbs].sum(2)


def choose_queries(
    draw: Draw,
    score: Float[Tensor, "N C"],
    present: Bool[Tensor, "N C"],
    person: Int64[Tensor, " N"],
    *,
    scope: str = "person",
) -> Bool[Tensor, "N C"]:
    """Which present categories of each person ask: Q of them (``draw.count``), or of the whole batch as many in all.

    The batch is this rank's micro-batch: with scope ``batch``, N ranks do not equal one rank on the joined batch.
    """
    if draw.strategy == "all":
        return present
    people, classes = present.shape
    wanted = draw_count(draw.count, draw.key, person, most=classes)
    if draw.strategy == "random":
        score = uniform(draw.key, person[:, None], torch.arange(classes, device=score.device)).to(score.dtype)
    if scope == "person":
        return choose(score, present, wanted)
    return choose(score.view(1, -1), present.view(1, -1), wanted.sum(0, keepdim=True)).view(people, classes)


def limit_queries(
    asks: Bool[Tensor, "N C T"], person: Int64[Tensor, " N"], *, most: int, key: int | Int64[Tensor, ""]
) -> Bool[Tensor, "N C T"]:
    """At most ``most`` points of each category, chosen at random; of this rank, whatever the others have."""
    people, classes, points = asks.shape
    category, point = (torch.arange(n, device=asks.device) for n in (classes, points))
    luck = uniform(key, person[:, None, None], category[:, None], point).transpose(0, 1).flatten(1)
    kept = choose(luck, asks.transpose(0, 1).flatten(1), torch.full((1,), most, device=asks.device))
    return kept.view(classes, people, points).transpose(0, 1)


def most_queries(draw: Draw, *, shape: tuple[int, int, int], most: int) -> int:
    """How many of ``[N, C, T]`` points can ask; ``most`` of a category, 0 = no limit."""
    people, classes, points = shape
    high = draw.count if isinstance(draw.count, int) else draw.count[1]
    width = classes if draw.strategy == "all" else min(high, classes)
    return min(people * width * points, classes * most or people * classes * points)


def first_rows(asks: Bool[Tensor, "N C T"], limit: int) -> tuple[Int64[Tensor, " A"], Bool[Tensor, " A"]]:
    """``limit`` rows of the flattened tokens, those that ask first and in order, and which of them do."""
    flat = asks.flatten()
    rows = flat.long().argsort(descending=True, stable=True)[:limit]
    return rows, flat[rows]


def _share(x: Float[Tensor, "N K"], scope: str) -> Float[Tensor, "N K"]:
    total = x.sum(1, keepdim=True) if scope == "person" else x.sum()
    return torch.where(total > 0, x / total, 0.0)
