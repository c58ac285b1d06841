"""Recall of joints against a loop over its definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from icon_dist.datasets import coco
from icon_dist.errors import DataError
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.recall import DEFINITIONS, THRESHOLDS, recall
from icon_dist.types import Predictions

COCO = coco.SKELETON


def random_people(seed: int, *, count: int = 12) -> tuple[dict[str, Any], Predictions]:
    """People with a pose each but for the last one, and a crowd that does not count."""
    rng = np.random.default_rng(seed)
    annotations, poses = [], []
    for number in range(count):
        joints = np.concatenate([rng.uniform(0, 100, (17, 2)), rng.integers(0, 3, (17, 1))], 1)
        joints[:, 2][3] = 0  # one joint nobody has
        annotations.append(
            {
                "id": 5 * number,
                "image_id": number // 2,
                "keypoints": joints.ravel().tolist(),
                "area": 5000.0,
                "bbox": [0.0, 0.0, 100.0, 100.0],
                "num_keypoints": int((joints[:, 2] > 0).sum()),
                "iscrowd": 0,
            }
        )
        moved = joints[:, :2] + rng.normal(size=(17, 2)) * rng.choice([0.5, 5, 20], size=(17, 1))
        poses.append(np.concatenate([moved, rng.uniform(0, 1, (17, 1))], 1))
    annotations.append({**annotations[0], "id": 999, "iscrowd": 1})
    order = rng.permutation(count - 1)
    truth = {"images": [{"id": i} for i in range(count // 2)], "annotations": annotations}
    return truth, Predictions(
        instance=5 * order,
        image_id=order // 2,
        keypoints=np.array(poses)[order].astype(np.float32),
        box_score=np.ones(len(order), np.float32),
        area=np.ones(len(order), np.float32),
    )


def test_like_the_loop() -> None:
    truth, predictions = random_people(0)
    table = recall(ground_truth(truth, joints=17), predictions, COCO)
    for t, threshold in enumerate(THRESHOLDS):
        found = {name: np.zeros(17) for name in DEFINITIONS}
        labelled = np.zeros(17)
        for person in truth["annotations"]:
            row = np.flatnonzero(predictions.instance == person["id"])
            for k in range(17) if not person["iscrowd"] else ():
                x, y, v = person["keypoints"][3 * k : 3 * k + 3]
                labelled[k] += v > 0
                if v == 0 or not len(row):
                    continue
                px, py, peak = predictions.keypoints[row[0], k].astype(float).tolist()
                d2 = (px - x) ** 2 + (py - y) ** 2
                ks = math.exp(-d2 / (2 * person["area"] * (2 * COCO.sigmas[k]) ** 2))
                found["peak"][k] += peak > threshold
                found["ks"][k] += ks >= threshold
                found["both"][k] += peak > threshold and ks >= 0.5
        for name in DEFINITIONS:
            for k in range(17):
                expected = 100 * found[name][k] / labelled[k] if labelled[k] else -1
                assert table[name][t, k] == pytest.approx(expected), (name, threshold, COCO.joints[k])
            assert table[name][t, 17] == pytest.approx(100 * found[name].sum() / labelled.sum())
    assert table["peak"][:, 3].tolist() == [-1.0] * 9


def test_it_falls_with_the_threshold_and_a_peak_in_place_is_a_peak() -> None:
    truth, predictions = random_people(1)
    table = recall(ground_truth(truth, joints=17), predictions, COCO)
    assert all((np.diff(values, axis=0) <= 0).all() for values in table.values())
    assert (table["both"] <= table["peak"]).all()
    assert 0 < table["both"][0, -1] < table["peak"][0, -1] < 100  # the last person has no pose


def test_some_photos_only_and_ground_truth_boxes_only() -> None:
    truth, predictions = random_people(2)
    columns = ground_truth(truth, joints=17)
    in_photo = predictions.image_id == 0
    only = Predictions(**{name: column[in_photo] for name, column in vars(predictions).items()})
    assert recall(columns.among([0]), only, COCO)["peak"][0, -1] > 70
    with pytest.raises(DataError, match="--boxes gt"):
        recall(columns.among([0]), predictions, COCO)
