"""OKS, NMS and rescoring against the public loops (HRNet ``lib/nms/nms.py``, ``lib/dataset/coco.py``), written out."""

from __future__ import annotations

import numpy as np
import pytest

from icon_dist.datasets import load_skeleton
from icon_dist.metrics.oks import oks
from icon_dist.metrics.oks_nms import rescore, suppress
from icon_dist.types import Predictions

SIGMAS = np.array(load_skeleton("coco").sigmas)


def test_golden_oks() -> None:
    """By hand: 17 points, offset (3, 4), area 1000."""
    zeros = np.zeros((1, 17, 2))
    assert oks(zeros, zeros + np.array([3.0, 4.0]), area=np.array([1000.0]), sigmas=SIGMAS) == pytest.approx(
        0.44511, abs=1e-5
    )


def loop_oks(g: np.ndarray, d: np.ndarray, area: float, labelled: np.ndarray) -> float:
    values = [
        np.exp(-((g[k] - d[k]) ** 2).sum() / (2 * area * (2 * SIGMAS[k]) ** 2)) for k in range(len(g)) if labelled[k]
    ]
    return float(np.mean(values)) if values else 0.0


def test_oks_is_the_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(scale=20, size=(2, 6, 17, 2))
    area, labelled = rng.uniform(100, 5000, 6), rng.random((6, 17)) < 0.6
    labelled[3] = False
    expected = [loop_oks(a[i], b[i], area[i], labelled[i]) for i in range(6)]
    np.testing.assert_allclose(oks(a, b, area=area, sigmas=SIGMAS, labelled=labelled), expected, rtol=1e-12)


def official_nms(xy: np.ndarray, score: np.ndarray, area: np.ndarray, threshold: float) -> list[int]:
    order = score.argsort()[::-1]
    keep = []
    everything = np.ones(17, dtype=bool)
    while order.size > 0:
        i = order[0]
        keep.append(int(i))
        rest = [loop_oks(xy[i], xy[n], (area[i] + area[n]) / 2, everything) for n in order[1:]]
        order = order[1:][np.array(rest, dtype=float) <= threshold]
    return keep


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_suppression_is_the_official_loop(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    people = rng.uniform(0, 200, size=(5, 17, 2))
    xy = people[rng.integers(5, size=25)] + rng.normal(scale=rng.uniform(0.1, 6, size=(25, 1, 1)), size=(25, 17, 2))
    score, area = rng.permutation(25) / 25.0, rng.uniform(500, 9000, 25)
    expected = official_nms(xy, score, area, threshold)
    assert 0 < len(expected) < 25
    assert kept(xy, score, area, threshold=threshold) == sorted(expected)


def kept(xy: np.ndarray, score: np.ndarray, area: np.ndarray, *, threshold: float) -> list[int]:
    """Rows of one photo that stay."""
    poses = np.concatenate([xy, np.ones((*xy.shape[:2], 1))], axis=2).astype(np.float32)
    photo = np.zeros(len(xy), np.int64)
    everybody = Predictions(np.arange(len(xy)), photo, poses, score.astype(np.float32), area.astype(np.float32))
    return [int(row) for row in suppress(everybody, sigmas=SIGMAS, threshold=threshold).instance]


def test_a_suppressed_pose_suppresses_nobody() -> None:
    """A chain: the second falls to the first, so the third, close to the second only, stays."""
    xy = np.zeros((3, 17, 2)) + np.array([0.0, 3.0, 6.0])[:, None, None]
    assert kept(xy, np.array([0.9, 0.8, 0.7]), np.full(3, 1000.0), threshold=0.4) == [0, 2]


def predictions(rng: np.random.Generator, n: int) -> Predictions:
    keypoints = rng.uniform(0, 100, size=(n, 17, 3)).astype(np.float32)
    keypoints[..., 2] = rng.uniform(0, 1, size=(n, 17))
    return Predictions(
        instance=np.arange(n),
        image_id=rng.integers(3, size=n),
        keypoints=keypoints,
        box_score=rng.uniform(0.1, 1, n).astype(np.float32),
        area=rng.uniform(500, 9000, n).astype(np.float32),
    )


def test_rescore_is_the_public_loop() -> None:
    before = predictions(np.random.default_rng(1), 7)
    before.keypoints[2, :, 2] = 0.1  # no joint counts
    before.keypoints[3, :, 2] = 0.2  # the threshold itself does not count
    expected = []
    for joints, box in zip(before.keypoints, before.box_score, strict=True):
        counted = [float(s) for s in joints[:, 2] if s > 0.2]
        mean = sum(counted) / len(counted) if counted else 0.0
        expected.append(mean * float(box))
    after = rescore(before)
    np.testing.assert_allclose(after.box_score, expected, rtol=1e-6)
    np.testing.assert_array_equal(after.keypoints, before.keypoints)
    assert after.box_score[2] == 0


def test_suppression_stays_inside_an_image() -> None:
    one = predictions(np.random.default_rng(2), 1)
    four = Predictions(
        instance=np.arange(4),
        image_id=np.array([5, 3, 5, 3]),
        keypoints=np.repeat(one.keypoints, 4, axis=0),
        box_score=np.array([0.5, 0.9, 0.6, 0.8], dtype=np.float32),
        area=np.repeat(one.area, 4),
    )
    left = suppress(four, sigmas=SIGMAS, threshold=0.9)
    assert left.instance.tolist() == [1, 2]
    assert left.image_id.tolist() == [3, 5]


def test_suppressing_nothing() -> None:
    none = predictions(np.random.default_rng(3), 0)
    assert len(suppress(rescore(none), sigmas=SIGMAS, threshold=0.9).instance) == 0
