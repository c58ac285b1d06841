"""Hard, random and all: queries (METHOD 2.8) and negative categories (2.9)."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from icon_dist.losses.sampling import (
    choose,
    choose_negatives,
    choose_queries,
    draw_count,
    hard_scores,
    key_of,
    pair_scores,
    uniform,
)
from icon_dist.types import KeySet


def test_hard_scores_equal_the_formula_in_loops() -> None:
    heatmaps = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    errors = torch.rand(3, 4, dtype=torch.float64)
    present = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    scores = hard_scores(heatmaps, errors, present)
    for n in range(3):
        entropy = {}
        for k in range(4):
            mass = [max(v, 0.0) for v in heatmaps[n, k].flatten().tolist()]
            shares = [v / sum(mass) for v in mass if v > 0]
            entropy[k] = -sum(p * math.log(p) for p in shares) / math.log(30)
        seen = [k for k in range(4) if present[n, k]]
        for k in range(4):
            expected = 0.0
            if k in seen:
                expected = entropy[k] / sum(entropy[j] for j in seen)
                expected += errors[n, k].item() / sum(errors[n, j].item() for j in seen)
            assert scores[n, k].item() == pytest.approx(expected, abs=1e-12)


def test_hard_scores_without_any_mass_error_or_joint_are_finite() -> None:
    scores = hard_scores(-torch.ones(2, 3, 4, 4), torch.zeros(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]]).bool())
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.5, 0], [0, 0, 0]]))


def test_a_flat_heatmap_is_harder_than_a_peak() -> None:
    heatmaps = torch.zeros(1, 2, 4, 4)
    heatmaps[0, 0] = 0.1
    heatmaps[0, 1, 2, 2] = 1.0
    scores = hard_scores(heatmaps, torch.ones(1, 2), torch.ones(1, 2).bool())
    assert scores.tolist() == [[1.5, 0.5]]


def test_pair_score_is_the_sum_of_its_ends() -> None:
    torch.testing.assert_close(
        pair_scores(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 2], [2, 1]])), torch.tensor([[5.0, 6.0]])
    )


def test_ties_go_to_the_lower_index() -> None:
    score = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = choose(score, torch.ones(2, 4).bool(), torch.tensor([2]))
    assert chosen.int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_only_allowed_categories_are_chosen() -> None:
    allowed = torch.tensor([[False, True, False]])
    assert choose(torch.tensor([[9.0, 1.0, 8.0]]), allowed, torch.tensor([2])).tolist() == [[False, True, False]]


@pytest.mark.parametrize("strategy", ["hard", "random", "all"])
def test_queries_are_present_joints(strategy: str) -> None:
    present = torch.rand(20, 6) < 0.5
    index, chosen = choose_queries(strategy, 3, torch.rand(20, 6), present, torch.arange(20), key=1)
    assert index.shape[1] == (6 if strategy == "all" else 3)
    for n in range(20):
        taken = index[n][chosen[n]].tolist()
        assert len(set(taken)) == len(taken)
        assert all(present[n, k] for k in taken)
        total = int(present[n].sum())
        assert len(taken) == (total if strategy == "all" else min(3, total))


def test_hard_queries_are_the_best_scores() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    present = torch.tensor([[True, False, True, True]])
    index, chosen = choose_queries("hard", 2, score, present, torch.tensor([5]), key=0)
    assert set(index[chosen].tolist()) == {2, 3}


def test_more_queries_than_categories_are_all_of_them() -> None:
    index, chosen = choose_queries("hard", 8, torch.rand(2, 3), torch.ones(2, 3).bool(), torch.tensor([1, 2]), key=0)
    assert index.shape == (2, 3)
    assert chosen.all()


def test_random_counts_are_uniform_and_inclusive() -> None:
    drawn = draw_count((6, 9), 3, torch.arange(8000), most=17).bincount()
    assert drawn[:6].sum() == 0
    assert drawn.shape == (10,)
    assert (drawn[6:] - 2000).abs().max() < 200  # 5 standard deviations
    assert draw_count((4, 8), 3, torch.arange(100), most=7).max() == 7


def test_random_numbers_are_uniform_and_depend_on_every_counter() -> None:
    people, classes = torch.arange(200), torch.arange(50)
    u = uniform(7, people[:, None], classes)
    assert u.shape == (200, 50)
    assert u.unique().numel() == 10_000
    histogram = torch.histc(u, bins=10, min=0, max=1)
    assert (histogram - 1000).abs().max() < 150
    assert not torch.equal(u, uniform(8, people[:, None], classes))
    assert torch.equal(u[3:5], uniform(7, people[3:5, None], classes))  # whatever else is in the batch
    assert key_of(1, 2) != key_of(2, 1)


def test_random_numbers_are_splitmix64() -> None:
    """The published first output for seed 0 is 0xE220A8397B1DCDAF."""
    drawn = uniform(0, torch.tensor([0]))
    assert drawn.item() == (0xE220A8397B1DCDAF >> 11) * 2.0**-53


def keys_of(g: torch.Generator) -> list[KeySet]:
    return [
        KeySet(
            F.normalize(torch.randn(5, s, 3, generator=g), dim=-1),
            torch.rand(5, s, generator=g) < 0.7,
            torch.randint(0, 4, (5, s), generator=g),
        )
        for s in (4, 6)
    ]


@pytest.mark.parametrize("others_only", [False, True])
def test_hard_negatives_have_the_largest_mean_cosine(others_only: bool) -> None:
    g = torch.Generator().manual_seed(0)
    keys = keys_of(g)
    for k in keys:
        k.valid[3] = False
    query = F.normalize(torch.randn(30, 3, generator=g), dim=-1)
    category, person = torch.randint(0, 5, (30,), generator=g), torch.randint(0, 4, (30,), generator=g)
    chosen = choose_negatives("hard", 2, query, category, person, keys, others_only=others_only, person=person, key=0)
    for a in range(30):
        means = {}
        for c in range(5):
            cosines = [
                float(query[a] @ k.features[c, s])
                for k in keys
                for s in range(k.valid.shape[1])
                if k.valid[c, s] and not (others_only and k.instance[c, s] == person[a])
            ]
            if cosines and c != category[a]:
                means[c] = sum(cosines) / len(cosines)
        best = sorted(means, key=lambda c: -means[c])[:2]
        assert set(chosen[a].nonzero()[:, 0].tolist()) == set(best)


@pytest.mark.parametrize(("strategy", "number"), [("hard", 2), ("random", 2), ("all", 3)])
def test_negatives_are_other_categories_with_candidates(strategy: str, number: int) -> None:
    keys = keys_of(torch.Generator().manual_seed(1))
    for k in keys:
        k.valid[:] = True
        k.valid[3] = False
    category = torch.tensor([0, 1, 2, 4] * 5)
    query = F.normalize(torch.randn(20, 3), dim=-1)
    person = torch.arange(20)
    chosen = choose_negatives(strategy, 2, query, category, person, keys, others_only=False, person=person, key=3)
    assert not chosen[torch.arange(20), category].any()
    assert not chosen[:, 3].any()
    assert (chosen.sum(1) == number).all()


def test_random_negatives_are_drawn_for_the_person_not_the_owner() -> None:
    """People of one photo, which owns the queries when positives come from other images, draw on their own."""
    keys = keys_of(torch.Generator().manual_seed(1))
    for k in keys:
        k.valid[:] = True
    category, photo, person = torch.zeros(40, dtype=torch.int64), torch.zeros(40, dtype=torch.int64), torch.arange(40)
    query = F.normalize(torch.randn(40, 3), dim=-1)

    def drawn(owner: torch.Tensor) -> torch.Tensor:
        return choose_negatives("random", 2, query, category, owner, keys, others_only=True, person=person, key=3)

    assert len(drawn(photo).unique(dim=0)) > 1
    assert torch.equal(drawn(photo), drawn(person + 100))
