"""Real gloo processes: 2 and 4 ranks equal one rank on the joined batch, and every rank holds the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from icon_dist import distributed
from icon_dist.config import BankConfig, ContrastConfig, LossConfig
from icon_dist.losses import health
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch, Outputs, Skeleton
from tests.support.on_ranks import flat, on_ranks
from tests.support.training import start

SKELETON = Skeleton("four", ("a", "b", "c", "d"), (), ((0, 1), (1, 2), (2, 3)), (), (0.1,) * 4, 2, (), (), "pck")
PEOPLE, STEPS, SIZE = 8, 5, 32
BANK = BankConfig(slots=12, warmup=2)
HARD = LossConfig(
    tau=0.2,
    points=5,
    skcc=ContrastConfig(queries=2, negatives=2),
    prcc=ContrastConfig(query="all", negatives=1),
    bank=BANK,
)
RANDOM = LossConfig(
    tau=0.2,
    points=1,
    negatives_from_others=True,
    skcc=ContrastConfig(query="random", queries=1, queries_to=3, negative="random", negatives=1, negatives_to=3),
    prcc=ContrastConfig(query="random", queries=2, negative="all"),
    bank=BANK,
)
BUDGET = LossConfig(tau=0.2, points=1, bank=BankConfig(slots=12, warmup=0, budget=4))
CONFIGS = {"hard": HARD, "random": RANDOM, "budget": BUDGET}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 4, stride=4)
        self.regression = nn.Conv2d(8, 4, 1)
        self.projection = nn.Conv2d(8, 6, 1)

    def forward(self, image: Tensor) -> Outputs:
        feature = self.encoder(image).tanh()
        tap = feature.view_as(feature)
        return Outputs(self.regression(feature), F.normalize(self.projection(tap), dim=1), feature, tap)


def joined_batch(step: int) -> tuple[Tensor, Batch, Tensor, Tensor]:
    """Eight people; the second quarter sees nothing at step 3, nobody sees anything at step 4."""
    g = torch.Generator().manual_seed(step)
    visible = torch.rand(PEOPLE, 4, generator=g) < 0.7
    if step == 3:
        visible[2:4] = False
    if step == 4:
        visible[:] = False
    image = torch.randn(PEOPLE, 3, SIZE, SIZE, generator=g, dtype=torch.float64)
    batch = Batch(
        image=torch.zeros(PEOPLE, SIZE, SIZE, 3, dtype=torch.uint8),
        joints=torch.rand(PEOPLE, 4, 2, generator=g) * 31,  # some beyond the last pixel of the map, 28
        labelled=visible,
        visible=visible,
        instance=torch.randint(0, 12, (PEOPLE,), generator=g),  # people come back
        image_id=torch.arange(PEOPLE) // 2,
        row=torch.arange(PEOPLE),
        to_photo=torch.zeros(PEOPLE, 2, 3),
    )
    return image, batch, torch.rand(PEOPLE, 4, 8, 8, generator=g, dtype=torch.float64), visible.double()


def run(name: str) -> dict[str, Any]:
    """A few training steps on this rank's part of the joined batches, gradients averaged as an engine does."""
    torch.manual_seed(0)
    net = Net().double()
    objective = Objective(CONFIGS[name], SKELETON, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=3)
    own = PEOPLE // distributed.world_size()
    mine = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    steps = []
    for step in range(STEPS):
        image, batch, target, weight = joined_batch(step)
        part = Batch(**{field: tensor[mine] for field, tensor in vars(batch).items()})
        outputs = net(image[mine])
        losses = objective(outputs, part, target[mine], weight[mine], step=step, epoch=0.0, diagnose=True)
        net.zero_grad()
        losses.total.backward()
        objective.commit()
        scalars = losses.scalars()
        grads = {n: distributed.mean_over_ranks(p.grad) for n, p in net.named_parameters() if p.grad is not None}
        for n, p in net.named_parameters():
            p.data -= 0.1 * grads[n]
        steps.append({"scalars": scalars, "grads": grads})
    return {"steps": steps, "bank": objective.state_dict()}


def primitives() -> dict[str, Any]:
    rank, world = distributed.rank(), distributed.world_size()
    x = (torch.arange(6.0).view(3, 2) + 100 * rank).requires_grad_()
    rows = distributed.return_gradient(distributed.start_gather(x.detach())(), to=x)
    # Rank r weights row i of all ranks by (r + 1) (i + 1): its owner must receive the sum of that over r.
    loss = (rows.sum(1) * torch.arange(1.0, 3 * world + 1)).sum() * (rank + 1)
    loss.backward()
    norm = nn.BatchNorm1d(2)
    norm.running_mean += torch.tensor([rank / 3, 1.0])
    norm.running_var *= rank + 0.1
    norm.num_batches_tracked += 5
    told = distributed.mean_buffers(norm, raised=torch.tensor([rank == 1, False]).double())
    untouched = torch.ones(2) * rank
    summed = distributed.sum_over_ranks(untouched)
    distributed.gather_objects(None)
    return {
        "rows": rows.detach(),
        "grad": x.grad,
        "buffers": dict(norm.named_buffers()),
        "told": told,
        "sum": summed,
        "untouched": untouched,
        "mean": distributed.mean_over_ranks(torch.tensor(float(rank))),
        "objects": distributed.gather_objects({"rank": rank}),
    }


def everything() -> dict[str, Any]:
    return {"primitives": primitives(), **{name: run(name) for name in CONFIGS}}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything()


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(everything, world=request.param, folder=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ["hard", "random"])
def test_ranks_equal_one_rank_on_the_joined_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    """Losses, gradients, measurements and banks of every step, through the weights' own updates."""
    expected = flat(alone[name])
    assert any(v.abs().sum() > 0 for k, v in expected.items() if "/projection" in k)
    for found in ranks:
        assert flat(found[name]).keys() == expected.keys()
        for path, value in flat(found[name]).items():
            torch.testing.assert_close(value, expected[path], rtol=1e-6, atol=1e-9, msg=path)


def test_the_joined_run_is_no_trivial_case(alone: dict[str, Any]) -> None:
    """Both terms, the bank and both kinds of gradient take part; nothing visible is a zero, not NaN."""
    steps = [s["scalars"] for s in alone["hard"]["steps"]]
    assert all(s["skcc"] > 0.1 and s["prcc"] > 0.1 for s in steps[:4])
    assert steps[1]["skcc_chance"] < steps[2]["skcc_chance"]  # the bank joins after its warm-up of 2 steps
    assert all(s["gradient_ratio"] > 0.01 for s in steps[:4])
    assert steps[4]["skcc"] == steps[4]["prcc"] == 0


@pytest.mark.parametrize("name", list(CONFIGS))
def test_all_ranks_hold_the_same_bits(ranks: list[dict[str, Any]], name: str) -> None:
    for found in ranks[1:]:
        for path, value in flat(found[name]["bank"]).items():
            assert torch.equal(value, flat(ranks[0][name]["bank"])[path]), path
        assert found[name]["steps"][-1]["scalars"] == ranks[0][name]["steps"][-1]["scalars"]


def test_the_budget_limits_what_is_gathered(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """4 people a step from all ranks together, whatever their number; each joint of each is pushed at most once."""
    for found in [*ranks, alone]:
        steps = found["budget"]["bank"]["skcc.step"]
        for c in range(4):
            assert (steps[c].unique(return_counts=True)[1][1:] <= 4).all()
        assert found["budget"]["steps"][0]["scalars"]["skcc"] > 0


def test_gathered_rows_are_rank_major_and_gradients_return_to_their_owner(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    everyone = torch.cat([torch.arange(6.0).view(3, 2) + 100 * r for r in range(world)])
    total = world * (world + 1) / 2
    for r, found in enumerate(ranks):
        assert torch.equal(found["primitives"]["rows"], everyone)
        expected = torch.arange(3 * r + 1.0, 3 * r + 4)[:, None].expand(3, 2) * total
        assert torch.equal(found["primitives"]["grad"], expected)


def test_buffers_become_their_mean_with_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    mean_rank = (world - 1) / 2
    for found in ranks:
        buffers = found["primitives"]["buffers"]
        torch.testing.assert_close(buffers["running_mean"], torch.tensor([mean_rank / 3, 1.0]))
        torch.testing.assert_close(buffers["running_var"], torch.full((2,), mean_rank + 0.1))
        assert buffers["num_batches_tracked"] == 5
        for name, value in buffers.items():
            assert torch.equal(value, ranks[0]["primitives"]["buffers"][name])


def test_sums_means_and_objects(ranks: list[dict[str, Any]]) -> None:
    world = len(ranks)
    for r, found in enumerate(ranks):
        assert found["primitives"]["told"].tolist() == [1 / world if world > 1 else 0, 0], "rank 1 alone raised it"
        assert found["primitives"]["sum"].tolist() == [world * (world - 1) / 2] * 2
        assert found["primitives"]["untouched"].tolist() == [r, r]
        assert found["primitives"]["mean"] == (world - 1) / 2
        assert found["primitives"]["objects"] == [{"rank": i} for i in range(world)]


def test_one_process_is_the_identity() -> None:
    x = torch.randn(3, 2)
    assert distributed.rank() == 0
    assert distributed.world_size() == 1
    assert distributed.start_gather(x)() is x
    assert torch.equal(distributed.return_gradient(x, to=x), x)
    assert torch.equal(distributed.sum_over_ranks(x), x)
    assert distributed.gather_objects("me") == ["me"]


def test_gradient_ratio_equals_two_separate_backward_passes() -> None:
    torch.manual_seed(0)
    net: Callable[[Tensor], Outputs] = Net().double()
    objective = Objective(HARD, SKELETON, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=3)
    image, batch, target, weight = joined_batch(0)
    outputs = net(image)
    losses = objective(outputs, batch, target, weight, step=0, epoch=0.0)
    baseline = Objective(LossConfig(lambda_p=0.0), SKELETON, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=3)
    alone = baseline(outputs, batch, target, weight, step=0, epoch=0.0).total
    assert outputs.feature is not None
    (heat,) = torch.autograd.grad(alone, outputs.feature, retain_graph=True)
    (contrast,) = torch.autograd.grad(losses.total - alone, outputs.feature, retain_graph=True)
    health.watch_gradients(outputs)
    losses.total.backward()
    ratio = health.gradient_ratio(outputs)
    assert ratio is not None
    torch.testing.assert_close(ratio.double(), contrast.norm() / heat.norm(), rtol=1e-5, atol=0)


def share_constants(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    module = nn.Module()
    module.register_buffer("constant", torch.tensor([1 / 255 / 0.229, 1 / 255 / 0.224, 0.485 / 0.229, 0.406 / 0.225]))
    distributed.mean_buffers(module, raised=torch.zeros(0))
    torch.save(module.constant, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_buffers_that_are_equal_keep_their_bits(tmp_path: Path) -> None:
    """Six fp32 numbers summed and divided by six need not be the number; a resumed run would then differ."""
    start(share_constants, 6, str(tmp_path), world=6)
    constant = torch.tensor([1 / 255 / 0.229, 1 / 255 / 0.224, 0.485 / 0.229, 0.406 / 0.225])
    for rank in range(6):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), constant)
