"""Isotonic regression against a loop that pools neighbors, errors by hand, and probabilities that are held out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from icon_dist.metrics.calibration import (
    FEWEST,
    Curve,
    Outcomes,
    calibrated,
    calibration_error,
    fit,
    held_out,
    isotonic,
    outcomes,
    probabilities,
    probability_of,
    reliability,
)
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.pck import score
from icon_dist.types import Predictions, Skeleton
from tests.support.two_sets import HANDS, HEADS


def pooled(peak: list[float], right: list[bool]) -> list[float]:
    """Pool adjacent violators, the slow way: the two neighbors that are in the wrong order become their mean."""
    heights = sorted({*peak})
    groups = [[float(r) for p, r in zip(peak, right, strict=True) if p == h] for h in heights]
    members = [[h] for h in heights]
    while True:
        means = [sum(g) / len(g) for g in groups]
        wrong = next((i for i in range(len(means) - 1) if means[i] > means[i + 1]), None)
        if wrong is None:
            value = {h: mean for mean, of in zip(means, members, strict=True) for h in of}
            return [value[h] for h in heights]
        groups[wrong : wrong + 2] = [groups[wrong] + groups[wrong + 1]]
        members[wrong : wrong + 2] = [members[wrong] + members[wrong + 1]]


@pytest.mark.parametrize("seed", range(6))
def test_isotonic_is_pool_adjacent_violators(seed: int) -> None:
    rng = np.random.default_rng(seed)
    peak = rng.integers(0, 12, 40) / 10
    right = rng.random(40) < peak
    curve = isotonic(peak, right)
    heights = np.unique(peak)
    np.testing.assert_allclose(np.interp(heights, *curve), pooled(peak.tolist(), right.tolist()), atol=1e-12)
    assert len(curve.peak) <= len(heights)
    assert isotonic(peak[:1], right[:1]) == Curve([peak[0]], [float(right[0])])


def test_errors_by_hand() -> None:
    score, right = np.array([0.05, 0.05, 0.95, 0.95]), np.array([False, True, True, True])
    assert [(b.score, b.right, b.joints) for b in reliability(score, right)] == [(0.05, 0.5, 2), (0.95, 1.0, 2)]
    assert calibration_error(score, right) == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)
    assert calibration_error(np.array([1.3, 1.0]), np.array([True, True])) == pytest.approx(0.15)  # one bin


def overconfident(seed: int, *, count: int = 3000) -> Outcomes:
    """Peaks far above the share of right joints, another one for each of two joints."""
    rng = np.random.default_rng(seed)
    peak, joint = rng.uniform(0, 1, count), rng.integers(0, 2, count)
    right = rng.random(count) < np.where(joint == 0, peak**3, 0.2 * peak)
    return Outcomes(peak, right, joint, rng.integers(0, count // 4, count))


def test_other_people_get_probabilities() -> None:
    known, new = overconfident(0), overconfident(1)
    assert calibration_error(new.peak, new.right) > 0.25
    assert calibration_error(probability_of(new, fit(known, joints=2)), new.right) < 0.03
    apart = held_out(known, joints=2)
    assert apart is not None
    assert calibration_error(apart, known.right) < 0.03
    assert held_out(dataclasses.replace(known, image=np.zeros_like(known.image)), joints=2) is None


def test_nothing_of_an_image_is_in_its_own_function() -> None:
    """One image in which everything is right, among images in which nothing is: it cannot know of itself."""
    count = 400
    image = np.arange(count) // 4
    found = Outcomes(np.full(count, 0.5), image == 7, np.zeros(count, np.int64), image)
    apart = held_out(found, joints=1)
    assert apart is not None
    assert (apart[image == 7] == 0).all()


def test_joints_of_few_labels_share_one_function() -> None:
    found = overconfident(0)
    few = dataclasses.replace(found, joint=np.where(np.arange(3000) < FEWEST - 1, 1, 0))
    first, second, third = fit(few, joints=3)
    assert second == third == isotonic(found.peak, found.right)
    assert first != second


def test_probabilities_of_poses() -> None:
    curves = [Curve([0.2, 0.8], [0.1, 0.5]), Curve([0.0, 1.0], [0.5, 1.0])]
    score = np.array([[0.5, 0.5], [0.1, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(probabilities(score, curves), [[0.3, 0.75], [0.1, 1.0], [0.1, 0.5]])
    keypoints = np.zeros((3, 2, 3), np.float32)
    keypoints[..., 2] = score
    ids = np.arange(3)
    poses = Predictions(ids, ids, keypoints, np.ones(3, np.float32), np.ones(3, np.float32))
    found = calibrated(poses, curves).keypoints[..., 2]
    np.testing.assert_allclose(found, [[0.3, 0.75], [0.1, 1.0], [0, 0]], atol=1e-6)  # a joint that is nowhere stays 0
    assert poses.keypoints[0, 0, 2] == 0.5


@pytest.mark.parametrize("shape", [HEADS, HANDS])
def test_right_is_what_the_metric_says(shape: Skeleton) -> None:
    rng = np.random.default_rng(0)
    joints = len(shape.joints)
    truth = np.concatenate([rng.uniform(0, 90, (20, joints, 2)), rng.integers(0, 3, (20, joints, 1))], -1)
    people = [
        {
            "id": i,
            "image_id": i // 2,
            "iscrowd": 0,
            "area": 900.0,
            "num_keypoints": 1,
            "bbox": [0, 0, 90, 90],
            "keypoints": k.ravel().tolist(),
        }
        for i, k in enumerate(truth)
    ]
    annotations = {"images": [{"id": i} for i in range(10)], "annotations": people}
    keypoints = truth.astype(np.float32)
    keypoints[..., :2] += rng.normal(size=(20, joints, 2)) * 4
    keypoints[..., 2] = rng.random((20, joints))
    ids = np.arange(20)
    poses = Predictions(ids, ids // 2, keypoints, np.ones(20, np.float32), np.ones(20, np.float32))
    found = outcomes(ground_truth(annotations, joints=joints), poses, shape)
    expected: dict[str, list[float]] = {"peak": [], "right": [], "joint": [], "image": []}
    for i in range(20):
        a, b = shape.torso
        torso = float(np.hypot(*(truth[i, a, :2] - truth[i, b, :2])))
        if shape.metric == "pck" and not (truth[i, a, 2] > 0 and truth[i, b, 2] > 0):
            continue
        for k in range(joints):
            if truth[i, k, 2] == 0:
                continue
            d = float(np.hypot(*(keypoints[i, k, :2].astype(np.float64) - truth[i, k, :2])))
            near = np.exp(-(d**2) / (2 * 900.0 * (2 * shape.sigmas[k]) ** 2)) >= 0.5
            expected["right"].append(d <= 0.2 * torso if shape.metric == "pck" else near)
            expected["peak"].append(keypoints[i, k, 2])
            expected["joint"].append(k)
            expected["image"].append(i // 2)
    assert found.right.tolist() == expected["right"]
    assert 0 < sum(expected["right"]) < len(expected["right"])
    for name in ("peak", "joint", "image"):
        np.testing.assert_allclose(getattr(found, name), expected[name])
    if shape is HANDS:
        scores = score(ground_truth(annotations, joints=joints), poses, HANDS)
        assert 100 * found.right.mean() == pytest.approx(scores["PCK@0.2"])
