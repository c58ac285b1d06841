"""Whose labels look wrong: by the run that has not learnt them; what a page is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from icon_dist.checkpoints.weights import Weights
from icon_dist.config import Config
from icon_dist.metrics.calibration import Curve
from icon_dist.metrics.ground_truth import GroundTruth, ground_truth
from icon_dist.reports.label_suspects import Opinion, listed, opinion_of, sheet_of, suspects_of
from icon_dist.shards.label_split import split
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.types import Predictions
from tests.support import two_sets
from tests.support.two_sets import HANDS, HEADS

ALL = {"share": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return open_shards(two_sets.heads(tmp_path_factory.mktemp("suspects")))


def opinion(
    shards: ShardSet, *, off: list[int], index: str = "of others", said: dict[str, Any] | None = None
) -> Opinion:
    """A run that is sure of everything and puts the nose of the people ``off`` (ids) far from where it is labelled."""
    keypoints = shards.keypoints.copy()
    keypoints[np.isin(shards.instance, off), 0, :2] += 400
    keypoints[..., 2] = 0.9
    ones = np.ones(len(shards), np.float32)
    weights = Weights({}, Config(), HEADS, 1, "checkpoint", "0" * 64, split=said or ALL, index=index)
    return Opinion(weights, Predictions(shards.instance, shards.image_id, keypoints, ones, ones),
                   np.full(keypoints.shape[:2], 0.9))  # fmt: skip


def ids(found: Any, truth: GroundTruth) -> set[int]:
    return {int(truth.id[suspect.person]) for suspect in found.found}


def test_one_run(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    truth = ground_truth(read_truth(shards.uri), joints=HEADS.num_joints)
    found = suspects_of(truth, shards, opinion(shards, off=[2, 5]), None)
    assert ids(found, truth) == {2, 5}
    assert capsys.readouterr().err == ""
    own = opinion(shards, off=[2, 5], index=shards.index_sha256)
    assert ids(suspects_of(truth, shards, own, None), truth) == {2, 5}
    told = capsys.readouterr().err
    assert "8 people of these were learnt, perhaps with a wrong label; --second RUN judges them" in told


def test_two_runs_judge_whom_they_have_not_learnt(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    truth = ground_truth(read_truth(shards.uri), joints=HEADS.num_joints)
    half = split(shards.instance, share=0.5, seed=0)
    learnt = shards.instance[half.labelled].tolist()
    others = [n for n in range(8) if n not in learnt]
    first = opinion(shards, off=[*range(8)], index=shards.index_sha256, said=half.record())
    second = opinion(shards, off=[learnt[0]])
    found = suspects_of(truth, shards, first, second)
    assert ids(found, truth) == {learnt[0], *others}
    for suspect in found.found:  # the pose is that of who judged
        assert found.poses.instance[suspect.pose] == truth.id[suspect.person]
        assert found.poses.keypoints[suspect.pose, 0, 0] > truth.keypoints[suspect.person, 0, 0] + 300
    both = suspects_of(truth, shards, first, opinion(shards, off=learnt, index=shards.index_sha256))
    assert ids(both, truth) == {*others}
    assert "4 people were learnt by both runs; left out" in capsys.readouterr().err


def test_probabilities_are_of_the_joints_of_the_set(shards: ShardSet) -> None:
    """The model has more joints, in another order."""
    joints = (*HANDS.joints, "nose", "left_eye", "right_eye")
    whole = dataclasses.replace(HEADS, joints=joints, sigmas=(0.1,) * 7)
    weights = Weights({}, Config(), whole, 1, "checkpoint", "0" * 64)
    curves = [Curve([0.0], [k / 10]) for k in range(7)]
    found = opinion_of(weights, opinion(shards, off=[]).poses, curves, shards)
    expected = [joints.index(joint) / 10 for joint in HEADS.joints]
    np.testing.assert_allclose(found.probability, np.tile(expected, (8, 1)))


def test_what_a_page_is_given(shards: ShardSet) -> None:
    truth = ground_truth(read_truth(shards.uri), joints=HEADS.num_joints)
    found = suspects_of(truth, shards, opinion(shards, off=[3]), None)
    (row,) = listed(found, truth, HEADS.joints)
    assert (row["id"], row["file"], row["kind"], row["joints"]) == (3, "3.jpg", "far from the label", ["nose"])
    assert row["suspicion"] == pytest.approx(0.9)
    drawn = sheet_of(found, truth, shards, aspect=1.0)
    assert drawn is not None
    assert drawn.shape[2] == 3
    nothing = suspects_of(truth, shards, opinion(shards, off=[]), None)
    assert sheet_of(nothing, truth, shards, aspect=1.0) is None
