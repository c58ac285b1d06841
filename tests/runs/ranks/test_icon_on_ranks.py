"""IconLoss alone on real gloo processes: 2 ranks, each with half of the batch, are one rank with the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icon_dist import distributed
from icon_dist.losses.icon import IconLoss
from icon_dist.losses.options import Bank, Options, Term
from tests.support.on_ranks import flat, on_ranks

N, K, M, STEPS = 8, 4, 6, 3
RANDOM = Term(0.3, query="random", queries=1, queries_to=3, negative="random", negatives=2)
VARIANTS: dict[str, dict[str, Any]] = {
    "hard": {"bank": Bank(12, warmup=1), "tau": 0.2},
    "random": {"bank": Bank(5, warmup=1), "skcc": RANDOM, "options": Options(points=3, seed=4)},
    "intra": {"options": Options(contrast="intra", points=4)},
}


def joined(step: int) -> dict[str, Tensor]:
    """Of both ranks; at step 2 the second sees nothing."""
    g = torch.Generator().manual_seed(step)
    visible = torch.rand(N, K, generator=g) < 0.8
    if step == 2:
        visible[N // 2 :] = False
    return {
        "embedding": torch.randn(N, M, 8, 8, generator=g, dtype=torch.float64),
        "joints": torch.rand(N, K, 2, generator=g, dtype=torch.float64) * 31,
        "visible": visible,
        "instance_id": torch.randint(0, 12, (N,), generator=g),
        "heatmaps": torch.randn(N, K, 8, 8, generator=g, dtype=torch.float64),
        "errors": torch.rand(N, K, generator=g, dtype=torch.float64),
    }


def run(name: str) -> dict[str, Any]:
    """A loop that averages gradients over ranks, as DistributedDataParallel does."""
    loss = IconLoss(num_joints=K, limbs=((0, 1), (1, 2), (2, 3)), dim=M, **VARIANTS[name])
    weight = torch.eye(M, dtype=torch.float64).requires_grad_()  # of a network that mixes channels
    own = N // distributed.world_size()
    part = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    found: dict[str, Any] = {}
    for step in range(STEPS):
        inputs = {key: x[part] for key, x in joined(step).items()}
        inputs["embedding"] = torch.einsum("nmhw,mk->nkhw", inputs["embedding"], weight)
        out = loss(**inputs)
        (grad,) = torch.autograd.grad(out.total, weight)
        health = out.health()
        loss.commit()
        grad = distributed.mean_over_ranks(grad)
        weight = (weight.detach() - 0.1 * grad).requires_grad_()
        values = {key: distributed.mean_over_ranks(getattr(out, key).detach()) for key in ("total", "skcc", "prcc")}
        measured = {term: {k: v for k, v in vars(h).items() if v is not None} for term, h in health.items()}
        for each in measured.values():
            each["loss"] = distributed.mean_over_ranks(each["loss"])
        found[str(step)] = {"grad": grad, "values": values, "health": measured}
    return found | {"state": dict(loss.state_dict())}


def all_runs() -> dict[str, Any]:
    return {name: run(name) for name in VARIANTS}


def test_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    alone = flat(all_runs())
    assert all(
        alone[f"/{name}/{step}/values/{term}"] > 0.1
        for name in VARIANTS
        for step in (0, 1)
        for term in ("skcc", "prcc")
    )
    assert len([path for path in alone if "/grad" in path and alone[path].abs().sum() > 0]) == STEPS * len(VARIANTS)
    first, second = (flat(found) for found in on_ranks(all_runs, world=2, folder=tmp_path))
    assert first.keys() == second.keys() == alone.keys()
    for path, value in alone.items():
        torch.testing.assert_close(first[path], value, rtol=1e-6, atol=1e-9, msg=path)
        assert torch.equal(first[path], second[path]), path


def forget() -> str:
    loss = IconLoss(num_joints=K, limbs=((0, 1), (1, 2)), dim=M)
    half = {key: x[:4] for key, x in joined(distributed.rank()).items()}
    loss(**half)
    with pytest.raises(RuntimeError, match="step 0 was not committed") as caught:
        loss(**half)
    return str(caught.value)


def test_a_forgotten_commit_is_an_error_on_every_rank(tmp_path: Path) -> None:
    assert len(set(on_ranks(forget, world=2, folder=tmp_path))) == 1
