"""Eq. 1 within one person against loops over its points, values and gradients in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.losses.intra import intra_sums
from icon_dist.losses.sampling import Draw, Negatives, choose, draw_count
from icon_dist.tensors.random import uniform

N, C, M, TAU, KEY = 3, 5, 4, 0.2, 11
HARD = Negatives(Draw("hard", 2))


def case(points: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(N, C, points, M, generator=g, dtype=torch.float64), dim=-1).requires_grad_()
    active = torch.rand(N, C, points, generator=g) < 0.7
    asks = active & (torch.rand(N, C, 1, generator=g) < 0.6)
    return features, active, asks, torch.tensor([4, 9, 4])


def literal(
    features: Tensor,
    active: Tensor,
    asks: Tensor,
    instance: Tensor,
    *,
    hn: int | tuple[int, int],
    strategy: str,
    score: str,
) -> tuple[list[Tensor], list[int]]:
    """Eq. 1 within an instance, one query after the other."""
    points = active.shape[2]
    sums, counts = [features.sum() * 0 for _ in range(C)], [0] * C
    for n, c, t in asks.nonzero().tolist():
        positives = [u for u in range(points) if active[n, c, u] and u != t] if points > 1 else [t]
        candidates = {d: active[n, d].nonzero()[:, 0].tolist() for d in range(C) if d != c and active[n, d].any()}
        person = instance[n : n + 1]
        number = int(draw_count(hn, KEY, person, most=C - 1))
        if strategy == "hard":
            pick = max if score == "max" else lambda x: sum(x) / len(x)
            fixed = features.detach()
            rank = {d: pick([float(fixed[n, c, t] @ fixed[n, d, u]) for u in us]) for d, us in candidates.items()}
            candidates = {d: candidates[d] for d in sorted(rank, key=lambda d: -rank[d])[:number]}
        if strategy == "random":
            luck = uniform(KEY, person[:, None], torch.tensor([[c]]), torch.arange(C))
            allowed = torch.tensor([[d in candidates for d in range(C)]])
            chosen = choose(luck, allowed, torch.tensor([number]))[0].nonzero()[:, 0].tolist()
            candidates = {d: candidates[d] for d in chosen}
        if not positives or not candidates:
            continue
        z = sum(torch.exp(features[n, c, t] @ features[n, d, u] / TAU) for d, us in candidates.items() for u in us)
        own = [torch.exp(features[n, c, t] @ features[n, c, u] / TAU) for u in positives]
        sums[c] = sums[c] + torch.stack([-torch.log(p / (p + z)) for p in own]).mean()
        counts[c] += 1
    return sums, counts


@pytest.mark.parametrize("points", [1, 4])
@pytest.mark.parametrize(
    ("strategy", "hn", "score"),
    [("hard", 2, "mean"), ("hard", 2, "max"), ("hard", (1, 3), "mean"), ("random", (1, 3), "mean"), ("all", 2, "mean")],
)
def test_equals_loops_over_the_points_of_one_person(
    points: int, strategy: str, hn: int | tuple[int, int], score: str
) -> None:
    for seed in range(3):
        tokens = case(points, seed)
        negatives = Negatives(Draw(strategy, hn, KEY), score=score)
        sums, counts = intra_sums(*tokens, negatives=negatives, tau=TAU)
        expected, numbers = literal(*tokens, hn=hn, strategy=strategy, score=score)
        assert counts.tolist() == numbers
        assert sum(numbers) > 0
        torch.testing.assert_close(sums, torch.stack(expected), rtol=1e-12, atol=1e-12)
        weight = torch.arange(1.0, C + 1, dtype=torch.float64)  # another slope for every category
        (found,) = torch.autograd.grad((sums * weight).sum(), tokens[0])
        (right,) = torch.autograd.grad((torch.stack(expected) * weight).sum(), tokens[0])
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


def test_other_people_do_not_matter() -> None:
    features, active, asks, instance = case(4, 0)
    whole, _ = intra_sums(features, active, asks, instance, negatives=HARD, tau=TAU)
    columns = [tuple(x[n : n + 1] for x in (features, active, asks, instance)) for n in range(N)]
    alone = [intra_sums(*one, negatives=HARD, tau=TAU) for one in columns]
    torch.testing.assert_close(whole, torch.stack([sums for sums, _ in alone]).sum(0))


def test_nothing_to_compare_is_a_zero_with_a_finite_gradient() -> None:
    for what in ("nobody asks", "nothing active", "one joint", "one point of four"):
        features, active, asks, instance = case(4, 0)
        active = torch.zeros_like(active) if what == "nothing active" else torch.ones_like(active)
        if what == "one joint":
            active[:, 1:] = False
        if what == "one point of four":
            active[..., 1:] = False
        asks = active & (what != "nobody asks")
        sums, counts = intra_sums(features, active, asks, instance, negatives=HARD, tau=TAU)
        (grad,) = torch.autograd.grad(sums.sum(), features)
        assert not sums.any()
        assert not counts.any()
        assert not grad.any()


def test_a_query_is_its_own_positive_in_point_mode() -> None:
    """Two orthogonal joints: softplus((0 - 1) / tau)."""
    features = torch.eye(2).view(1, 2, 1, 2)
    everything = torch.ones(1, 2, 1, dtype=torch.bool)
    other = Negatives(Draw("hard", 1))
    sums, counts = intra_sums(features, everything, everything, torch.tensor([0]), negatives=other, tau=TAU)
    torch.testing.assert_close(sums, torch.full((2,), math.log1p(math.exp(-1 / TAU))))
    assert counts.tolist() == [1, 1]


def test_embeddings_all_alike_cost_the_log_of_the_number_of_negatives() -> None:
    """How chance is measured: two of four other joints, three points each."""
    everything = torch.ones(2, 5, 3, dtype=torch.bool)
    sums, counts = intra_sums(
        torch.zeros(2, 5, 3, 4), everything, everything, torch.tensor([0, 1]), negatives=HARD, tau=TAU
    )
    torch.testing.assert_close(sums / counts, torch.full((5,), math.log(7)))
