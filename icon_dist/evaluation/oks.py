"""Object keypoint similarity and what test time does with it (METHOD 6; HRNet's ``lib/nms/nms.py``)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from icon_dist.types import Predictions

F64 = NDArray[np.float64]
JOINT_THRESHOLD = 0.2  # joints scored below it do not count for the score of a pose


def similarity(
    xy: Float[np.ndarray, "*#n K 2"],
    other: Float[np.ndarray, "*#n K 2"],
    *,
    area: Float[np.ndarray, "*#n"],
    sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "*#n K"]:
    """Of each joint: ``exp(-d^2 / (2 area (2 sigma)^2))``."""
    squared = ((xy - other) ** 2).sum(axis=-1)
    similar: F64 = np.exp(-squared / (2 * sigmas) ** 2 / (area[..., None] + np.spacing(1)) / 2)
    return similar


def oks(
    xy: Float[np.ndarray, "*#n K 2"],
    other: Float[np.ndarray, "*#n K 2"],
    *,
    area: Float[np.ndarray, "*#n"],
    sigmas: Float[np.ndarray, " K"],
    labelled: Bool[np.ndarray, "*#n K"] | None = None,
) -> Float[np.ndarray, "*#n"]:
    """Mean :func:`similarity` of the (labelled) joints; 0 where no joint is labelled."""
    similar = similarity(xy, other, area=area, sigmas=sigmas)
    counts = np.ones(similar.shape, dtype=bool) if labelled is None else labelled
    mean: F64 = (similar * counts).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    return mean


def nms(
    xy: Float[np.ndarray, "n K 2"],
    score: Float[np.ndarray, " n"],
    area: Float[np.ndarray, " n"],
    *,
    sigmas: Float[np.ndarray, " K"],
    threshold: float,
) -> list[int]:
    """Rows kept, best first: a pose goes when a better kept one is more similar than ``threshold``.

    The similarity of two poses uses the mean of their areas.
    """
    order = np.argsort(-score, kind="stable")
    xy, area = xy[order], area[order]
    close = oks(xy[:, None], xy[None], area=(area[:, None] + area[None]) / 2, sigmas=sigmas) > threshold
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return [int(i) for i in order[alive]]


def rescore(predictions: Predictions) -> Predictions:
    """Box score x mean of the joint scores above .2: the score that AP ranks poses by."""
    joint = predictions.keypoints[..., 2]
    counts = joint > JOINT_THRESHOLD
    mean = (joint * counts).sum(axis=1, dtype=np.float64) / np.maximum(counts.sum(axis=1), 1)
    return dataclasses.replace(predictions, box_score=(predictions.box_score * mean).astype(np.float32))


def suppress(predictions: Predictions, *, sigmas: Float[np.ndarray, " K"], threshold: float) -> Predictions:
    """NMS image by image, on predictions already rescored; rows keep their order."""
    xy = predictions.keypoints[..., :2].astype(np.float64)
    score, area = predictions.box_score.astype(np.float64), predictions.area.astype(np.float64)
    by_image = np.argsort(predictions.image_id, kind="stable")
    starts = np.flatnonzero(np.diff(predictions.image_id[by_image])) + 1
    kept: list[int] = []
    for rows in np.split(by_image, starts):
        kept += rows[nms(xy[rows], score[rows], area[rows], sigmas=sigmas, threshold=threshold)].tolist()
    return select(predictions, np.array(sorted(kept), dtype=np.int64))


def select(predictions: Predictions, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
    """Those rows of every column."""
    return Predictions(**{name: column[rows] for name, column in vars(predictions).items()})
