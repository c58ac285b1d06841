"""The plan of a run against sums done by hand, and against the checkpoint that the run then writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from icon_dist import train
from icon_dist.config import Config, check_schedule, load, presets
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError, DataError, IconError, StoppedError, gathering, naming, run_cli
from icon_dist.shards.label_split import split
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.training.plan import Plan, check_contrast, model_of, plan_run
from icon_dist.types import Skeleton
from tests import objects
from tests.gang import tiny

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
    many = dataclasses.replace(shards, key=shards.key * 9, instance=np.arange(9 * len(shards)), keypoints=keypoints)
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
        split=split(np.arange(149_813), share=1, seed=0),
        unlabelled_batch=0,
    )
    assert str(plan).splitlines() == [
        "data        149813 people in 300 shards, 5.4 GB",
        "batch       128 = 4 workers x 16 x 2 micro-batches",
        "steps       245700 = 210 epochs x 1170, 53 left out of each (others each time)",
        "streams     128, 32 per worker",
        "model       28.54 M parameters, trained",
        "checkpoint  346.0 MB",
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
        # METHOD 4; with D channels in and m = 256 out, the head of METHOD 2.1 has D m + 2 m + m m + m more
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
        model = model_of(config, COCO)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("off", [{"loss__lambda_p": 0}, {"loss__lambda_1": 0, "loss__lambda_2": 0}])
def test_without_contrast_there_is_no_head_and_no_bank(
    people: Path, tmp_path: Path, shards: ShardSet, off: dict[str, float]
) -> None:
    """A head that nothing trains would have no optimizer state to save."""
    config = tiny(people, tmp_path, **off)
    assert not any(name.startswith("projection") for name, _ in model_of(config, shards.skeleton).named_parameters())
    without_bank = tiny(people, tmp_path, loss__bank__enabled=False, **off)
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
    """METHOD 2.10: SKCC Q 6-9 and Hn 5-10; PRCC Q 3-5 and Hn 4 to all the other 7 pairs."""
    values: dict[str, object] = {}
    for term, queries, negatives in (("skcc", (6, 9), (5, 10)), ("prcc", (3, 5), (4, 7))):
        for strategy, count, (low, high) in (("query", "queries", queries), ("negative", "negatives", negatives)):
            values[f"loss.{term}.{strategy}"] = "random"
            values[f"loss.{term}.{count}"], values[f"loss.{term}.{count}_to"] = low, high
    check_contrast(load("coco", values).loss, COCO)


def test_counts_that_nothing_reads_are_not_judged() -> None:
    check_contrast(load("coco", {"loss.prcc.negative": "all", "loss.prcc.negatives": 99}).loss, COCO)
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


# -------------------------------------------------------------------------------------------- all that does not fit


def outcome(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a dry run."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        run_cli(train.main, ["--cfg", "coco", *objects.TRAINING, *argv, "--dry-run"])
    return int(left.value.code or 0), capfd.readouterr().err.splitlines()


def test_a_small_skeleton_says_all_at_once_and_what_to_type(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = objects.shards_of(objects.skeleton("corners", joints=4), tmp_path)
    argv = [f"data.train={uri}", f"run.dir={tmp_path}/runs"]
    code, (line,) = outcome(capfd, *argv)
    assert code == 2
    for part in (
        "loss.skcc.queries=5: skeleton corners has 4 joints; expected at most 4",
        "loss.skcc.negatives=6: skeleton corners has 4 joints; expected at most 3",
        "loss.lambda_2=0.7: skeleton corners has 0 limb pairs, contrast needs 2",
    ):
        assert part in line
    added = line.rpartition("; set ")[2].split()
    assert added == ["loss.skcc.queries=4", "loss.skcc.negatives=3", "loss.lambda_2=0"]
    assert outcome(capfd, *argv, *added) == (0, [])
    code, (line,) = outcome(capfd, *argv, "optim.batch=64", "data.dataset=coco")  # all that is independent
    assert code == 2
    for part in ("data.dataset=coco", "loss.skcc.queries=5", "8 people do not fill one batch"):
        assert part in line


@pytest.mark.parametrize(("joints", "limbs"), [(1, ()), (2, ((0, 1),)), (3, ((0, 1), (1, 2)))])
@pytest.mark.parametrize("sampling", [[], ["loss.skcc.query=random", "loss.skcc.queries_to=9"]])
def test_the_overrides_that_a_skeleton_asks_for_are_enough(
    joints: int, limbs: tuple[tuple[int, int], ...], sampling: list[str]
) -> None:
    few = objects.skeleton("few", joints=joints, limbs=limbs)
    with pytest.raises(ConfigError) as error:
        check_contrast(load("coco", sampling).loss, few)
    check_contrast(load("coco", [*sampling, *str(error.value).rpartition("; set ")[2].split()]).loss, few)


def test_joints_that_never_count_as_visible(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tools without a flag for hidden joints write v=1 for all: contrast was 0 for a whole run, without a word."""
    shape = objects.skeleton("flat", joints=7, limbs=((0, 1), (1, 2), (2, 3), (3, 4), (4, 5)))
    uri = objects.shards_of(shape, tmp_path, v=1)
    argv = [f"data.train={uri}", f"run.dir={tmp_path}/runs"]
    code, lines = outcome(capfd, *argv)
    assert code == 0
    for line, (weight, one) in zip(lines, (("lambda_1=0.3", "joint"), ("lambda_2=0.7", "limb pair")), strict=True):
        rule = f"no {one} of data.train counts as visible (v >= 2 in skeleton flat); set loss.counted=labelled"
        assert line == f"icon_dist: note: loss.{weight}: this term of contrast would be 0, because {rule}"
    for mended in ("loss.counted=labelled", "loss.lambda_p=0"):
        assert outcome(capfd, *argv, mended) == (0, [])


def test_limbs_of_which_one_end_is_never_labelled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = objects.skeleton("halves", joints=7, limbs=((0, 1), (0, 2), (0, 3), (0, 4), (0, 5)))
    uri = objects.shards_of(shape, tmp_path, v=(0, 2, 2, 2, 2, 2, 2))
    code, (line,) = outcome(capfd, f"data.train={uri}", f"run.dir={tmp_path}/runs")
    assert code == 0
    assert line.endswith("because no limb pair of data.train is labelled; set loss.lambda_2=0")


CASES = {
    "nobody has a torso": ({"metric": "pck", "torso": (0, 3)}, (0, 2, 2, 2), "has both corner_0 and corner_3 labelled"),
    "joints of MPII": ({"metric": "pckh"}, 2, "PCKh is of MPII's joints"),
    "no crowdIndex": ({"metric": "crowdpose"}, 2, "no crowdIndex, by which metric crowdpose"),
    "no joint at all": ({"metric": "coco"}, 0, "none of 8 people in 8 photos has a labelled joint"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_metric_cannot_measure_is_said_before_training(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    how, v, says = CASES[name]
    train_shards = objects.shards_of(objects.skeleton("train", joints=4, **how), tmp_path)  # type: ignore[arg-type]
    val = objects.shards_of(objects.skeleton("val", joints=4, **how), tmp_path, v=v, seed=1)  # type: ignore[arg-type]
    argv = [f"data.train={train_shards}", f"run.dir={tmp_path}/runs", "loss.lambda_p=0"]
    code, (line,) = outcome(capfd, *argv, f"data.val={val}")
    assert code == 3
    assert f"data.val={val}: " in line
    assert says in line
    assert line.endswith("leave data.val empty to go without scores")
    assert outcome(capfd, *argv)[0] == 0


def test_shards_that_nobody_can_learn_from_or_be_scored_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = objects.skeleton("pose", joints=4, metric="pck", torso=(0, 3))
    right = objects.shards_of(shape, tmp_path)
    boxes = objects.shards_of(dataclasses.replace(shape, name="found"), tmp_path, v=0, boxes="found.json")
    argv = [f"run.dir={tmp_path}/runs", "loss.lambda_p=0"]
    code, (line,) = outcome(capfd, *argv, f"data.train={boxes}")
    assert code == 3
    assert "no joint of 8 people is labelled: they are the boxes of found.json" in line
    code, (line,) = outcome(capfd, *argv, f"data.train={right}", f"data.val={boxes}")
    assert code == 3
    assert "boxes=found.json: pck measures the annotated people" in line
    code, (line,) = outcome(capfd, *argv, f"data.train={tmp_path}/none", f"data.val={tmp_path}/neither")
    assert code == 3
    assert f"data.train: {tmp_path}/none: no shards here" in line
    assert f"; also data.val: {tmp_path}/neither: no shards here" in line


def test_scores_that_mean_little_are_noted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = objects.shards_of(objects.skeleton("pose", joints=4), tmp_path)
    argv = [f"data.train={uri}", f"data.val={uri}", f"run.dir={tmp_path}/runs", "loss.lambda_p=0", "eval.limit=99"]
    code, (same, limit) = outcome(capfd, *argv)
    assert code == 0
    assert "data.val is data.train: scores are of the people who are learnt by heart" in same
    assert "eval.limit=99: data.val has 8 people; all count" in limit


def test_a_place_that_cannot_be_written_is_said_before_anything_starts(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code, (line,) = outcome(capfd, f"data.train={people}/train", f"run.dir={tmp_path}/file")
    assert code == 5
    assert line == f"icon_dist: error: run.dir: {tmp_path}/file: is a file, not a folder; write elsewhere"


# ------------------------------------------------------------------------------------------- what is never reached

NEVER = [
    ("optim.milestones=[3]", "optim.milestones=[3]: [3] is never reached in 1 epoch"),
    ("loss.start_epoch=1", "loss.start_epoch=1.0: contrast never starts in 1 epoch"),
    ("loss.ramp_epochs=2", "loss.ramp_epochs=2.0: contrast does not grow to its full weight in 1 epoch"),
    ("run.checkpoint_every=2", "run.checkpoint_every=2.0: the run is saved only"),
    ("run.stop_after_epoch=2", "run.stop_after_epoch=2: the run is over after 1 epoch"),
    ("optim.warmup_steps=17", "optim.warmup_steps=17: the learning rate does not rise to optim.lr in 16 steps"),
    ("run.log_every=17", "run.log_every=17: no loss is logged in 16 steps"),
    ("loss.bank.warmup=16", "loss.bank.warmup=16: the bank is never used in the 16 steps"),
]
REACHED = ["loss.ramp_epochs=1", "run.checkpoint_every=1", "optim.warmup_steps=16", "run.log_every=16"]


@pytest.mark.parametrize(("item", "says"), NEVER)
def test_what_a_short_run_never_reaches(
    item: str, says: str, people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error about what the user set himself, a note about what came with his preset: 64 people, 16 steps."""
    place = ["data.dataset=fake", f"data.train={people}/train", f"run.dir={tmp_path}/runs"]
    code, (line,) = outcome(capfd, *place, item)
    assert code == 2
    assert says in line
    assert line.endswith("; lower it or leave it out")
    key = item.partition("=")[0]
    config = load("coco", [*objects.TRAINING, item])
    for own in ({}, {"optim.lr": "own.yaml"}):
        notes = [*check_schedule(config, own), *check_schedule(config, own, steps=16)]
        assert (
            [text for text in notes if text.startswith(key)] == [text for text in notes if text.startswith(says)] != []
        )


def test_a_preset_that_a_run_is_too_short_for_is_noted(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={tmp_path}/runs"]
    capfd.readouterr()
    train.main(["--cfg", "lsp", "data.dataset=fake", *place, "optim.epochs=3", "--dry-run"])
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        f"icon_dist: note: {text}"
        for text in (
            "optim.milestones=[15, 18]: [15, 18] are never reached in 3 epochs, so the learning rate is not lowered "
            "there",
            "loss.start_epoch=8.0: contrast never starts in 3 epochs",
            "eval.every=5: the run is scored only at its end, after 3 epochs",
            "optim.warmup_steps=100: the learning rate does not rise to optim.lr in 6 steps",
            "run.log_every=20: no loss is logged in 6 steps",
        )
    ]


def test_what_is_just_reached_is_fine(people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["data.dataset=fake", f"data.train={people}/train", f"run.dir={tmp_path}/runs"]
    assert outcome(capfd, *place, *REACHED) == (0, [])


@pytest.mark.parametrize("name", presets())
def test_presets_reach_what_they_set(name: str) -> None:
    assert check_schedule(load(name), {}) == []


def test_a_stop_is_no_error_of_the_data() -> None:
    """What names and gathers errors lets a stop pass, with its exit code."""
    found: list[IconError] = []
    with pytest.raises(StoppedError) as stopped, gathering(found), naming("data.train"):
        raise StoppedError("stopped by Ctrl-C", exit_code=130)
    assert (str(stopped.value), stopped.value.exit_code, found) == ("stopped by Ctrl-C", 130, [])
    with gathering(found), naming("data.train", "; or leave it"):
        raise DataError("cut")
    assert [(type(error), str(error)) for error in found] == [(DataError, "data.train: cut; or leave it")]
