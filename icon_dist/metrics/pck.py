"""PCK@0.2: share of joints within a fifth of the torso of the truth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from icon_dist.errors import DataError
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.matching import Matched, match, percent
from icon_dist.types import Predictions, Skeleton

THRESHOLD = 0.2
FIX = "name two joints that are labelled as torso in the skeleton and build again, or use another metric"


def require_torso(people: GroundTruth, skeleton: Skeleton) -> None:
    """PCK measures in lengths of the torso: somebody must have both of its ends, apart."""
    first, second = skeleton.torso
    if first == second:
        raise DataError(f"skeleton {skeleton.name}: names no torso, which PCK measures by; {FIX}")
    ends = people.keypoints[:, [first, second]]
    if not ((ends[..., 2] > 0).all(axis=1) & (ends[:, 0, :2] != ends[:, 1, :2]).any(axis=1)).any():
        names = f"{skeleton.joints[first]} and {skeleton.joints[second]}"
        raise DataError(
            f"nobody of {len(people.id)} has both {names} labelled and apart, the torso that PCK measures by; {FIX}"
        )


def judged(matched: Matched, skeleton: Skeleton) -> tuple[Bool[np.ndarray, "n K"], Bool[np.ndarray, "n K"]]:
    """Which joints count, the labelled of people whose two torso ends are labelled and apart; and which are right."""
    first, second = skeleton.torso
    torso = np.linalg.norm(matched.xy[:, first] - matched.xy[:, second], axis=1)
    whole = matched.labelled[:, first] & matched.labelled[:, second] & (torso > 0)
    return matched.labelled & whole[:, None], matched.error <= THRESHOLD * torso[:, None]


def score(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> dict[str, float]:
    """Percent, per joint and over all joints that count."""
    counts, right = judged(match(truth, predictions, skeleton), skeleton)
    hits, count = (counts & right).sum(axis=0).tolist(), counts.sum(axis=0).tolist()
    per_joint = {joint: percent(hits[i], count[i]) for i, joint in enumerate(skeleton.joints)}
    return {**per_joint, "PCK@0.2": percent(sum(hits), sum(count))}
