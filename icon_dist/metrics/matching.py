"""Ground truth beside the pose predicted for each person: what PCK and PCKh compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from icon_dist.errors import DataError, plural
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.types import Predictions, Skeleton


@dataclass(frozen=True)
class Matched:
    """One row a person of the truth, in its order."""

    people: GroundTruth
    error: Float[np.ndarray, "n K"]  # px; infinite where nothing was predicted
    peak: Float[np.ndarray, "n K"]  # joint score; 0 where nothing was predicted
    xy: Float[np.ndarray, "n K 2"]  # true joints, px
    labelled: Bool[np.ndarray, "n K"]


def match(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> Matched:
    """By annotation id: these metrics take ground-truth boxes. A person without a prediction counts as missed."""
    people = truth.people(~truth.crowd)
    row = {person: i for i, person in enumerate(people.id.tolist())}
    unknown = [i for i in predictions.instance.tolist() if i not in row]
    if unknown:
        raise DataError(
            f"prediction for person {unknown[0]}: not in the ground truth; {skeleton.metric} needs --boxes gt"
        )
    rows = [row[i] for i in predictions.instance.tolist()]
    if len(set(rows)) != len(rows):
        raise DataError(f"{plural(len(rows) - len(set(rows)), 'pose')} too many; {skeleton.metric} takes one a person")
    joints = people.keypoints
    predicted = np.full((*joints.shape[:2], 2), np.inf)
    predicted[rows] = predictions.keypoints[..., :2]
    error = np.linalg.norm(predicted - joints[..., :2], axis=2)
    peak = np.zeros(error.shape)
    peak[rows] = predictions.keypoints[..., 2]
    return Matched(people, error, peak, joints[..., :2], joints[..., 2] > 0)


def percent(hits: int, count: int) -> float:
    """-1 where there is nothing to count, as in pycocotools."""
    return 100 * hits / count if count else -1.0
