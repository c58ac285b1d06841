"""What data and config ask of each other is said before anything starts, all at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from icon_dist.config import load
from icon_dist.errors import ConfigError
from icon_dist.training.contrast_check import check_contrast
from tests.support import small_sets
from tests.support.refusals import dry_run


def test_a_small_skeleton_says_all_at_once_and_what_to_type(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = small_sets.shards_of(small_sets.skeleton("corners", joints=4), tmp_path)
    argv = [f"data.train={uri}", f"run.dir={tmp_path}/runs"]
    code, (line,) = dry_run(capfd, *argv)
    assert code == 2
    for part in (
        "loss.skcc.queries=5: skeleton corners has 4 joints; expected at most 4",
        "loss.skcc.negatives=6: skeleton corners has 4 joints; expected at most 3",
        "loss.lambda_2=0.7: skeleton corners has 0 limb pairs, contrast needs 2",
    ):
        assert part in line
    added = line.rpartition("; set ")[2].split()
    assert added == ["loss.skcc.queries=4", "loss.skcc.negatives=3", "loss.lambda_2=0"]
    assert dry_run(capfd, *argv, *added) == (0, [])
    code, (line,) = dry_run(capfd, *argv, "optim.batch=64", "data.dataset=coco")  # all that is independent
    assert code == 2
    for part in ("data.dataset=coco", "loss.skcc.queries=5", "8 people do not fill one batch"):
        assert part in line


@pytest.mark.parametrize(("joints", "limbs"), [(1, ()), (2, ((0, 1),)), (3, ((0, 1), (1, 2)))])
@pytest.mark.parametrize("sampling", [[], ["loss.skcc.query=random", "loss.skcc.queries_to=9"]])
def test_the_overrides_that_a_skeleton_asks_for_are_enough(
    joints: int, limbs: tuple[tuple[int, int], ...], sampling: list[str]
) -> None:
    few = small_sets.skeleton("few", joints=joints, limbs=limbs)
    with pytest.raises(ConfigError) as error:
        check_contrast(load("coco", sampling).loss, few)
    check_contrast(load("coco", [*sampling, *str(error.value).rpartition("; set ")[2].split()]).loss, few)


def test_joints_that_never_count_as_visible(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tools without a flag for hidden joints write v=1 for all: contrast was 0 for a whole run, without a word."""
    shape = small_sets.skeleton("flat", joints=7, limbs=((0, 1), (1, 2), (2, 3), (3, 4), (4, 5)))
    uri = small_sets.shards_of(shape, tmp_path, v=1)
    argv = [f"data.train={uri}", f"run.dir={tmp_path}/runs"]
    code, lines = dry_run(capfd, *argv)
    assert code == 0
    for line, (weight, one) in zip(lines, (("lambda_1=0.3", "joint"), ("lambda_2=0.7", "limb pair")), strict=True):
        rule = f"no {one} of data.train counts as visible (v >= 2 in skeleton flat); set loss.counted=labelled"
        assert line == f"icon_dist: note: loss.{weight}: this term of contrast would be 0, because {rule}"
    for mended in ("loss.counted=labelled", "loss.lambda_p=0"):
        assert dry_run(capfd, *argv, mended) == (0, [])


def test_limbs_of_which_one_end_is_never_labelled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = small_sets.skeleton("halves", joints=7, limbs=((0, 1), (0, 2), (0, 3), (0, 4), (0, 5)))
    uri = small_sets.shards_of(shape, tmp_path, v=(0, 2, 2, 2, 2, 2, 2))
    code, (line,) = dry_run(capfd, f"data.train={uri}", f"run.dir={tmp_path}/runs")
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
    train_shards = small_sets.shards_of(small_sets.skeleton("train", joints=4, **how), tmp_path)
    val = small_sets.shards_of(small_sets.skeleton("val", joints=4, **how), tmp_path, v=v, seed=1)
    argv = [f"data.train={train_shards}", f"run.dir={tmp_path}/runs", "loss.lambda_p=0"]
    code, (line,) = dry_run(capfd, *argv, f"data.val={val}")
    assert code == 3
    assert f"data.val={val}: " in line
    assert says in line
    assert line.endswith("leave data.val empty to go without scores")
    assert dry_run(capfd, *argv)[0] == 0


def test_shards_that_nobody_can_learn_from_or_be_scored_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = small_sets.skeleton("pose", joints=4, metric="pck", torso=(0, 3))
    right = small_sets.shards_of(shape, tmp_path)
    boxes = small_sets.shards_of(dataclasses.replace(shape, name="found"), tmp_path, v=0, boxes="found.json")
    argv = [f"run.dir={tmp_path}/runs", "loss.lambda_p=0"]
    code, (line,) = dry_run(capfd, *argv, f"data.train={boxes}")
    assert code == 3
    assert "no joint of 8 people is labelled: they are the boxes of found.json" in line
    code, (line,) = dry_run(capfd, *argv, f"data.train={right}", f"data.val={boxes}")
    assert code == 3
    assert "boxes=found.json: pck measures the annotated people" in line
    code, (line,) = dry_run(capfd, *argv, f"data.train={tmp_path}/none", f"data.val={tmp_path}/neither")
    assert code == 3
    assert f"data.train: {tmp_path}/none: no shards here" in line
    assert f"; also data.val: {tmp_path}/neither: no shards here" in line


def test_scores_that_mean_little_are_noted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = small_sets.shards_of(small_sets.skeleton("pose", joints=4), tmp_path)
    argv = [f"data.train={uri}", f"data.val={uri}", f"run.dir={tmp_path}/runs", "loss.lambda_p=0", "eval.limit=99"]
    code, (same, limit) = dry_run(capfd, *argv)
    assert code == 0
    assert "data.val is data.train: scores are of the people who are learnt by heart" in same
    assert "eval.limit=99: data.val has 8 people; all count" in limit


def test_a_place_that_cannot_be_written_is_said_before_anything_starts(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code, (line,) = dry_run(capfd, f"data.train={people}/train", f"run.dir={tmp_path}/file")
    assert code == 5
    assert line == f"icon_dist: error: run.dir: {tmp_path}/file: is a file, not a folder; write elsewhere"
