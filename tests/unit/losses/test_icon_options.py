"""Every option of contrast, over steps with a bank, against the reference loops, in float64."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.config import BankConfig, ContrastConfig, HeatmapLossConfig, LossConfig
from icon_dist.losses.heatmap import joint_errors
from icon_dist.losses.options import Bank, Inputs, Options, Term
from icon_dist.losses.reference import ReferenceLoss
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch, Outputs, Skeleton

SKELETON = Skeleton(
    "five", ("a", "b", "c", "d", "e"), (), ((0, 1), (2, 3), (1, 3), (4, 0)), (), (0.1,) * 5, 2, (), (), "pck"
)
N, K, M, STEPS, SEED = 4, 5, 6, 3, 7
BASE = LossConfig(
    tau=0.2,
    points=3,
    heatmap=HeatmapLossConfig(weight=0.0),
    skcc=ContrastConfig(queries=2, negatives=2),
    prcc=ContrastConfig(queries=2, negatives=1),
    bank=BankConfig(slots=5, warmup=1),
)
# What is turned on top of BASE; section "both" is single and pair alike.
OPTIONS: dict[str, dict[str, Any]] = {
    "counted": {"counted": "labelled"},
    "read": {"read": "nearest"},
    "positives_from": {"positives_from": "images"},
    "negatives_from_others": {"negatives_from_others": True},
    "others of other images": {"positives_from": "images", "negatives_from_others": True},
    "entropy": {"entropy": "peak"},
    "query_scope": {"query_scope": "batch"},
    "max_queries": {"max_queries": 3},
    "max_negatives": {"max_negatives": 2},
    "points": {"points": 1},
    "no bank": {"bank": BankConfig(slots=0)},
    "intra": {"contrast": "intra"},
    "intra, point mode": {"contrast": "intra", "points": 1},
    "intra, max_queries": {"contrast": "intra", "max_queries": 2},
    "all queries": {"both": {"query": "all"}},
    "random queries": {"both": {"query": "random", "queries": 1, "queries_to": 3}},
    "all negatives": {"both": {"negative": "all"}},
    "random negatives": {"both": {"negative": "random", "negatives": 1, "negatives_to": 3}},
    "random of other images": {"positives_from": "images", "both": {"negative": "random", "negatives": 2}},
    "random in the batch": {"query_scope": "batch", "both": {"query": "random", "queries": 1, "queries_to": 2}},
    "category_score": {"both": {"category_score": "max"}},
    "intra, category_score": {"contrast": "intra", "both": {"category_score": "max"}},
    "single pixel sets, many points": {"points": 9, "max_queries": 4, "max_negatives": 3},
}


def configured(base: LossConfig = BASE, **values: Any) -> LossConfig:
    both = values.pop("both", {})
    base = replace(base, **values)
    return replace(base, skcc=replace(base.skcc, **both), prcc=replace(base.prcc, **both))


def people(seed: int) -> tuple[Outputs, Batch, Tensor, Tensor]:
    """Joints anywhere on the 8x8 map and a little beyond; people and photos come back."""
    g = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(N, M, 8, 8, generator=g, dtype=torch.float64), dim=1).requires_grad_()
    heatmaps = 0.25 * torch.randn(N, K, 8, 8, generator=g, dtype=torch.float64)
    labelled = torch.rand(N, K, generator=g) < 0.9
    instance = torch.randint(0, 6, (N,), generator=g)
    batch = Batch(
        image=torch.zeros(N, 32, 32, 3, dtype=torch.uint8),
        joints=torch.rand(N, K, 2, generator=g, dtype=torch.float64) * 32 - 1.5,  # fp32 would read a little beside it
        labelled=labelled,
        visible=labelled & (torch.rand(N, K, generator=g) < 0.8),
        instance=instance,
        image_id=instance // 2 + 100,
        row=torch.arange(N),
        to_photo=torch.zeros(N, 2, 3),
    )
    return Outputs(heatmaps, embedding), batch, torch.rand(N, K, 8, 8, generator=g).double(), labelled.double()


def found(cfg: LossConfig, *, start: int = 0) -> list[dict[str, Tensor]]:
    """Single, pair and the gradient of their weighted sum, step by step."""
    ours = Objective(cfg, SKELETON, embedding_dim=M, embedding_stride=4, sigma=2.0, seed=SEED)
    out = []
    for step in range(STEPS):
        outputs, *rest = people(start + step)
        losses = ours(outputs, *rest, step=step, epoch=0.0)
        assert outputs.embedding is not None
        (grad,) = torch.autograd.grad(losses.total, outputs.embedding)
        ours.commit()
        out.append({"skcc": losses.skcc, "prcc": losses.prcc, "grad": grad})
    return out


def reference_of(cfg: LossConfig) -> ReferenceLoss:
    def term(weight: float, own: ContrastConfig) -> Term:
        queries = (own.query, own.queries, own.queries_to)
        return Term(weight, *queries, own.negative, own.negatives, own.negatives_to, own.category_score)

    options = Options(
        stride=4,
        points=cfg.points,
        sigma=2.0,
        read=cfg.read,
        contrast=cfg.contrast,
        negatives_from_others=cfg.negatives_from_others,
        entropy=cfg.entropy,
        query_scope=cfg.query_scope,
        max_queries=cfg.max_queries,
        max_negatives=cfg.max_negatives,
        seed=SEED,
    )
    return ReferenceLoss(
        num_joints=K,
        limbs=SKELETON.limbs,
        dim=M,
        tau=cfg.tau,
        bank=Bank(cfg.bank.slots, cfg.bank.warmup),
        skcc=term(cfg.lambda_1, cfg.skcc),
        prcc=term(cfg.lambda_2, cfg.prcc),
        options=options,
    )


def expected(cfg: LossConfig, *, start: int = 0) -> list[dict[str, Tensor]]:
    reference, out = reference_of(cfg), []
    for step in range(STEPS):
        outputs, batch, target, weight = people(start + step)
        errors = joint_errors(outputs.heatmaps, target, weight)
        assert outputs.embedding is not None
        counted = batch.visible if cfg.counted == "visible" else batch.labelled
        image = batch.image_id if cfg.positives_from == "images" else None
        inputs = Inputs(outputs.embedding, batch.joints, counted, batch.instance, outputs.heatmaps, errors, image)
        losses = reference(inputs, step=step)
        (grad,) = torch.autograd.grad(losses["total"], outputs.embedding)
        out.append({name: loss.detach() for name, loss in losses.items()} | {"grad": grad})
    return out


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_equals_the_loops(name: str) -> None:
    """It also matters: the figures differ from those without it."""
    cfg = configured(**OPTIONS[name])
    ours = found(cfg)
    for step, (mine, right) in enumerate(zip(ours, expected(cfg), strict=True)):
        for what in ("skcc", "prcc", "grad"):
            torch.testing.assert_close(mine[what], right[what], rtol=1e-7, atol=1e-7, msg=f"{what} of step {step}")
    pairs = zip(ours, found(BASE), strict=True)
    assert any(abs(mine[term] - plain[term]) > 1e-3 for mine, plain in pairs for term in ("skcc", "prcc"))


CHOICES: dict[str, tuple[Any, ...]] = {
    "contrast": ("inter", "inter", "inter", "intra"),
    "counted": ("visible", "labelled"),
    "read": ("bilinear", "nearest"),
    "positives_from": ("persons", "images"),
    "negatives_from_others": (False, True),
    "entropy": ("heatmap", "peak"),
    "query_scope": ("person", "batch"),
    "max_queries": (0, 1, 4),
    "max_negatives": (0, 1, 3),
    "points": (1, 4),
}


def drawn_at_random(seed: int) -> LossConfig:
    g = torch.Generator().manual_seed(seed)

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=g))]

    def section() -> ContrastConfig:
        return ContrastConfig(
            query=pick("hard", "random", "all"),
            queries=pick(1, 2, 4),
            queries_to=pick(0, 5),
            negative=pick("hard", "random", "all"),
            negatives=pick(1, 2, 3),
            negatives_to=pick(0, 4),
            category_score=pick("mean", "max"),
        )

    values = {key: pick(*some) for key, some in CHOICES.items()}
    bank = BankConfig(slots=pick(2, 3, 9) * pick(1, 1, 0), warmup=pick(1, 2))
    return replace(BASE, **values, skcc=section(), prcc=section(), bank=bank)


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 120), marks=pytest.mark.slow)])
def test_any_mixture_of_options_equals_the_loops(seeds: range) -> None:
    for seed in seeds:
        cfg = drawn_at_random(seed)
        for step, (mine, right) in enumerate(zip(found(cfg, start=seed), expected(cfg, start=seed), strict=True)):
            for what in ("skcc", "prcc", "grad"):
                torch.testing.assert_close(
                    mine[what], right[what], rtol=1e-7, atol=1e-7, msg=f"seed {seed}: {what} of step {step}, {cfg}"
                )


def test_intra_keeps_no_bank_and_still_measures_people_against_each_other() -> None:
    """Purity and cosine are of different people, as for the rows of Table 5 that intra is compared with."""
    plain, intra = (
        Objective(cfg, SKELETON, embedding_dim=M, embedding_stride=4, sigma=2.0, seed=SEED)
        for cfg in (BASE, configured(contrast="intra"))
    )
    for step, diagnose in itertools.product(range(2), (False, True)):
        scalars = [o(*people(step), step=step, epoch=0.0, diagnose=diagnose).scalars() for o in (plain, intra)]
        for o in (plain, intra):
            o.commit()
        if diagnose:
            for name in ("skcc_purity", "skcc_cosine", "prcc_purity", "prcc_cosine"):
                assert scalars[0][name] == scalars[1][name]
            assert "skcc_bank_fill" not in scalars[1]
    assert intra.state_dict().keys() == {"step"}, "no bank"
    assert plain.state_dict()


def test_chance_within_a_person_is_the_loss_of_embeddings_all_alike() -> None:
    ours = Objective(configured(contrast="intra"), SKELETON, embedding_dim=M, embedding_stride=4, sigma=2.0, seed=SEED)
    outputs, *rest = people(0)
    assert outputs.embedding is not None
    measured = ours(outputs, *rest, step=0, epoch=0.0, diagnose=True)
    alike = ours(replace(outputs, embedding=torch.ones_like(outputs.embedding)), *rest, step=0, epoch=0.0)
    assert measured.health["skcc"].chance == pytest.approx(alike.skcc.item(), rel=1e-6)
    assert measured.health["prcc"].chance == pytest.approx(alike.prcc.item(), rel=1e-6)
    assert measured.skcc != alike.skcc
