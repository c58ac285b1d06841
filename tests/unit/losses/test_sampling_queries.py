"""Which tokens are queries: scores and strategies, the batch as scope, and budgets of points (Table 8)."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from icon_dist.losses.sampling import (
    Draw,
    choose_queries,
    first_rows,
    hard_scores,
    limb_scores,
    limit_queries,
    most_queries,
)


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
        limb_scores(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 2], [2, 1]])), torch.tensor([[5.0, 6.0]])
    )


def test_a_peak_of_one_half_is_the_least_certain() -> None:
    """E = -(p log p + (1 - p) log(1 - p)) / log 2 of the peak, whatever lies around it."""
    peaks = [-0.3, 0.0, 0.1, 0.5, 0.8, 1.0, 1.7]
    heatmaps = torch.zeros(1, 7, 4, 4, dtype=torch.float64) - 0.4
    heatmaps[0, :, 1, 2] = torch.tensor(peaks, dtype=torch.float64)
    heatmaps[0, :, 3, 3] = -0.35
    present = torch.tensor([[1, 1, 1, 1, 1, 0, 1]]).bool()
    scores = hard_scores(heatmaps, torch.zeros(1, 7, dtype=torch.float64), present, entropy="peak")
    bits = [-sum(q * math.log2(q) for q in (p, 1 - p)) if 0 < p < 1 else 0.0 for p in peaks]
    assert bits[3] == 1
    expected = [
        b * seen / sum(b for b, s in zip(bits, present[0].tolist(), strict=True) if s)
        for b, seen in zip(bits, present[0].tolist(), strict=True)
    ]
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_shares_of_the_batch_are_over_all_its_present_joints() -> None:
    """Within a person the only joint has all the share; within the batch it has what it is worth."""
    heatmaps = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    heatmaps[..., 0, 0] = torch.tensor([0.5, 0.5, 0.5])  # one bit each
    errors = torch.tensor([[1.0, 2.0, 5.0], [2.0, 9.0, 9.0]], dtype=torch.float64)
    present = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    batch = hard_scores(heatmaps, errors, present, entropy="peak", scope="batch")
    person = hard_scores(heatmaps, errors, present, entropy="peak", scope="person")
    torch.testing.assert_close(batch, torch.tensor([[0.35, 0.45, 0.75], [0.45, 0, 0]]).double())
    torch.testing.assert_close(person, torch.tensor([[1 / 3 + 0.125, 1 / 3 + 0.25, 1 / 3 + 0.625], [2, 0, 0]]).double())


@pytest.mark.parametrize("strategy", ["hard", "random", "all"])
def test_queries_are_present_joints(strategy: str) -> None:
    present = torch.rand(20, 6) < 0.5
    chosen = choose_queries(Draw(strategy, 3, 1), torch.rand(20, 6), present, torch.arange(20))
    assert not (chosen & ~present).any()
    number = present.sum(1)
    assert torch.equal(chosen.sum(1), number if strategy == "all" else number.clamp(max=3))


def test_hard_queries_are_the_best_scores() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    present = torch.tensor([[True, False, True, True]])
    chosen = choose_queries(Draw("hard", 2, 0), score, present, torch.tensor([5]))
    assert chosen.tolist() == [[False, False, True, True]]


def test_more_queries_than_categories_are_all_of_them() -> None:
    assert choose_queries(Draw("hard", 8, 0), torch.rand(2, 3), torch.ones(2, 3).bool(), torch.tensor([1, 2])).all()


def test_random_queries_follow_the_person_wherever_it_is_in_a_batch() -> None:
    score, present, people = torch.zeros(50, 8), torch.ones(50, 8).bool(), torch.arange(50)
    chosen = choose_queries(Draw("random", (2, 4), 5), score, present, people)
    order = torch.randperm(50)
    assert torch.equal(chosen[order], choose_queries(Draw("random", (2, 4), 5), score, present, people[order]))
    assert {2, 3, 4} == set(chosen.sum(1).tolist())
    assert len(set(map(tuple, chosen.tolist()))) > 10
    assert not torch.equal(chosen, choose_queries(Draw("random", (2, 4), 6), score, present, people))


def test_queries_of_the_batch_are_its_best_whoever_has_them() -> None:
    g = torch.Generator().manual_seed(0)
    score, present = torch.rand(6, 5, generator=g), torch.rand(6, 5, generator=g) < 0.8
    chosen = choose_queries(Draw("hard", 2, 0), score, present, torch.arange(6), scope="batch")
    ranked = sorted(((-float(score[n, c]), n, c) for n, c in present.nonzero().tolist()))
    assert {(n, c) for _, n, c in ranked[:12]} == {(n, c) for n, c in chosen.nonzero().tolist()}
    assert chosen.sum(1).tolist() != [2] * 6  # somebody asks more, somebody less


def test_a_batch_with_fewer_joints_asks_with_all() -> None:
    present = torch.zeros(4, 5).bool()
    present[1, :3] = True
    for strategy in ("hard", "random"):
        chosen = choose_queries(Draw(strategy, 2, 0), torch.rand(4, 5), present, torch.arange(4), scope="batch")
        assert torch.equal(chosen, present)


def test_at_most_so_many_points_of_each_category_ask() -> None:
    asks = torch.rand(6, 4, 3) < 0.7
    asks[:, 2] = False
    asks[0, 2, :2] = True
    kept = limit_queries(asks, torch.arange(6), most=5, key=1)
    assert not (kept & ~asks).any()
    assert torch.equal(kept.sum((0, 2)), asks.sum((0, 2)).clamp(max=5))
    assert kept[0, 2].tolist() == [True, True, False]
    assert not torch.equal(kept, limit_queries(asks, torch.arange(6), most=5, key=2))
    order = torch.randperm(6)
    assert torch.equal(kept[order], limit_queries(asks[order], order, most=5, key=1))


def test_every_point_has_the_same_chance_to_stay_within_the_limit() -> None:
    asks, people = torch.ones(4, 2, 2).bool(), torch.arange(4)
    stayed: Counter[tuple[int, ...]] = Counter()
    for key in range(600):
        stayed.update(map(tuple, limit_queries(asks, people, most=2, key=key).nonzero().tolist()))
    assert len(stayed) == 16
    assert all(abs(n - 150) < 53 for n in stayed.values())  # 5 standard deviations


@pytest.mark.parametrize(
    ("strategy", "count", "most", "expected"),
    [("hard", 2, 0, 24), ("hard", 9, 0, 60), ("random", (1, 3), 0, 36), ("all", 2, 0, 60), ("all", 2, 7, 35)],
)
def test_the_width_of_queries_is_known_beforehand(
    strategy: str, count: int | tuple[int, int], most: int, expected: int
) -> None:
    """4 people, 5 categories, 3 points; no choice is wider, and the rows in front hold every query in order."""
    assert most_queries(Draw(strategy, count), shape=(4, 5, 3), most=most) == expected
    score, present, people = torch.rand(4, 5), torch.ones(4, 5).bool(), torch.arange(4)
    for scope in ("person", "batch"):
        for key in range(20):
            chosen = choose_queries(Draw(strategy, count, key), score, present, people, scope=scope)
            asks = chosen[..., None].expand(4, 5, 3)
            if most:
                asks = limit_queries(asks, people, most=most, key=key)
            rows, real = first_rows(asks, expected)
            assert rows.shape == real.shape == (expected,)
            assert rows[real].tolist() == asks.flatten().nonzero()[:, 0].tolist()
