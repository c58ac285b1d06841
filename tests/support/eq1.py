"""Eq. 1 as one number: of the package, and as loops over queries and keys by its own reference."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor

from icon_dist.losses import reference
from icon_dist.losses.info_nce import info_nce_sums, mean_of_categories
from icon_dist.losses.sampling import Queries
from icon_dist.types import KeySet


def info_nce_loss(*arguments: Any, **options: Any) -> Tensor:
    """Mean of L_i over the queries of a category, then over the categories; arguments as ``info_nce_sums``."""
    return mean_of_categories(*info_nce_sums(*arguments, **options))


def literal(queries: Queries, keys: list[KeySet], *, hn: int, strategy: str, others_only: bool, tau: float) -> Tensor:
    """The mean over the queries of a category, then over categories."""
    losses: dict[int, list[Tensor]] = defaultdict(list)
    for query, category, owner, active in zip(
        queries.features, queries.category.tolist(), queries.owner.tolist(), queries.active.tolist(), strict=True
    ):
        positives: list[Tensor] = []
        others: dict[int, list[Tensor]] = defaultdict(list)
        for some in keys:
            for c, s in some.valid.nonzero().tolist():
                same = int(some.instance[c, s]) == owner
                if c == category and not same:
                    positives.append(some.features[c, s])
                if c != category and not (others_only and same):
                    others[c].append(some.features[c, s])
        chosen = reference.negative_categories(query, others, strategy=strategy, count=hn, luck={}, score="mean")
        negatives = [key for c in sorted(chosen) for key in others[c]]
        if active and positives and negatives:
            losses[category].append(reference.query_loss(query, positives, negatives, tau=tau))
    return reference.mean_over_categories(losses) + 0 * queries.features.sum()
