"""MPII PCKh (HRNet's ``lib/dataset/mpii.py``): error over .6 of the head box diagonal."""

from __future__ import annotations

import numpy as np

from icon_dist.errors import DataError
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.matching import match, percent
from icon_dist.types import Predictions, Skeleton

HEAD = 0.6  # of the head box diagonal is the unit
PARTS = {
    "head": ("headtop",),
    "shoulder": ("lsho", "rsho"),
    "elbow": ("lelb", "relb"),
    "wrist": ("lwri", "rwri"),
    "hip": ("lhip", "rhip"),
    "knee": ("lkne", "rkne"),
    "ankle": ("lank", "rank"),
}
UNCOUNTED = ("pelvis", "thorax")  # left out of the mean


def require_heads(people: GroundTruth, skeleton: Skeleton) -> None:
    """PCKh is of MPII's joints, and measured in head boxes, which MPII's json does not have."""
    if missing := [joint for joints in PARTS.values() for joint in joints if joint not in skeleton.joints]:
        raise DataError(
            f"skeleton {skeleton.name}: PCKh is of MPII's joints, {', '.join(missing[:3])} ... are not among these; "
            "use metric pck or coco in the skeleton and build again"
        )
    if (without := np.isnan(people.head)).any():
        raise DataError(
            f"person {people.id[without][0]}: no head size in the ground truth, which PCKh needs; "
            "build the shards again with --headboxes gt_valid.mat"
        )


def score(truth: GroundTruth, predictions: Predictions, skeleton: Skeleton) -> dict[str, float]:
    """Percent. ``PCKh`` is the mean weighted by the number of visible joints; ``PCKh@0.1`` at a threshold of .1.

    (The public code's "@0.1" is really at .11.)
    """
    matched = match(truth, predictions, skeleton)
    require_heads(matched.people, skeleton)
    relative = matched.error / (HEAD * matched.people.head)[:, None]
    count = matched.labelled.sum(axis=0).tolist()
    hits, fine = ((matched.labelled & (relative <= t)).sum(axis=0).tolist() for t in (0.5, 0.1))
    at = skeleton.joints.index
    scores = {}
    for part, joints in PARTS.items():  # mean of left and right, not weighted
        sides = [percent(hits[at(j)], count[at(j)]) for j in joints if count[at(j)]]
        scores[part] = float(np.mean(sides)) if sides else -1.0
    counted = [i for i, joint in enumerate(skeleton.joints) if joint not in UNCOUNTED]
    total = sum(count[i] for i in counted)
    scores["PCKh"] = percent(sum(hits[i] for i in counted), total)
    scores["PCKh@0.1"] = percent(sum(fine[i] for i in counted), total)
    return scores
