"""Which candidates a query is pushed away from: some of the other categories (METHOD 2.9, 2.10), and of each of them
all candidates or at most so many (paper Table 8)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.losses.sampling import Count, choose, choose_categories, uniform
from icon_dist.types import KeySet


def limit(valid: Bool[Tensor, "C S"], most: int, *, key: int) -> Bool[Tensor, "C S"]:
    """At most ``most`` candidates of each category, chosen at random: the same ones for all queries of a step.

    Our reading of Table 8's "negatives per class". Not the newest: a large batch would then shut out the bank.
    """
    category, place = (torch.arange(n, device=valid.device) for n in valid.shape)
    return choose(uniform(key, category[:, None], place), valid, torch.full((1,), most, device=valid.device))


def choose_negatives(
    strategy: str,
    count: Count,
    query: Float[Tensor, "A m"],
    category: Int64[Tensor, " A"],
    instance: Int64[Tensor, " A"],
    keys: KeySet,
    *,
    others_only: bool,
    score: str = "mean",
    person: Int64[Tensor, " A"],
    key: int,
) -> Bool[Tensor, "A C"]:
    """The categories each query is compared with: never its own, never one without a candidate.

    Hard: by the ``mean`` or the ``max`` cosine to the category's candidates. Random: drawn for each ``person``, the
    same for all points of a joint. ``instance`` is who owns a query, as in the keys.
    """
    categories = torch.arange(len(keys.valid), device=query.device)
    if others_only or (score == "max" and strategy == "hard"):
        scores, some = _scores_by_candidate(query, instance, keys, others_only=others_only, best=score == "max")
    else:
        # mean_s cos(q, k_s) = q . mean_s k_s: one [A, m] x [m, C] product instead of all candidates
        number = keys.valid.sum(1)
        total = torch.bmm(keys.valid[:, None].to(query), keys.features)[:, 0]
        scores = query @ (total / number.clamp(min=1)[:, None]).T
        some = (number > 0).expand_as(scores)
    allowed = some & (category[:, None] != categories)
    return choose_categories(strategy, count, scores, allowed, category, person, key=key)


def _scores_by_candidate(
    query: Float[Tensor, "A m"], instance: Int64[Tensor, " A"], keys: KeySet, *, others_only: bool, best: bool
) -> tuple[Float[Tensor, "A C"], Bool[Tensor, "A C"]]:
    scores, some = [], []
    for features, valid, owner in zip(keys.features, keys.valid, keys.instance, strict=True):
        # By category: the whole [A, C, S] would be large.
        cosine = query @ features.T
        seen = valid & (owner != instance[:, None]) if others_only else valid.expand_as(cosine)
        if best:
            scores.append(cosine.masked_fill_(~seen, -torch.inf).amax(1))
        else:
            scores.append((cosine * seen).sum(1) / seen.sum(1).clamp(min=1))
        some.append(seen.any(1))
    return torch.stack(scores, 1), torch.stack(some, 1)
