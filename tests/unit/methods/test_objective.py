"""Eq. 5 on one rank, against Eq. 1 as loops over tokens picked by hand; schedules, banks, empty batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.config import BankConfig, ContrastConfig, HeatmapLossConfig, LossConfig
from icon_dist.errors import CheckpointError
from icon_dist.losses.sampling import Queries
from icon_dist.methods.objective import Objective, ramp
from icon_dist.types import Batch, KeySet, Outputs, Skeleton
from tests.support.eq1 import literal

LIMBS = ((0, 1), (2, 3), (1, 3))
SKELETON = Skeleton("four", ("a", "b", "c", "d"), (), LIMBS, (), (0.1,) * 4, 2, (), (), "pck")
EVERYTHING = ContrastConfig(query="all", negative="all")
CFG = LossConfig(
    lambda_p=0.5,
    tau=0.2,
    points=1,
    skcc=EVERYTHING,
    prcc=EVERYTHING,
    heatmap=HeatmapLossConfig(reduction="sum", weight=2.0),
    bank=BankConfig(slots=50, warmup=2),
)
People = tuple[Outputs, Batch, Tensor, Tensor]


def objective(cfg: LossConfig = CFG, skeleton: Skeleton = SKELETON) -> Objective:
    return Objective(cfg, skeleton, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=0)


def people(seed: int, *, count: int = 3) -> People:
    """Joints on pixels of the 8x8 embedding map."""
    g = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(count, 6, 8, 8, generator=g, dtype=torch.float64), dim=1).requires_grad_()
    heatmaps = torch.randn(count, 4, 8, 8, generator=g, dtype=torch.float64).requires_grad_()
    visible = torch.rand(count, 4, generator=g) < 0.8
    batch = Batch(
        image=torch.zeros(count, 32, 32, 3, dtype=torch.uint8),
        joints=torch.randint(0, 8, (count, 4, 2), generator=g) * 4.0,
        labelled=visible,
        visible=visible,
        instance=torch.randint(0, 5, (count,), generator=g),
        image_id=torch.arange(count) // 2,
        row=torch.arange(count),
        to_photo=torch.zeros(count, 2, 3),
    )
    return Outputs(heatmaps, embedding), batch, torch.rand(count, 4, 8, 8, generator=g).double(), visible.double()


def tokens_by_hand(outputs: Outputs, batch: Batch) -> tuple[KeySet, KeySet]:
    """Joints and pairs of these people as candidates."""
    assert outputs.embedding is not None
    x, y = (batch.joints / 4).long().unbind(-1)
    n = torch.arange(len(x))[:, None]
    joints = F.normalize(outputs.embedding[n, :, y, x].transpose(0, 1), dim=-1)  # [K, N, m]
    pairs = torch.stack([F.normalize(joints[a] + joints[b], dim=-1) for a, b in LIMBS])
    both = torch.stack([batch.visible[:, a] & batch.visible[:, b] for a, b in LIMBS])
    return (
        KeySet(joints, batch.visible.T, batch.instance.expand(4, -1)),
        KeySet(pairs, both, batch.instance.expand(3, -1)),
    )


def eq1(live: KeySet, older: list[KeySet]) -> Tensor:
    """All live tokens ask."""
    classes, count = live.valid.shape
    category = torch.arange(classes)[:, None].expand(-1, count).flatten()
    person = live.instance.flatten()
    queries = Queries(live.features.flatten(0, 1), category, person, person, live.valid.flatten())
    return literal(queries, [live, *older], hn=9, strategy="all", others_only=False, tau=CFG.tau)


def test_equals_eq_5_over_steps_with_a_bank() -> None:
    ours, older = objective(), [[], []]
    for step in range(5):
        outputs, batch, target, weight = people(step)
        losses = ours(outputs, batch, target, weight, step=step, epoch=0.0)
        live = tokens_by_hand(outputs, batch)
        # Warm-up: the bank began at step 0 and is used two steps later, with all it has got.
        single, pair = (eq1(now, before if step >= 2 else []) for now, before in zip(live, older, strict=True))
        heat = 2.0 * 0.5 * ((outputs.heatmaps - target) * weight[..., None, None]).square().sum((2, 3)).mean()
        expected = heat + 0.5 * (0.3 * single + 0.7 * pair)
        torch.testing.assert_close(losses.skcc, single.detach(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(losses.prcc, pair.detach(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(losses.total, expected, rtol=1e-6, atol=1e-9)
        leaves = [outputs.heatmaps, outputs.embedding]
        for found, right in zip(
            torch.autograd.grad(losses.total, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-7)  # the bank stores fp32
        ours.commit()
        for now, before in zip(live, older, strict=True):
            before.append(replace(now, features=now.features.detach()))


def test_the_bank_waits_for_its_warm_up_and_for_commit() -> None:
    with_bank, without = objective(), objective(replace(CFG, bank=BankConfig(slots=0)))

    def singles(step: int, *, commit: bool) -> tuple[float, float]:
        found = []
        for o in (with_bank, without):
            found.append(o(*people(step), step=step, epoch=0.0).skcc.item())
            if commit:
                o.commit()
        return found[0], found[1]

    first = singles(0, commit=True)
    assert first[0] == first[1]
    waiting = singles(1, commit=True)
    assert waiting[0] == waiting[1]
    once = singles(2, commit=False)
    assert once[0] != once[1]
    assert singles(2, commit=True) == once  # nothing was pushed in between


def test_baseline_is_the_heatmap_loss_alone() -> None:
    outputs, batch, target, weight = people(0)
    expected = 0.5 * ((outputs.heatmaps - target) * weight[..., None, None]).square().sum((2, 3)).mean() * 2
    for o, out in ((objective(replace(CFG, lambda_p=0.0)), outputs), (objective(), replace(outputs, embedding=None))):
        losses = o(out, batch, target, weight, step=0, epoch=0.0)
        torch.testing.assert_close(losses.total, expected)
        o.commit()
        assert losses.scalars()["scale"] == 0
    assert objective(replace(CFG, lambda_p=0.0)).state_dict() == {}


def test_ramp_is_zero_then_linear_then_one() -> None:
    cfg = LossConfig(start_epoch=4.0, ramp_epochs=2.0)
    assert [ramp(e, cfg) for e in (0.0, 3.9, 4.0, 5.0, 6.0, 9.0)] == [0, 0, 0, 0.5, 1, 1]
    assert [ramp(e, LossConfig(start_epoch=4.0)) for e in (3.9, 4.0)] == [0, 1]


def test_contrast_starts_and_grows_with_the_epoch() -> None:
    cfg = replace(CFG, start_epoch=2.0, ramp_epochs=2.0, bank=BankConfig(slots=50, warmup=0))
    o, case = objective(cfg), people(0)
    before = o(*case, step=0, epoch=1.0)
    o.commit()
    assert before.skcc == before.prcc == before.scale == 0
    assert (o.state_dict()["skcc.filled"] == 0).all()
    assert case[0].embedding is not None
    (grad,) = torch.autograd.grad(before.total, case[0].embedding)
    assert (grad == 0).all()  # zero, not absent
    half = o(*case, step=1, epoch=3.0)
    assert half.scale == 0.25
    torch.testing.assert_close(half.total - before.total, 0.25 * (0.3 * half.skcc + 0.7 * half.prcc))


@pytest.mark.parametrize("what", ["nobody visible", "one person", "all the same person", "joints off the map"])
def test_nothing_to_compare_is_a_zero_with_a_gradient(what: str) -> None:
    outputs, batch, target, weight = people(0, count=1 if what == "one person" else 3)
    if what == "nobody visible":
        batch.visible = torch.zeros_like(batch.visible)
    if what == "all the same person":
        batch.instance = torch.ones_like(batch.instance)
    if what == "joints off the map":
        batch.joints = batch.joints - 200
    for cfg in (CFG, replace(CFG, skcc=ContrastConfig(), prcc=ContrastConfig(query="random"), points=16)):
        losses = objective(cfg)(outputs, batch, target, weight, step=0, epoch=0.0, diagnose=True)
        assert losses.skcc == losses.prcc == 0
        assert outputs.embedding is not None
        (grad,) = torch.autograd.grad(losses.total, outputs.embedding, retain_graph=True)
        assert (grad == 0).all()
        assert all(torch.tensor(v).isfinite() for v in losses.scalars().values())


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    cfg = replace(CFG, skcc=ContrastConfig(query="random", queries=2, negative="random", negatives=2))
    straight = objective(cfg)
    for step in range(3):
        straight(*people(step), step=step, epoch=0.0)
        straight.commit()
    resumed = objective(cfg)
    resumed.load_state_dict({k: v.clone() for k, v in straight.state_dict().items()})
    for step in range(3, 5):
        totals = []
        for o in (straight, resumed):
            totals.append(o(*people(step), step=step, epoch=0.0).total.item())
            o.commit()
        assert totals[0] == totals[1]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_without_these_banks_is_refused_in_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"the checkpoint has none, this loss \['prcc', 'skcc'\]"):
        objective().load_state_dict({})
    with pytest.raises(CheckpointError, match=r"the checkpoint has \['prcc', 'skcc'\], this loss \['skcc'\]"):
        objective(replace(CFG, lambda_2=0.0)).load_state_dict(objective().state_dict())


def test_a_skeleton_without_limbs_has_no_pair_term() -> None:
    o = objective(skeleton=replace(SKELETON, limbs=()))
    losses = o(*people(0), step=0, epoch=0.0)
    o.commit()
    assert losses.prcc == 0
    assert losses.skcc > 0


def test_point_sets_ask_more_queries_of_the_same_joints() -> None:
    """With 16 points the loss averages over the neighborhood: its gradient reaches more pixels."""
    reached = []
    for points in (1, 16):
        outputs, *rest = people(0)
        losses = objective(replace(CFG, points=points))(outputs, *rest, step=0, epoch=0.0)
        assert outputs.embedding is not None
        (grad,) = torch.autograd.grad(losses.total, outputs.embedding)
        reached.append(int((grad.abs().sum(1) > 0).sum()))
    assert reached[1] > 3 * reached[0]


def test_scalars_relate_the_loss_to_chance() -> None:
    losses = objective()(*people(0), step=0, epoch=0.0, diagnose=True)
    scalars = losses.scalars()
    assert scalars["skcc_over_chance"] == pytest.approx(scalars["skcc"] / scalars["skcc_chance"])
    assert {"prcc_purity", "prcc_cosine", "skcc_bank_fill", "skcc_bank_age"} < scalars.keys()
    assert "skcc_purity" not in objective()(*people(0), step=0, epoch=0.0).scalars()
