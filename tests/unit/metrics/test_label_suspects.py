"""Labels that were spoilt on purpose are found, each as its kind; sound ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from icon_dist.datasets import load_skeleton
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.label_suspects import find
from icon_dist.types import Predictions

COCO = load_skeleton("coco")
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, LEFT_WRIST, LEFT_KNEE = 5, 6, 7, 9, 13


def scene(seed: int = 0, *, people: int = 6) -> tuple[dict[str, Any], Predictions, np.ndarray]:
    """Two people in each photo, 300 px apart, whose joints are 20 px and more apart; poses are nearly the labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), -1).reshape(-1, 2)[:17] * 40.0
    labels = np.stack([grid + np.array([300.0 * (n % 2), 0.0]) + rng.uniform(-5, 5, 2) for n in range(people)])
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(people // 2)],
        "annotations": [
            {"id": 10 + n, "image_id": n // 2, "area": 160.0 * 200, "iscrowd": 0, "num_keypoints": 17,
             "bbox": [0, 0, 160, 200],
             "keypoints": np.concatenate([xy, np.full((17, 1), 2)], -1).ravel().tolist()}
            for n, xy in enumerate(labels)
        ],
    }  # fmt: skip
    keypoints = np.concatenate([labels + rng.normal(size=labels.shape), np.full((people, 17, 1), 0.9)], -1)
    ids = np.arange(people)
    ones = np.ones(people, np.float32)
    poses = Predictions(10 + ids, ids // 2, keypoints.astype(np.float32), ones, ones)
    return truth, poses, np.full((people, 17), 0.9)


def relabelled(truth: dict[str, Any], person: int, order: dict[int, int]) -> None:
    points = np.array(truth["annotations"][person]["keypoints"]).reshape(17, 3)
    changed = points.copy()
    for joint, place in order.items():
        changed[joint] = points[place]
    truth["annotations"][person]["keypoints"] = changed.ravel().tolist()


def test_sound_labels_are_not_suspected() -> None:
    truth, poses, probability = scene()
    assert not find(ground_truth(truth, joints=17), poses, probability, COCO)


def test_every_kind_is_found() -> None:
    truth, poses, probability = scene(people=10)
    sides = {a: b for pair in COCO.flips for a, b in (pair, pair[::-1])}
    relabelled(truth, 1, sides)
    relabelled(truth, 2, {LEFT_ELBOW: LEFT_WRIST, LEFT_WRIST: LEFT_ELBOW})
    points = np.array(truth["annotations"][4]["keypoints"]).reshape(17, 3)
    points[LEFT_KNEE, :2] += 120
    truth["annotations"][4]["keypoints"] = points.ravel().tolist()
    first, second = (truth["annotations"][n]["keypoints"] for n in (6, 7))
    truth["annotations"][6]["keypoints"], truth["annotations"][7]["keypoints"] = second, first
    found = {suspect.person: suspect for suspect in find(ground_truth(truth, joints=17), poses, probability, COCO)}
    assert {person: suspect.kind for person, suspect in found.items()} == {
        1: "sides exchanged",
        2: "joints exchanged",
        4: "far from the label",
        6: "somebody else",
        7: "somebody else",
    }
    assert np.flatnonzero(found[2].joints).tolist() == [LEFT_ELBOW, LEFT_WRIST]
    assert np.flatnonzero(found[4].joints).tolist() == [LEFT_KNEE]
    assert not found[1].joints[0]  # a nose has no other side
    assert all(suspect.suspicion == pytest.approx(0.9, abs=0.1) for suspect in found.values())
    one = ground_truth(truth, joints=17).among([2])
    assert {int(one.id[s.person]) for s in find(one, poses, probability, COCO)} == {10 + 4}


def test_who_is_not_sure_suspects_nobody() -> None:
    truth, poses, probability = scene()
    relabelled(truth, 0, {LEFT_ELBOW: LEFT_WRIST, LEFT_WRIST: LEFT_ELBOW})
    assert not find(ground_truth(truth, joints=17), poses, np.full_like(probability, 0.4), COCO)
    some = np.full_like(probability, 0.4)
    some[0, LEFT_WRIST] = 0.8
    (suspect,) = find(ground_truth(truth, joints=17), poses, some, COCO)
    assert suspect.kind == "far from the label"
    assert suspect.suspicion == pytest.approx(0.8, abs=0.1)


def test_joints_without_a_label_are_no_reason() -> None:
    truth, poses, probability = scene()
    points = np.array(truth["annotations"][0]["keypoints"]).reshape(17, 3)
    points[LEFT_KNEE] = 0
    truth["annotations"][0]["keypoints"] = points.ravel().tolist()
    assert not find(ground_truth(truth, joints=17), poses, probability, COCO)


def test_the_most_suspicious_come_first() -> None:
    truth, poses, probability = scene()
    for person in range(3):
        relabelled(truth, person, {LEFT_ELBOW: LEFT_WRIST, LEFT_WRIST: LEFT_ELBOW})
        probability[person] = (0.7, 0.9, 0.8)[person]
    found = find(ground_truth(truth, joints=17), poses, probability, COCO)
    assert [suspect.person for suspect in found] == [1, 2, 0]
    alone = poses.take(np.array([0]))
    assert [s.pose for s in find(ground_truth(truth, joints=17), alone, probability[:1], COCO)] == [0]
