"""The plan of a run against sums done by hand, and against the checkpoint that the run then writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from icon_dist.config import Config, load
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError, DataError
from icon_dist.models import from_config
from icon_dist.shards.label_split import split
from icon_dist.shards.shard_set import ShardSet, Texts, open_shards
from icon_dist.training.contrast_check import check_contrast
from icon_dist.training.memory import Memory
from icon_dist.training.plan import Plan, plan_run
from icon_dist.types import Skeleton
from tests.support.training import tiny

SKELETONS = {name: load_skeleton(name) for name in ("coco", "mpii", "crowdpose", "lsp")}
COCO = SKELETONS["coco"]


@pytest.fixture
def shards(people: Path) -> ShardSet:
    return open_shards(str(people / "train"))


def refused(config: Config, shards: ShardSet) -> str:
    with pytest.raises(ConfigError) as error:
        plan_run(config, shards)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- sums


def test_numbers_of_a_small_run(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    n = len(shards)
    assert n >= 64
    config = tiny(people, tmp_path, run__workers=2, optim__batch=24, optim__micro_batch=4, optim__epochs=5)
    plan = plan_run(config, shards)
    assert (plan.people, plan.shards, plan.workers) == (n, len(list((people / "train").glob("*.tar"))), 2)
    assert plan.shard_bytes == sum(path.stat().st_size for path in (people / "train").glob("*.tar"))
    assert (plan.batch, plan.micro_batch, plan.accumulation) == (24, 4, 3)  # 24 / 2 workers / 4
    assert plan.streams == 24  # the largest divisor of 24 up to 256
    assert (plan.steps_per_epoch, plan.total_steps) == (n // 24, 5 * (n // 24))


def test_a_micro_batch_is_no_larger_than_a_workers_part(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    plan = plan_run(tiny(people, tmp_path, optim__batch=16, optim__micro_batch=64, run__workers=2), shards)
    assert (plan.micro_batch, plan.accumulation) == (8, 1)


@pytest.mark.parametrize(("batch", "streams"), [(64, 64), (256, 256), (512, 256), (300, 150), (257, 1)])
def test_streams_by_default(people: Path, tmp_path: Path, shards: ShardSet, batch: int, streams: int) -> None:
    keypoints = np.tile(shards.keypoints, (9, 1, 1))
    many = dataclasses.replace(
        shards, key=Texts(pa.array([*shards.key] * 9)), instance=np.arange(9 * len(shards)), keypoints=keypoints
    )
    config = tiny(people, tmp_path, optim__batch=batch, optim__micro_batch=batch, run__workers=1)
    assert plan_run(config, many).streams == streams


def test_text() -> None:
    plan = Plan(
        people=149_813,
        shards=300,
        shard_bytes=5_430_000_000,
        workers=4,
        batch=128,
        micro_batch=16,
        accumulation=2,
        streams=128,
        steps_per_epoch=1170,
        epochs=210,
        parameters=28_536_113,
        checkpoint_bytes=346_000_000,
        memory=Memory(network=460_000_000, checkpoint=346_000_000, crops=0, index=57_000_000, loaders=4, ray=True),
        split=split(np.arange(149_813), share=1, seed=0),
        unlabelled_batch=0,
    )
    assert str(plan).splitlines() == [
        "data        149813 people in 300 shards, 5.4 GB",
        "batch       128 = 4 workers x 16 x 2 micro-batches",
        "steps       245700 = 210 epochs x 1170, 53 people left out of each, others each time",
        "streams     128, 32 per worker",
        "model       28.54 M parameters, trained",
        "checkpoint  346.0 MB",
        "memory      a worker 1.3 GB and activations: program 0.5, network 0.5, a checkpoint under way 0.3",
        "            index 0.1 a host, each loader 0.1, driver 0.4, Ray 2.7 a node",
    ]
    even = dataclasses.replace(
        plan,
        split=split(np.arange(149_760), share=1, seed=0),
        people=149_760,
        accumulation=1,
        batch=64,
        steps_per_epoch=2340,
        shard_bytes=999,
    )
    lines = str(even).splitlines()
    assert lines[0].endswith("300 shards, 999 B")
    assert lines[1] == "batch       64 = 4 workers x 16"
    assert lines[2] == "steps       491400 = 210 epochs x 2340"


@pytest.mark.parametrize(
    ("backbone", "lambda_p", "parameters"),
    [
        # published; with D channels in and m = 256 out, the projection head has D m + 2 m + m m + m more
        ("hrnet_w32", 0, 28_536_113),
        ("hrnet_w48", 0, 63_595_745),
        ("resnet50", 0, 33_999_697),
        ("hrnet_w32", 1, 28_536_113 + 32 * 256 + 2 * 256 + 256 * 256 + 256),
        ("resnet50", 1, 33_999_697 + 1024 * 256 + 2 * 256 + 256 * 256 + 256),
    ],
)
def test_trained_parameters(backbone: str, lambda_p: float, parameters: int) -> None:
    config = load("coco", {"model.backbone": backbone, "loss.lambda_p": lambda_p})
    with torch.device("meta"):
        model = from_config.build(config, COCO)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("off", [{"loss__lambda_p": 0}, {"loss__lambda_1": 0, "loss__lambda_2": 0}])
def test_without_contrast_there_is_no_head_and_no_bank(
    people: Path, tmp_path: Path, shards: ShardSet, off: dict[str, float]
) -> None:
    """A head that nothing trains would have no optimizer state to save."""
    config = tiny(people, tmp_path, **off)
    assert not any(
        name.startswith("projection") for name, _ in from_config.build(config, shards.skeleton).named_parameters()
    )
    without_bank = tiny(people, tmp_path, loss__bank__slots=0, **off)
    assert plan_run(config, shards).checkpoint_bytes == plan_run(without_bank, shards).checkpoint_bytes


# -------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(("workers", "fits"), [(3, 2), (5, 4)])
def test_workers_divide_the_streams(people: Path, tmp_path: Path, shards: ShardSet, workers: int, fits: int) -> None:
    config = tiny(people, tmp_path, run__workers=workers, optim__batch=4 * workers, data__streams=4)
    text = refused(config, shards)
    assert f"run.workers={workers}: " in text
    assert f"does not divide data.streams=4; use {fits} workers" in text


def test_people_fill_a_batch(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    with pytest.raises(DataError, match=rf"{len(shards)} people do not fill one batch; lower optim.batch=512"):
        plan_run(tiny(people, tmp_path, optim__batch=512), shards)


def test_an_unknown_backbone_lists_the_names(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    text = refused(tiny(people, tmp_path, model__backbone="hrnet_w33"), shards)
    assert "model.backbone=hrnet_w33" in text
    assert "hrnet_w32" in text
    assert "resnet50" in text


@pytest.mark.parametrize(
    ("preset", "skeleton"),
    [("coco", "coco"), ("mpii", "mpii"), ("crowdpose", "crowdpose"), ("lsp", "lsp"), ("coco_384", "coco")],
)
def test_the_presets_fit_their_skeletons(preset: str, skeleton: str) -> None:
    check_contrast(load(preset).loss, SKELETONS[skeleton])


def test_how_many_categories_there_are() -> None:
    counts = {name: (s.num_joints, len(s.limbs)) for name, s in SKELETONS.items()}
    assert counts == {"coco": (17, 8), "mpii": (16, 8), "crowdpose": (14, 8), "lsp": (14, 8)}


@pytest.mark.parametrize(
    ("skeleton", "key", "most", "what"),
    [
        ("coco", "loss.skcc.negatives", 16, "17 joints"),
        ("coco", "loss.skcc.queries", 17, "17 joints"),
        ("coco", "loss.prcc.negatives", 7, "8 limb pairs"),
        ("coco", "loss.prcc.queries", 8, "8 limb pairs"),
        ("crowdpose", "loss.skcc.negatives", 13, "14 joints"),
        ("mpii", "loss.skcc.queries", 16, "16 joints"),
    ],
)
@pytest.mark.parametrize("strategy", ["hard", "random"])
def test_no_more_categories_than_there_are(skeleton: str, key: str, most: int, what: str, strategy: str) -> None:
    strategies = {f"loss.{t}.{s}": strategy for t in ("skcc", "prcc") for s in ("query", "negative")}
    check_contrast(load("coco", strategies | {key: most}).loss, SKELETONS[skeleton])
    with pytest.raises(ConfigError) as error:
        check_contrast(load("coco", strategies | {key: most + 1}).loss, SKELETONS[skeleton])
    rule = f"{key}={most + 1}: skeleton {skeleton} has {what}; expected at most {most}"
    assert str(error.value) == f"{rule}; set {key}={most}"


def test_the_upper_end_of_a_random_count_is_checked_too() -> None:
    values = {"loss.skcc.negative": "random", "loss.skcc.negatives_to": 17}
    with pytest.raises(ConfigError, match=r"loss.skcc.negatives_to=17: .*expected at most 16"):
        check_contrast(load("coco", values).loss, COCO)


def test_the_papers_random_sampling_fits() -> None:
    """Table 7: SKCC Q 6-9 and Hn 5-10; PRCC Q 3-5 and Hn 4 to all the other 7 pairs."""
    values: dict[str, object] = {}
    for term, queries, negatives in (("skcc", (6, 9), (5, 10)), ("prcc", (3, 5), (4, 7))):
        for strategy, count, (low, high) in (("query", "queries", queries), ("negative", "negatives", negatives)):
            values[f"loss.{term}.{strategy}"] = "random"
            values[f"loss.{term}.{count}"], values[f"loss.{term}.{count}_to"] = low, high
    check_contrast(load("coco", values).loss, COCO)


def test_counts_that_nothing_reads_are_not_judged() -> None:
    check_contrast(load("coco", {"loss.lambda_2": 0, "loss.prcc.negatives": 99}).loss, COCO)
    check_contrast(load("coco", {"loss.lambda_p": 0, "loss.skcc.queries": 99}).loss, COCO)


@pytest.mark.parametrize("limbs", [(), ((5, 7),)])
def test_pairs_need_pairs(limbs: tuple[tuple[int, int], ...]) -> None:
    few: Skeleton = dataclasses.replace(COCO, name="few", limbs=limbs)
    with pytest.raises(ConfigError) as error:
        check_contrast(load("coco").loss, few)
    assert str(error.value) == (
        f"loss.lambda_2=0.7: skeleton few has {'1 limb pair' if limbs else '0 limb pairs'}, contrast needs 2; "
        "set loss.lambda_2=0"
    )
    check_contrast(load("coco", {"loss.lambda_2": 0}).loss, few)


def test_a_plan_is_checked_against_the_skeleton_of_its_shards(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    most = shards.skeleton.num_joints - 1
    text = refused(tiny(people, tmp_path, loss__skcc__negatives=most + 1), shards)
    assert f"loss.skcc.negatives={most + 1}" in text
    assert f"{most + 1} joints" in text


# ---------------------------------------------------------------------------------------------- people without labels

SEMI = {
    "data__labelled": 0.25,
    "semi__method": "sspose",
    "run__workers": 2,
    "optim__batch": 16,
    "optim__micro_batch": 4,
}


def test_epochs_count_labelled_people(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    known = round(len(shards) / 4)
    plan = plan_run(tiny(people, tmp_path, **SEMI), shards)
    assert (plan.batch, plan.unlabelled_batch, plan.accumulation) == (16, 8, 2)
    assert plan.steps_per_epoch == known // 8
    assert len(plan.split.labelled) == known
    line = str(plan).splitlines()[1]
    assert line.startswith(f"labels      {known} people (seed 0, sha256 {plan.split.fingerprint[:12]}); ")
    assert line.endswith(f"{len(shards) - known} come without, 8 of each batch; epochs count those with labels")
    alone = plan_run(tiny(people, tmp_path, **{**SEMI, "semi__method": "none"}), shards)
    assert alone.steps_per_epoch == known // 16
    assert str(alone).splitlines()[1].endswith(f"{len(shards) - known} are not used")
    assert plan.parameters == 2 * alone.parameters
    assert plan.checkpoint_bytes == 2 * alone.checkpoint_bytes


@pytest.mark.parametrize(("share", "kind"), [(0.05, "labelled"), (0.95, "unlabelled")])
def test_both_kinds_fill_a_batch(people: Path, tmp_path: Path, shards: ShardSet, share: float, kind: str) -> None:
    few = round(len(shards) * 0.05) if kind == "labelled" else len(shards) - round(len(shards) * 0.95)
    with pytest.raises(DataError, match=rf"{few} {kind} people do not fill one batch; lower optim.batch=16"):
        plan_run(tiny(people, tmp_path, **{**SEMI, "data__labelled": share}), shards)
