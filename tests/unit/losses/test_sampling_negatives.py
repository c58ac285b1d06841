"""Which categories a query is compared with: hard, random and all."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from icon_dist.losses.sampling import Draw, Negatives, Queries, choose_negatives
from icon_dist.types import KeySet


def queries_of(query: torch.Tensor, category: torch.Tensor, owner: torch.Tensor, person: torch.Tensor) -> Queries:
    return Queries(query, category, owner, person, torch.ones_like(category).bool())


def keys_of(seed: int) -> KeySet:
    g = torch.Generator().manual_seed(seed)
    return KeySet(
        F.normalize(torch.randn(5, 10, 3, generator=g), dim=-1),
        torch.rand(5, 10, generator=g) < 0.7,
        torch.randint(0, 4, (5, 10), generator=g),
    )


@pytest.mark.parametrize("others_only", [False, True])
@pytest.mark.parametrize("score", ["mean", "max"])
def test_hard_negatives_have_the_largest_cosine(others_only: bool, score: str) -> None:
    g = torch.Generator().manual_seed(0)
    keys = keys_of(0)
    keys.valid[3] = False
    query = F.normalize(torch.randn(30, 3, generator=g), dim=-1)
    category, person = torch.randint(0, 5, (30,), generator=g), torch.randint(0, 4, (30,), generator=g)
    negatives = Negatives(Draw("hard", 2), score=score, others_only=others_only)
    chosen = choose_negatives(queries_of(query, category, person, person), keys, negatives)
    for a in range(30):
        rank = {}
        for c in range(5):
            cosines = [
                float(query[a] @ keys.features[c, s])
                for s in range(10)
                if keys.valid[c, s] and not (others_only and keys.instance[c, s] == person[a])
            ]
            if cosines and c != category[a]:
                rank[c] = max(cosines) if score == "max" else sum(cosines) / len(cosines)
        best = sorted(rank, key=lambda c: -rank[c])[:2]
        assert set(chosen[a].nonzero()[:, 0].tolist()) == set(best)


@pytest.mark.parametrize(("strategy", "number"), [("hard", 2), ("random", 2), ("all", 3)])
def test_negatives_are_other_categories_with_candidates(strategy: str, number: int) -> None:
    keys = keys_of(1)
    keys.valid[:] = True
    keys.valid[3] = False
    category = torch.tensor([0, 1, 2, 4] * 5)
    query = F.normalize(torch.randn(20, 3), dim=-1)
    person = torch.arange(20)
    negatives = Negatives(Draw(strategy, 2, key=3))
    chosen = choose_negatives(queries_of(query, category, person, person), keys, negatives)
    assert not chosen[torch.arange(20), category].any()
    assert not chosen[:, 3].any()
    assert (chosen.sum(1) == number).all()


def test_random_negatives_are_drawn_for_the_person_not_the_owner() -> None:
    """People of one photo, which owns the queries when positives come from other images, draw on their own."""
    keys = keys_of(1)
    keys.valid[:] = True
    category, photo, person = torch.zeros(40, dtype=torch.int64), torch.zeros(40, dtype=torch.int64), torch.arange(40)
    query = F.normalize(torch.randn(40, 3), dim=-1)

    def drawn(owner: torch.Tensor) -> torch.Tensor:
        negatives = Negatives(Draw("random", 2, key=3), others_only=True)
        return choose_negatives(queries_of(query, category, owner, person), keys, negatives)

    assert len(set(map(tuple, drawn(photo).tolist()))) > 1
    assert torch.equal(drawn(photo), drawn(person + 100))
