"""The paper's Eq. 1 as loops: what the fast implementation is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from icon_dist.losses.queries import Queries
from icon_dist.types import KeySet


def literal(
    queries: Queries,
    keys: list[KeySet],
    *,
    hn: int,
    strategy: str,
    others_only: bool,
    tau: float,
) -> Tensor:
    """Eq. 1 with a Python loop over everything; mean over categories that ask."""
    query, classes = queries.features, len(keys[0].valid)
    per_category: dict[int, list[Tensor]] = {}
    for a in range(len(query)):
        if not queries.active[a]:
            continue
        mine, person = int(queries.category[a]), int(queries.owner[a])
        positives: list[Tensor] = []
        candidates: dict[int, list[Tensor]] = {}
        for keyset in keys:
            for c in range(classes):
                for s in range(keyset.valid.shape[1]):
                    if not keyset.valid[c, s]:
                        continue
                    cosine = (query[a] * keyset.features[c, s]).sum()
                    same_person = int(keyset.instance[c, s]) == person
                    if c == mine and not same_person:
                        positives.append(cosine)
                    if c != mine and not (others_only and same_person):
                        candidates.setdefault(c, []).append(cosine)
        if strategy == "hard":
            ranked = sorted(candidates, key=lambda c: (-torch.stack(candidates[c]).mean().item(), c))
            candidates = {c: candidates[c] for c in ranked[:hn]}
        negatives = [s for c in candidates for s in candidates[c]]
        if not positives or not negatives:
            continue
        total = sum(torch.exp(s / tau) for s in negatives)
        terms = [-torch.log(torch.exp(p / tau) / (torch.exp(p / tau) + total)) for p in positives]
        per_category.setdefault(mine, []).append(torch.stack(terms).mean())
    if not per_category:
        return query.sum() * 0
    return torch.stack([torch.stack(v).mean() for v in per_category.values()]).mean()
