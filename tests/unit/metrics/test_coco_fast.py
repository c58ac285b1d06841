"""The fast engine says what pycocotools says: ten numbers, every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets import load_skeleton
from icon_dist.metrics import coco, coco_fast
from icon_dist.metrics.score import score
from tests.support.random_poses import full_size, random_set


@pytest.mark.parametrize("name", ["coco", "crowdpose"])
@pytest.mark.parametrize("block", range(4))
def test_random_sets(name: str, block: int) -> None:
    skeleton = load_skeleton(name)
    sigmas = np.array(skeleton.sigmas)
    aps = []
    for seed in range(60 * block, 60 * (block + 1)):
        truth, poses = random_set(seed, joints=skeleton.num_joints)
        images = [image["id"] for image in truth["images"]][: None if seed % 3 else 2]
        smallest = 0.0 if seed % 4 else 1024.0
        expected = coco.statistics(truth, poses, sigmas=sigmas, image_ids=images, smallest=smallest)
        found = coco_fast.statistics(truth, poses, sigmas=sigmas, image_ids=images, smallest=smallest)
        assert found == expected, f"seed {seed}"
        aps.append(expected[0])
    assert np.mean([0 < ap < 1 for ap in aps]) > 0.5
    assert -1 in aps


def test_nobody_and_nothing() -> None:
    truth, poses = random_set(1, joints=17)
    sigmas = np.array(load_skeleton("coco").sigmas)
    assert coco_fast.statistics(truth, poses, sigmas=sigmas, image_ids=[]) == [-1.0] * 10
    assert (
        coco_fast.statistics({"images": [{"id": 1}], "annotations": []}, poses, sigmas=sigmas, image_ids=[1])
        == [-1] * 10
    )


def test_crowdpose_with_its_subsets(shared: Path) -> None:
    """Every number of ``score``: easy, medium, hard at both cuts."""
    found = datasets.read("crowdpose", shared / "crowdpose/crowdpose_val.json.gz")
    rng = np.random.default_rng(0)
    images = found.truth["images"][:250]
    chosen = {image["id"] for image in images}
    truth = {"images": images, "annotations": [a for a in found.truth["annotations"] if a["image_id"] in chosen]}
    _, poses = random_set(0, joints=14)
    people = truth["annotations"] * 3
    keypoints = np.array([a["keypoints"] for a in people], dtype=np.float32).reshape(-1, 14, 3)
    size = np.sqrt([a["area"] for a in people])[:, None, None] * rng.choice([0.01, 0.04, 0.1], size=(len(people), 1, 1))
    keypoints[..., :2] += (size * rng.normal(size=keypoints[..., :2].shape)).astype(np.float32)
    keypoints[..., 2] = rng.uniform(size=keypoints.shape[:2])
    poses = type(poses)(
        instance=np.arange(len(people)),
        image_id=np.array([a["image_id"] for a in people]),
        keypoints=keypoints,
        box_score=np.round(rng.uniform(size=len(people)), 1).astype(np.float32),
        area=np.array([a["area"] for a in people], dtype=np.float32),
    )
    scores = score(truth, poses, found.skeleton, engine="fast")
    assert scores == score(truth, poses, found.skeleton, engine="pycocotools")
    assert 0.1 < scores["AP hard .1/.8"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_full_size(shared: Path, seed: int) -> None:
    """5000 images, 11004 people, 100k poses; also through rescoring and suppression."""
    skeleton = load_skeleton("coco")
    truth, poses = full_size(shared, seed=seed)
    assert (len(truth["images"]), len(truth["annotations"]), len(poses.instance)) == (5000, 11004, 100_000)
    sigmas, images = np.array(skeleton.sigmas), [image["id"] for image in truth["images"]]
    expected = coco.statistics(truth, poses, sigmas=sigmas, image_ids=images)
    assert 0.2 < min(expected) < max(expected) < 0.99
    assert coco_fast.statistics(truth, poses, sigmas=sigmas, image_ids=images) == expected
    assert score(truth, poses, skeleton, engine="fast") == score(truth, poses, skeleton, engine="pycocotools")
