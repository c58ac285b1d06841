"""Keypoint recall over thresholds t = .1 ... .9 in three definitions (paper Table 6).

Of all labelled joints of all people, with ground-truth boxes:

``peak``  the heatmap's peak is over t (the paper's Table 6)
``ks``    the joint's similarity to the truth is t or more
``both``  the peak is over t, and the similarity .5 or more
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.matching import match
from icon_dist.metrics.oks import at_distance
from icon_dist.types import Predictions, Skeleton

THRESHOLDS = tuple(t / 10 for t in range(1, 10))
DEFINITIONS = ("peak", "ks", "both")
FOUND = 0.5  # similarity from which a joint counts as found


def recall(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> dict[str, Float[np.ndarray, "9 _"]]:
    """By definition: percent at each threshold, per joint and (last) over all joints; -1 where none is labelled.

    ``predictions`` of ground-truth boxes, not rescored; a person without one is missed.
    """
    matched = match(truth, predictions, skeleton)
    similarity = at_distance(matched.error**2, area=matched.people.area, sigmas=np.array(skeleton.sigmas))
    return {
        name: shares(matched.peak, similarity, matched.labelled, definition=name, thresholds=THRESHOLDS)
        for name in DEFINITIONS
    }


def shares(
    peak: Float[np.ndarray, "n K"],
    similarity: Float[np.ndarray, "n K"],
    labelled: Bool[np.ndarray, "n K"],
    *,
    definition: str,
    thresholds: tuple[float, ...],
) -> Float[np.ndarray, "t _"]:
    """Percent of labelled joints found at each threshold, per joint and (last) over all joints."""
    at = np.array(thresholds)[:, None, None]
    found: NDArray[np.bool_] = {
        "peak": peak > at,
        "ks": similarity >= at,
        "both": (peak > at) & (similarity >= FOUND),
    }[definition]
    hits = (found & labelled).sum(axis=1)
    count = labelled.sum(axis=0)
    hits = np.concatenate([hits, hits.sum(axis=1, keepdims=True)], axis=1)
    count = np.append(count, count.sum())
    percent: NDArray[np.float64] = np.where(count > 0, 100 * hits / np.maximum(count, 1), -1.0)
    return percent
