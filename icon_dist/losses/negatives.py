"""Which candidates a query is pushed away from: some of the other categories (METHOD 2.9, 2.10), and of each of them
all candidates or at most so many (paper Table 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.losses.queries import Queries
from icon_dist.losses.sampling import Draw, choose, choose_categories, uniform
from icon_dist.types import KeySet


@dataclass(frozen=True)
class Negatives:
    """What a query is pushed away from (n in the paper's Eq. 1)."""

    draw: Draw  # of Hn other categories
    score: str = "mean"  # mean | max: cosine to the candidates of a category, by which hard ones are ranked
    others_only: bool = False  # never the query's own person
    most: int = 0  # candidates of each category, chosen at random for all queries alike (Table 8); 0 = all


def limit(valid: Bool[Tensor, "C S"], most: int, *, key: int | Int64[Tensor, ""]) -> Bool[Tensor, "C S"]:
    """At most ``most`` candidates of each category, chosen at random: the same ones for all queries of a step.

    Our reading of Table 8's "negatives per class". Not the newest: a large batch would then shut out the bank.
    """
    category, place = (torch.arange(n, device=valid.device) for n in valid.shape)
    return choose(uniform(key, category[:, None], place), valid, torch.full((1,), most, device=valid.device))


def choose_negatives(queries: Queries, keys: KeySet, negatives: Negatives) -> Bool[Tensor, "A C"]:
    """The categories each query is compared with: never its own, never one without a candidate.

    Random ones are the same for all points of a person's joint.
    """
    categories = torch.arange(len(keys.valid), device=queries.category.device)
    if negatives.others_only or (negatives.score == "max" and negatives.draw.strategy == "hard"):
        scores, some = _scores_by_candidate(queries, keys, negatives)
    else:
        # mean_s cos(q, k_s) = q . mean_s k_s: one [A, m] x [m, C] product instead of all candidates
        number = keys.valid.sum(1)
        total = torch.bmm(keys.valid[:, None].to(queries.features), keys.features)[:, 0]
        scores = queries.features @ (total / number.clamp(min=1)[:, None]).T
        some = (number > 0).expand_as(scores)
    allowed = some & (queries.category[:, None] != categories)
    return choose_categories(negatives.draw, scores, allowed, queries.category, queries.person)


def _scores_by_candidate(
    queries: Queries, keys: KeySet, negatives: Negatives
) -> tuple[Float[Tensor, "A C"], Bool[Tensor, "A C"]]:
    scores, some = [], []
    for features, valid, owner in zip(keys.features, keys.valid, keys.instance, strict=True):
        # By category: the whole [A, C, S] would be large.
        cosine = queries.features @ features.T
        seen = valid & (owner != queries.owner[:, None]) if negatives.others_only else valid.expand_as(cosine)
        if negatives.score == "max":
            scores.append(cosine.masked_fill_(~seen, -torch.inf).amax(1))
        else:
            scores.append((cosine * seen).sum(1) / seen.sum(1).clamp(min=1))
        some.append(seen.any(1))
    return torch.stack(scores, 1), torch.stack(some, 1)
