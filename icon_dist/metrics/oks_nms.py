"""Scores of poses and OKS-NMS at test time, as in HRNet's ``lib/nms/nms.py``."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from icon_dist.metrics.oks import at_distance
from icon_dist.types import Predictions

JOINT_THRESHOLD = 0.2  # joints scored below it do not count for the score of a pose
PAIRS = 1 << 13  # pairs of poses compared at once: their arrays stay in the cache


def rescore(predictions: Predictions) -> Predictions:
    """Box score x mean of the joint scores above .2: the score that AP ranks poses by."""
    joint = predictions.keypoints[..., 2]
    counts = joint > JOINT_THRESHOLD
    mean = (joint * counts).sum(axis=1, dtype=np.float64) / np.maximum(counts.sum(axis=1), 1)
    return dataclasses.replace(predictions, box_score=(predictions.box_score * mean).astype(np.float32))


def survivors(
    xy: Float[np.ndarray, "I n K 2"],
    area: Float[np.ndarray, "I n"],
    *,
    sigmas: Float[np.ndarray, " K"],
    threshold: float,
) -> Bool[np.ndarray, "I n"]:
    """NMS of I images with n poses each, best first: a pose goes if a better one that stays is more similar than that.

    The similarity of two poses uses the mean of their areas.
    """
    first, second = np.nonzero(np.tri(area.shape[1], k=-1, dtype=bool).T)
    x, y = (np.ascontiguousarray(xy[..., i]) for i in range(2))
    squared = (x[:, first] - x[:, second]) ** 2 + (y[:, first] - y[:, second]) ** 2
    similar = at_distance(squared, area=(area[:, first] + area[:, second]) / 2, sigmas=sigmas).mean(axis=-1)
    image, pair = np.nonzero(similar > threshold)  # within an image in order of the better pose
    alive = [True] * area.size
    for better, worse in zip(*((image * area.shape[1] + of[pair]).tolist() for of in (first, second)), strict=True):
        if alive[better]:
            alive[worse] = False
    return np.array(alive, dtype=bool).reshape(area.shape)


def suppress(predictions: Predictions, *, sigmas: Float[np.ndarray, " K"], threshold: float) -> Predictions:
    """NMS image by image, on predictions already rescored; rows keep their order."""
    best_first = np.lexsort((-predictions.box_score, predictions.image_id))
    _, start, poses = np.unique(predictions.image_id[best_first], return_index=True, return_counts=True)
    kept = np.zeros(len(best_first), dtype=bool)
    for n in np.unique(poses).tolist():
        of_size = start[poses == n]
        chunk = max(1, PAIRS // n**2)
        for some in np.split(of_size, range(chunk, len(of_size), chunk)):
            rows = best_first[some[:, None] + np.arange(n)]
            xy, area = (column[rows].astype(np.float64) for column in (predictions.keypoints, predictions.area))
            kept[rows] = survivors(xy[..., :2], area, sigmas=sigmas, threshold=threshold)
    return predictions.take(kept)
