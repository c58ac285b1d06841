"""IconLoss as a stranger uses it: plain tensors in a loop of one's own, against the loops of the reference and the
trainer's objective; and what it remembers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icon_dist
from icon_dist.config import BankConfig, ContrastConfig, LossConfig
from icon_dist.errors import CheckpointError
from icon_dist.losses.heatmap import joint_errors
from icon_dist.losses.icon import IconLoss, IconOutput
from icon_dist.losses.options import Bank, Inputs, Options, Term
from icon_dist.losses.reference import ReferenceLoss
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch, Outputs, Skeleton

LIMBS = ((0, 1), (2, 3), (1, 3))
SIZES = {"num_joints": 4, "limbs": LIMBS, "dim": 6}
N, K, M = 5, 4, 6
RANDOM = {"query": "random", "queries": 1, "queries_to": 3, "negative": "random", "negatives": 1, "negatives_to": 3}
FEW = Options(points=3)  # for loops in Python
VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "with a bank": {"bank": Bank(7, warmup=1), "tau": 0.2, "options": FEW},
    "SKCC alone, no bank": {"prcc": 0.0, "bank": 0, "options": FEW},
    "PRCC alone": {"skcc": 0.0, "bank": Bank(3, warmup=1)},
    "at random": {"skcc": Term(0.5, **RANDOM), "prcc": Term(0.5, **RANDOM), "bank": Bank(5, warmup=1), "options": FEW},
    "point mode": {"options": Options(points=1, read="nearest", max_negatives=2, seed=5), "bank": Bank(9, warmup=1)},
    "within an instance": {"options": Options(contrast="intra", points=4)},
    "chains of three": {"limbs": ((0, 1, 3), (2, 3, 1), (0, 1, 2)), "bank": Bank(7, warmup=1), "options": FEW},
    "chains of four": {"limbs": ((0, 1, 3, 2), (2, 0, 3, 1)), "skcc": 0.0, "bank": Bank(3, warmup=1), "options": FEW},
    "many queries, few of them": {"options": Options(max_queries=3, query_scope="batch", entropy="peak")},
}


def batch(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Joints on the 8x8 map and a little beyond; instances come back, within the batch too."""
    g = torch.Generator().manual_seed(seed)
    return {
        "embedding": torch.randn(N, M, 8, 8, generator=g, dtype=dtype).requires_grad_(),
        "joints": (torch.rand(N, K, 2, generator=g, dtype=torch.float64) * 32 - 1.5).to(dtype),
        "visible": torch.rand(N, K, generator=g) < 0.8,
        "instance_id": torch.randint(0, 6, (N,), generator=g),
        "heatmaps": 0.25 * torch.randn(N, K, 8, 8, generator=g, dtype=dtype),
        "errors": torch.rand(N, K, generator=g, dtype=dtype),
    }


def steps(loss: IconLoss, seeds: range, **more: Any) -> list[tuple[IconOutput, Tensor]]:
    found = []
    for seed in seeds:
        inputs = batch(seed)
        out = loss(**inputs, **more)
        found.append((out, torch.autograd.grad(out.total, inputs["embedding"])[0]))
        loss.commit()
    return found


def test_the_first_px_of_the_map_lies_at_the_origin() -> None:
    """As if the joints were that much further left and above: the pixels around them are not read in point mode."""
    inputs, moved = batch(0), batch(0)
    moved["joints"] = moved["joints"] - 1.5
    totals = []
    for given, options in ((inputs, Options(points=1, origin=1.5)), (moved, Options(points=1))):
        totals.append(IconLoss(**SIZES, options=options)(**given).total)
    assert torch.equal(*totals)
    assert not torch.equal(totals[0], IconLoss(**SIZES, options=Options(points=1))(**inputs).total)


def test_a_narrow_gaussian_leaves_the_joint_alone() -> None:
    """One px away it is exp(-1 / (2 .8^2)) = .46, below the .5 of a pixel that is read; at 1 it is .61."""
    narrow, wide, point = (
        IconLoss(**SIZES, options=options)(**batch(0)).total
        for options in (Options(sigma=0.8), Options(sigma=1), Options(points=1))
    )
    assert torch.equal(narrow, point)
    assert not torch.equal(wide, point)


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_loops_of_the_reference(name: str) -> None:
    ours, reference = IconLoss(**SIZES | VARIANTS[name]), ReferenceLoss(**SIZES | VARIANTS[name])
    compared = 0
    for step, (out, grad) in enumerate(steps(ours, range(5))):
        inputs = batch(step)
        right = reference(Inputs(**inputs), step=step)
        for term in ("skcc", "prcc", "total"):
            torch.testing.assert_close(getattr(out, term).detach(), right[term].detach(), rtol=1e-9, atol=1e-9)
        (expected,) = torch.autograd.grad(right["total"], inputs["embedding"])
        torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-9)
        compared += bool(right["total"] > 0)
    assert compared >= 2


@pytest.mark.parametrize("name", VARIANTS)
def test_embeddings_of_the_pixels_that_are_read_do_for_the_whole_map(name: str) -> None:
    whole, part = IconLoss(**SIZES | VARIANTS[name]), IconLoss(**SIZES | VARIANTS[name])
    for step, (right, expected) in enumerate(steps(whole, range(3))):
        inputs = batch(step)
        some = part.pixels(inputs["joints"], inputs["visible"], hw=(32, 32))
        place = some.place[:, None].expand(-1, M, -1)
        embedding = inputs["embedding"].flatten(2).gather(2, place)[:, :, None]
        out = part(**inputs | {"embedding": (embedding, some)})
        torch.testing.assert_close(out.total, right.total, rtol=1e-9, atol=1e-9)
        grad = torch.autograd.grad(out.total, inputs["embedding"])[0]
        torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-9)
        part.commit()


def test_positives_of_other_images() -> None:
    image = torch.tensor([0, 0, 1, 1, 1])
    ours, reference = IconLoss(**SIZES), ReferenceLoss(**SIZES)
    inputs = batch(0) | {"instance_id": torch.arange(N)}
    right = reference(Inputs(**inputs, image_id=image), step=0)
    torch.testing.assert_close(ours(**inputs, image_id=image).skcc, right["skcc"].detach())
    assert ours(**inputs, step=0).skcc != right["skcc"]


def test_the_budget_is_of_each_micro_batch() -> None:
    """Two instances of each of a step's three calls, whose queries find them as keys and the next step in the bank."""
    loss = IconLoss(**SIZES, bank=Bank(12, warmup=0, budget=2))
    for call in range(3):
        inputs = batch(call) | {
            "instance_id": torch.arange(N) + 10 * call,
            "visible": torch.ones(N, K, dtype=torch.bool),
        }
        inputs["joints"] = torch.full((N, K, 2), 12.0, dtype=torch.float64)
        loss(**inputs, step=0)
    loss.commit()
    state = loss.state_dict()
    assert state["skcc.filled"].tolist() == [6] * K
    for ids in state["skcc.instance"][:, :6]:
        assert sorted((ids // 10).tolist()) == [0, 0, 1, 1, 2, 2]


CONFIGS = {
    "as it comes": (LossConfig(), {}),
    "everything else": (
        LossConfig(
            tau=0.2,
            lambda_1=0.5,
            lambda_2=0.25,
            points=3,
            counted="labelled",
            read="nearest",
            negatives_from_others=True,
            entropy="peak",
            max_queries=4,
            max_negatives=3,
            skcc=ContrastConfig(**RANDOM),
            prcc=ContrastConfig(category_score="max"),
            bank=BankConfig(slots=6, warmup=1, wire="bf16", budget=3),
        ),
        {
            "tau": 0.2,
            "bank": Bank(6, warmup=1, wire="bf16", budget=3),
            "skcc": Term(0.5, **RANDOM),
            "prcc": Term(0.25, category_score="max"),
            "options": Options(
                points=3, read="nearest", negatives_from_others=True, entropy="peak", max_queries=4, max_negatives=3
            ),
        },
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loop_of_ones_own_has_the_bits_of_the_trainer(name: str) -> None:
    cfg, arguments = CONFIGS[name]
    skeleton = Skeleton("four", ("a", "b", "c", "d"), (), LIMBS, (), (0.1,) * 4, 2, (), (), "pck")
    trainer = Objective(cfg, skeleton, embedding_dim=M, embedding_stride=4, sigma=2.0, seed=0)
    own = IconLoss(**SIZES, **arguments)
    for step in range(4):
        given = batch(step, torch.float32)
        target, weight = torch.rand(N, K, 8, 8), given["visible"].float()
        labels = {"labelled": given["visible"], "visible": given["visible"], "instance": given["instance_id"]}
        unused = {"image_id": torch.arange(N), "row": torch.arange(N), "to_photo": torch.zeros(N, 2, 3)}
        people = Batch(torch.zeros(N, 32, 32, 3, dtype=torch.uint8), given["joints"], **labels, **unused)
        outputs = Outputs(given["heatmaps"].requires_grad_(), given["embedding"])
        theirs = trainer(outputs, people, target, weight, step=step, epoch=0.0).total
        errors = joint_errors(given["heatmaps"], target, weight, reduction="sum")
        ours = errors.mean() + own(**given | {"errors": errors}).total
        trainer.commit()
        own.commit()
        assert torch.equal(ours, theirs)
        leaves = [given["embedding"], given["heatmaps"]]
        for mine, right in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
            assert torch.equal(mine, right)
    assert same(own.state_dict(), trainer.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_random_queries_need_no_heatmaps() -> None:
    inputs = batch(0)
    bare = {name: x for name, x in inputs.items() if name not in ("heatmaps", "errors")}
    loss = IconLoss(**SIZES, skcc=Term(0.3, query="random"), prcc=Term(0.7, query="all"))
    assert torch.equal(loss(**inputs, step=0).total, loss(**bare, step=0).total)


def test_state_within_another_module_goes_on_bit_for_bit() -> None:
    def made() -> nn.Module:
        return nn.ModuleDict({"net": nn.Linear(2, 2), "icon": IconLoss(**SIZES, bank=Bank(7, warmup=1))})

    straight, resumed = made(), made()
    steps(straight["icon"], range(3))
    state = straight.state_dict()
    assert {"net.weight", "icon.step", "icon.skcc.features", "icon.prcc.began"} < state.keys()
    assert not list(straight["icon"].parameters()) + list(straight["icon"].buffers())
    resumed.load_state_dict({name: x.clone() for name, x in state.items()})
    for mine, right in zip(steps(resumed["icon"], range(3, 5)), steps(straight["icon"], range(3, 5)), strict=True):
        assert torch.equal(mine[0].total, right[0].total)
        assert torch.equal(mine[1], right[1])
    assert same(resumed.state_dict(), straight.state_dict())


def test_weights_of_a_module_that_was_trained_without_it_load_as_torch_has_it() -> None:
    module = nn.ModuleDict({"net": nn.Linear(2, 2), "icon": IconLoss(**SIZES)})
    state = nn.ModuleDict({"net": nn.Linear(2, 2)}).state_dict()
    assert {"icon.step", "icon.skcc.features"} < set(module.load_state_dict(state, strict=False).missing_keys)
    with pytest.raises(RuntimeError, match=r"icon\.step"):
        module.load_state_dict(state)


def test_a_bank_of_another_size_keeps_the_newest() -> None:
    large, small = IconLoss(**SIZES, bank=50), IconLoss(**SIZES, bank=2)
    steps(large, range(3))
    small.load_state_dict(large.state_dict())
    assert small.state_dict()["skcc.features"].shape == (K, 2, M)
    assert (small.state_dict()["skcc.filled"] == 2).all()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"dim": 5}, "features is [4, 512, 5] in the checkpoint, [4, 512, 6] here"),
        ({"prcc": 0.0}, "the checkpoint has ['skcc'], this loss ['prcc', 'skcc']"),
        ({"bank": 0}, "the checkpoint has none"),
    ],
)
def test_a_state_of_another_loss_is_refused(other: dict[str, Any], text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        IconLoss(**SIZES).load_state_dict(IconLoss(**SIZES | other).state_dict())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_without_a_number_is_refused() -> None:
    loss = IconLoss(**SIZES)
    for step in (torch.tensor(-1), torch.tensor(2.0), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(CheckpointError, match="step is not the number of a step"):
            loss.load_state_dict(loss.state_dict() | {"step": step})


def test_a_step_that_was_not_committed_is_an_error_at_the_next() -> None:
    loss = IconLoss(**SIZES)
    loss(**batch(0))
    with pytest.raises(RuntimeError, match=r"step 0 was not committed; call commit\(\) after optimizer.step\(\)"):
        loss(**batch(1))
    loss.commit()
    loss.commit()  # nothing to do
    loss(**batch(1))
    assert loss.pending == 1
    with pytest.raises(RuntimeError, match="step 1 was not committed"):
        loss(**batch(2), step=2)


def test_a_discarded_step_leaves_nothing() -> None:
    loss, without = IconLoss(**SIZES), IconLoss(**SIZES)
    steps(loss, range(1))
    steps(without, range(1))
    loss(**batch(1))
    loss.discard()
    assert same(loss.state_dict(), without.state_dict())


@pytest.mark.parametrize("exchange", ["sync", "async"])
def test_a_flag_on_the_device_decides_as_the_host_would(exchange: str) -> None:
    bank = Bank(7, warmup=1, exchange=exchange)
    flagged, asked = IconLoss(**SIZES, bank=bank), IconLoss(**SIZES, bank=bank)
    for seed, good in enumerate([False, True, False, True, True]):
        found, right = flagged(**batch(seed), step=seed), asked(**batch(seed), step=seed)
        assert torch.equal(found.total, right.total)
        flagged.commit(torch.tensor(good))
        asked.commit() if good else asked.discard()
        assert same(flagged.state_dict(), asked.state_dict())


def test_micro_batches_of_a_step_enter_the_bank_together() -> None:
    loss, reference = IconLoss(**SIZES, bank=50), IconLoss(**SIZES, bank=50)
    for seed in (0, 1):
        loss(**batch(seed), step=0)
    assert (loss.state_dict()["skcc.filled"] == 0).all()
    loss.commit()
    steps(reference, range(2))
    assert torch.equal(loss.state_dict()["skcc.features"], reference.state_dict()["skcc.features"])
    assert loss.state_dict()["step"] == 1
    assert (loss.state_dict()["skcc.step"] <= 0).all()


def test_evaluation_remembers_nothing() -> None:
    loss = IconLoss(**SIZES, bank=Bank(7, warmup=1))
    steps(loss, range(3))
    before = loss.state_dict()
    with torch.no_grad():
        values = [loss.eval()(**batch(9)) for _ in range(2)]
    assert values[0].total == values[1].total > 0
    assert values[0].health()["skcc"].bank_fill > 0
    assert same(loss.train().state_dict(), before)


def test_what_is_not_finite_stays_out_of_the_bank() -> None:
    """A loop that commits a broken step would else have NaN for as long as the bank remembers it."""
    loss = IconLoss(**SIZES, bank=Bank(50, warmup=1))
    broken = batch(0) | {"instance_id": torch.arange(N)}
    broken["embedding"].data[2] = torch.nan
    assert loss(**broken).total.isnan()
    loss.commit()
    state = loss.state_dict()
    assert state["skcc.features"].isfinite().all()
    assert state["skcc.instance"].unique().tolist() == [-1, 0, 1, 3, 4]
    assert steps(loss, range(1, 3))[-1][0].total.isfinite()


def test_unknown_joints_may_be_nan() -> None:
    known = batch(0)
    unknown = known | {
        "joints": torch.where(known["visible"][..., None], known["joints"], torch.nan),
        "errors": torch.where(known["visible"], known["errors"], torch.nan),
    }
    values = []
    for inputs in (known, unknown):
        total = IconLoss(**SIZES)(**inputs).total
        values.append((total, torch.autograd.grad(total, inputs["embedding"])[0]))
    assert torch.equal(values[0][0], values[1][0])
    assert torch.equal(values[0][1], values[1][1])


def test_an_instance_is_never_its_own_positive() -> None:
    """Two views of one instance have nobody to be pulled to; a third, of another, is a positive of both."""
    alone = batch(0) | {"instance_id": torch.zeros(N, dtype=torch.int64), "visible": torch.ones(N, K).bool()}
    assert IconLoss(**SIZES)(**alone).total == 0
    alone["instance_id"][0] = 7
    assert IconLoss(**SIZES)(**alone).total > 0


def test_health_is_that_of_the_log() -> None:
    loss = IconLoss(**SIZES, bank=Bank(7, warmup=1))
    steps(loss, range(2))
    out = loss(**batch(2))
    health = out.health()
    assert health.keys() == {"skcc", "prcc"}
    scalars = health["skcc"].scalars(out.skcc.item())
    assert scalars.keys() == {"chance", "cosine", "purity", "bank_fill", "bank_age", "over_chance"}
    assert scalars["over_chance"] == pytest.approx(out.skcc.item() / scalars["chance"])
    collapsed = IconLoss(**SIZES)(**batch(2) | {"embedding": torch.ones(N, M, 8, 8)})
    assert collapsed.health()["prcc"].cosine.item() == pytest.approx(1)
    assert collapsed.prcc.item() == pytest.approx(collapsed.health()["prcc"].chance.item(), rel=0.2)


def test_bf16_under_autocast_is_fp32() -> None:
    inputs = batch(0, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = IconLoss(**SIZES)(**inputs | {"embedding": inputs["embedding"].bfloat16()})
    assert out.total.dtype == torch.float32
    assert out.total > 0


def test_hard_queries_are_scored_in_fp32_whatever_comes() -> None:
    """The loops read the numbers of a model in bf16 in double precision; sums in bf16 would rank joints otherwise."""
    settings: dict[str, Any] = {"num_joints": 17, "limbs": (), "dim": M, "skcc": Term(1.0, queries=3), "prcc": 0.0}
    settings |= {"bank": 0, "options": Options(points=1)}
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        inputs = Inputs(
            embedding=torch.randn(N, M, 8, 8, generator=g, dtype=torch.float64),
            joints=torch.rand(N, 17, 2, generator=g) * 28,
            visible=torch.ones(N, 17, dtype=torch.bool),
            instance_id=torch.arange(N),
            heatmaps=(0.1 * torch.rand(N, 17, 8, 8, generator=g)).bfloat16(),
            errors=torch.rand(N, 17, generator=g).bfloat16(),
        )
        given = {name: value for name, value in vars(inputs).items() if name != "pixels"}
        right = ReferenceLoss(**settings)(inputs, step=0)["total"]
        torch.testing.assert_close(IconLoss(**settings)(**given).total, right, rtol=1e-6, atol=1e-6)


def test_sampling_has_the_defaults_of_the_config() -> None:
    from icon_dist.losses.options import PRCC, SKCC

    cfg = LossConfig()
    assert vars(SKCC) == {"weight": cfg.lambda_1} | vars(cfg.skcc)
    assert vars(PRCC) == {"weight": cfg.lambda_2} | vars(cfg.prcc)
    shared = {name: value for name, value in vars(Options()).items() if hasattr(cfg, name)}
    assert len(shared) == 9
    assert shared == {name: getattr(cfg, name) for name in shared}
    assert vars(Bank()) == {name: getattr(cfg.bank, name) for name in vars(Bank())}
    assert replace(Bank(), slots=0) != Bank()


def test_public_names_are_loaded_when_they_are_used() -> None:
    assert icon_dist.IconLoss is IconLoss
    assert icon_dist.load_skeleton("coco").limbs == icon_dist.COCO_LIMBS
    assert set(icon_dist.__all__) <= set(dir(icon_dist))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = icon_dist.Nothing
