"""Scores as probabilities: isotonic regression of "the joint is right" on the height of its heatmap peak.

A peak of .7 says little by itself: it may be right in 40 or in 95 % of the cases, and each joint has its own rule. For
every joint the share of right ones is fitted as a function that never falls (pool adjacent violators), of the labelled
joints of people whom the model has not learnt. Joints with few labels share one function of all joints.

Expected calibration error (Guo et al., ICML 2017): 15 bins of equal width, the mean over joints of |mean score - share
of right ones| in their bin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from icon_dist.metrics import pck, pckh
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.matching import match
from icon_dist.metrics.oks import at_distance
from icon_dist.rng import hashed
from icon_dist.types import Predictions, Skeleton

F64 = NDArray[np.float64]
BINS = 15
FEWEST = 100  # labels of a joint that has a function of its own
FOLDS = 5
RIGHT = {
    "coco": "similarity .5 or more",
    "crowdpose": "similarity .5 or more",
    "pck": f"within {pck.THRESHOLD} of the torso",
    "pckh": "within .5 of the head size",
}


@dataclass(frozen=True)
class Outcomes:
    """Every labelled joint that was predicted."""

    peak: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    joint: Int64[np.ndarray, " n"]
    image: Int64[np.ndarray, " n"]


class Curve(NamedTuple):
    """A probability for every peak: linear between the points, constant outside."""

    peak: list[float]  # ascending
    probability: list[float]  # never falls


class Bin(NamedTuple):
    """Joints of about the same score."""

    score: float  # mean
    right: float  # share
    joints: int


def outcomes(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> Outcomes:
    """Whether each labelled joint was found, by the rule of the skeleton's metric; poses are of the annotated boxes."""
    matched = match(truth, predictions, skeleton)
    counted = matched.labelled & np.isfinite(matched.error)
    if skeleton.metric == "pck":
        counts, right = pck.judged(matched, skeleton)
        counted &= counts
    elif skeleton.metric == "pckh":
        right = matched.error <= 0.5 * (pckh.HEAD * matched.people.head)[:, None]
    else:
        right = at_distance(matched.error**2, area=matched.people.area, sigmas=np.array(skeleton.sigmas)) >= 0.5
    person, joint = np.nonzero(counted)
    return Outcomes(matched.peak[counted], right[counted], joint, matched.people.image_id[person])


def fit(found: Outcomes, *, joints: int) -> list[Curve]:
    """The function of each of so many joints. There must be at least one outcome."""
    pooled = isotonic(found.peak, found.right)
    own = [found.joint == joint for joint in range(joints)]
    return [isotonic(found.peak[rows], found.right[rows]) if rows.sum() >= FEWEST else pooled for rows in own]


def isotonic(peak: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> Curve:
    """The function that never falls and is nearest to the outcomes, by its corners."""
    height, place, count = np.unique(peak, return_inverse=True, return_counts=True)
    share = np.bincount(place, weights=right.astype(np.float64)) / count
    fitted = np.clip(isotonic_regression(share, weights=count).x, 0.0, 1.0)
    corner = np.ones(len(height), dtype=bool)  # both ends of every level
    corner[1:-1] = (np.diff(fitted)[:-1] != 0) | (np.diff(fitted)[1:] != 0)
    return Curve(height[corner].tolist(), fitted[corner].tolist())


def probabilities(score: Float[np.ndarray, "*n K"], curves: Sequence[Curve]) -> Float[np.ndarray, "*n K"]:
    """Peaks as probabilities, each by the function of its joint."""
    columns = [np.interp(score[..., k], curve.peak, curve.probability) for k, curve in enumerate(curves)]
    return np.stack(columns, axis=-1)


def calibrated(predictions: Predictions, curves: Sequence[Curve]) -> Predictions:
    """The same poses with probabilities as scores; a joint without a peak, which is nowhere, keeps its 0."""
    keypoints = predictions.keypoints.copy()
    peak = keypoints[..., 2]
    keypoints[..., 2] = np.where(peak > 0, probabilities(peak, curves), 0)
    return dataclasses.replace(predictions, keypoints=keypoints)


def held_out(found: Outcomes, *, joints: int, folds: int = FOLDS) -> F64 | None:
    """The probability of every outcome by functions that were fitted without its image; None for a single image."""
    images, place = np.unique(found.image, return_inverse=True)
    if len(images) < 2:
        return None
    order = np.argsort(hashed(images))
    fold = np.empty(len(images), np.int64)
    fold[order] = np.arange(len(images)) % folds
    of, probability = fold[place], np.empty(len(found.peak))
    for number in range(min(folds, len(images))):
        inside = of == number
        others = Outcomes(found.peak[~inside], found.right[~inside], found.joint[~inside], found.image[~inside])
        probability[inside] = probability_of(found, fit(others, joints=joints))[inside]
    return probability


def probability_of(found: Outcomes, curves: Sequence[Curve]) -> F64:
    """The probability of each outcome."""
    result = np.empty(len(found.peak))
    for joint, curve in enumerate(curves):
        rows = found.joint == joint
        result[rows] = np.interp(found.peak[rows], curve.peak, curve.probability)
    return result


def reliability(score: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> list[Bin]:
    """Joints by their score, in bins that are not empty."""
    at = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(at, minlength=BINS)
    total, hits = (np.bincount(at, weights=values.astype(np.float64), minlength=BINS) for values in (score, right))
    return [Bin(total[b] / count[b], hits[b] / count[b], int(count[b])) for b in np.flatnonzero(count).tolist()]


def calibration_error(score: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float:
    """The expected calibration error of scores from 0 to 1."""
    found = reliability(score, right)
    return float(sum(b.joints * abs(b.score - b.right) for b in found) / sum(b.joints for b in found))
