"""The fast engine says what pycocotools says: ten numbers, every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets import load_skeleton
from icon_dist.metrics import coco, coco_fast
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.score import score
from tests.support.random_poses import full_size, random_set, truth_of


@pytest.mark.parametrize("name", ["coco", "crowdpose"])
@pytest.mark.parametrize("block", range(4))
def test_random_sets(name: str, block: int) -> None:
    skeleton = load_skeleton(name)
    sigmas = np.array(skeleton.sigmas)
    aps = []
    for seed in range(60 * block, 60 * (block + 1)):
        file, poses = random_set(seed, joints=skeleton.num_joints)
        whole = ground_truth(file, joints=skeleton.num_joints)
        truth = whole.among(whole.images[: None if seed % 3 else 2].tolist())
        smallest = 0.0 if seed % 4 else 1024.0
        expected = coco.statistics(truth, poses, sigmas=sigmas, smallest=smallest)
        found = coco_fast.statistics(truth, poses, sigmas=sigmas, smallest=smallest)
        assert found == expected, f"seed {seed}"
        aps.append(expected[0])
    assert np.mean([0 < ap < 1 for ap in aps]) > 0.5
    assert -1 in aps


def test_nobody_and_nothing() -> None:
    file, poses = random_set(1, joints=17)
    sigmas = np.array(load_skeleton("coco").sigmas)
    for images in ([], [{"id": 1}]):
        truth = ground_truth({"images": images, "annotations": []}, joints=17)
        assert coco_fast.statistics(truth, poses, sigmas=sigmas) == [-1.0] * 10
    assert coco_fast.statistics(ground_truth(file, joints=17).among([]), poses, sigmas=sigmas) == [-1.0] * 10


def test_crowdpose_with_its_subsets(shared: Path) -> None:
    """Every number of ``score``: easy, medium, hard at both cuts."""
    found = datasets.read("crowdpose", shared / "crowdpose/crowdpose_val.json.gz")
    rng = np.random.default_rng(0)
    truth = truth_of(found)
    truth = truth.among(truth.images[:250].tolist())
    _, poses = random_set(0, joints=14)
    people = truth.people(np.tile(np.arange(len(truth.id)), 3))
    n, keypoints = len(people.id), people.keypoints.astype(np.float32)
    size = np.sqrt(people.area)[:, None, None] * rng.choice([0.01, 0.04, 0.1], size=(n, 1, 1))
    keypoints[..., :2] += (size * rng.normal(size=keypoints[..., :2].shape)).astype(np.float32)
    keypoints[..., 2] = rng.uniform(size=keypoints.shape[:2])
    poses = type(poses)(
        instance=np.arange(n),
        image_id=people.image_id,
        keypoints=keypoints,
        box_score=np.round(rng.uniform(size=n), 1).astype(np.float32),
        area=people.area.astype(np.float32),
    )
    scores = score(truth, poses, found.skeleton, engine="fast")
    assert scores == score(truth, poses, found.skeleton, engine="pycocotools")
    assert 0.1 < scores["AP hard .1/.8"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_full_size(shared: Path, seed: int) -> None:
    """5000 images, 11004 people, 100k poses; also through rescoring and suppression."""
    skeleton = load_skeleton("coco")
    file, poses = full_size(shared, seed=seed)
    truth, sigmas = ground_truth(file, joints=17), np.array(skeleton.sigmas)
    assert (len(truth.images), len(truth.id), len(poses.instance)) == (5000, 11004, 100_000)
    expected = coco.statistics(truth, poses, sigmas=sigmas)
    assert 0.2 < min(expected) < max(expected) < 0.99
    assert coco_fast.statistics(truth, poses, sigmas=sigmas) == expected
    assert score(truth, poses, skeleton, engine="fast") == score(truth, poses, skeleton, engine="pycocotools")
