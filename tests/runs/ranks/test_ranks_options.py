"""Real gloo processes with the options of contrast: 2 and 4 ranks equal one rank on the joined batch.

Three options choose among a rank's own people and so cannot: ``loss.query_scope=batch`` and ``loss.max_queries``, here,
and ``loss.bank.budget``. They must still agree on the loss, which is a mean over all ranks' queries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from icon_dist import distributed
from icon_dist.config import BankConfig, ContrastConfig, LossConfig
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch, Outputs, Skeleton
from tests.support.on_ranks import flat, on_ranks

SKELETON = Skeleton("four", ("a", "b", "c", "d"), (), ((0, 1), (1, 2), (2, 3)), (), (0.1,) * 4, 2, (), (), "pck")
PEOPLE, STEPS = 8, 4
BASE = LossConfig(
    tau=0.2,
    points=3,
    skcc=ContrastConfig(queries=2, negatives=2),
    prcc=ContrastConfig(queries=2, negatives=1),
    bank=BankConfig(slots=9, warmup=1),
)
RANDOM = ContrastConfig(query="random", queries=1, queries_to=3, negative="random", negatives=1, negatives_to=2)
EQUAL = {
    "intra": replace(BASE, contrast="intra"),
    "intra at random": replace(BASE, contrast="intra", points=1, skcc=RANDOM, prcc=RANDOM),
    "other images": replace(BASE, positives_from="images", negatives_from_others=True, skcc=RANDOM),
    "nearest, labelled, peak": replace(BASE, read="nearest", counted="labelled", entropy="peak"),
    "few negatives": replace(BASE, max_negatives=3, skcc=replace(BASE.skcc, category_score="max")),
}
OWN = {
    "batch scope": replace(BASE, query_scope="batch"),
    "few queries": replace(BASE, max_queries=2),
}
CONFIGS = EQUAL | OWN


def joined_batch(step: int) -> tuple[Outputs, Batch, torch.Tensor, torch.Tensor]:
    """Eight people, the first two on one photo and so on; the last four see nothing at step 2."""
    g = torch.Generator().manual_seed(step)
    labelled = torch.rand(PEOPLE, 4, generator=g) < 0.9
    visible = labelled & (torch.rand(PEOPLE, 4, generator=g) < 0.8)
    if step == 2:
        visible[4:] = labelled[4:] = False
    instance = torch.randint(0, 12, (PEOPLE,), generator=g)
    batch = Batch(
        image=torch.zeros(PEOPLE, 32, 32, 3, dtype=torch.uint8),
        joints=torch.rand(PEOPLE, 4, 2, generator=g) * 31,
        labelled=labelled,
        visible=visible,
        instance=instance,
        image_id=instance // 2,
        row=torch.arange(PEOPLE),
        to_photo=torch.zeros(PEOPLE, 2, 3),
    )
    embedding = F.normalize(torch.randn(PEOPLE, 6, 8, 8, generator=g, dtype=torch.float64), dim=1).requires_grad_()
    heatmaps = 0.3 * torch.randn(PEOPLE, 4, 8, 8, generator=g, dtype=torch.float64)
    return Outputs(heatmaps, embedding), batch, torch.rand(PEOPLE, 4, 8, 8, generator=g).double(), labelled.double()


def run(cfg: LossConfig) -> dict[str, Any]:
    objective = Objective(cfg, SKELETON, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=3)
    world = distributed.world_size()
    own = PEOPLE // world
    mine = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    steps = []
    for step in range(STEPS):
        outputs, batch, target, weight = joined_batch(step)
        assert outputs.embedding is not None
        part = Outputs(outputs.heatmaps[mine], outputs.embedding[mine])
        people = Batch(**{name: tensor[mine] for name, tensor in vars(batch).items()})
        losses = objective(part, people, target[mine], weight[mine], step=step, epoch=0.0, diagnose=True)
        losses.watched = None  # there is no encoder here
        (grad,) = torch.autograd.grad(losses.total, outputs.embedding)
        objective.commit()
        # what an engine does: the mean over ranks; here of maps that are zero but for a rank's own people
        steps.append({"scalars": losses.scalars(), "grad": distributed.mean_over_ranks(grad)})
    return {"steps": steps, "bank": objective.state_dict()}


def everything() -> dict[str, Any]:
    return {name: run(cfg) for name, cfg in CONFIGS.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(everything, world=request.param, folder=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", EQUAL)
def test_ranks_equal_one_rank_on_the_joined_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    """Losses, measurements, gradients and banks of every step."""
    right = flat(alone[name])
    steps = alone[name]["steps"]
    assert all(sum(step["scalars"][term] for step in steps) > 0.1 for term in ("skcc", "prcc"))
    assert all(step["grad"].abs().sum() > 0 for step in steps)
    for found in ranks:
        assert flat(found[name]).keys() == right.keys()
        for path, value in flat(found[name]).items():
            torch.testing.assert_close(value, right[path], rtol=1e-6, atol=1e-9, msg=path)


@pytest.mark.parametrize("name", OWN)
def test_what_is_chosen_among_a_ranks_own_people_is_still_one_loss(
    ranks: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    """The banks do not depend on who asks; all ranks report the same; the loss is finite, and another one."""
    for found in ranks:
        for path, value in flat(found[name]["bank"]).items():
            assert torch.equal(value, flat(alone[name]["bank"])[path]), path
        assert found[name]["steps"][-1]["scalars"] == ranks[0][name]["steps"][-1]["scalars"]
    losses = [[step["scalars"]["skcc"] for step in run[name]["steps"]] for run in (ranks[0], alone)]
    assert losses[0] != losses[1]
    assert all(0.1 < loss < 10 for loss in losses[0])


def test_a_limit_of_queries_is_per_rank(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Two points of a category ask on one rank: their gradient is on few maps; of each rank's people, on more."""

    def maps(run: dict[str, Any]) -> int:
        return sum(int((step["grad"].abs().sum((1, 2, 3)) > 0).sum()) for step in run["few queries"]["steps"])

    assert maps(ranks[0]) >= maps(alone)
