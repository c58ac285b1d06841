"""CrowdPose AP: COCO's rule, and again on easy, medium and hard images by ``crowdIndex``.

The paper cuts at .1 and .8, the public API (Jeff-sjtu/CrowdPose ``crowdposetools``) at .2 and .8: both are reported.
An image on a cut belongs to the harder side, as in the API.
"""

from __future__ import annotations

import numpy as np

from icon_dist.errors import DataError
from icon_dist.metrics.coco import NAMES, final_poses, statistics
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.types import Predictions, Skeleton

CUTS = {".1/.8": (0.1, 0.8), ".2/.8": (0.2, 0.8)}
SUBSETS = ("easy", "medium", "hard")


def require_crowding(truth: GroundTruth) -> None:
    """Only CrowdPose's own json says how crowded an image is."""
    if (without := np.isnan(truth.crowding)).any():
        raise DataError(
            f"image {truth.images[without][0]}: no crowdIndex, by which metric crowdpose sorts images; use metric coco "
            "in the skeleton and build again"
        )


def score(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, *, nms: float | None, engine: str
) -> dict[str, float]:
    """AP and AR, and AP per subset, in 0..1; -1 where the truth has no person."""
    sigmas = np.array(skeleton.sigmas)
    poses = final_poses(predictions, sigmas=sigmas, nms=nms)
    values = statistics(truth, poses, sigmas=sigmas, engine=engine)
    whole = dict(zip(NAMES, values, strict=True))
    scores = {name: value for name, value in whole.items() if not name.endswith(("(M)", "(L)"))}
    for label, cuts in CUTS.items():
        level = np.digitize(truth.crowding, cuts)
        for number, subset in enumerate(SUBSETS):
            members = truth.among(truth.images[level == number].tolist())
            scores[f"AP {subset} {label}"] = statistics(members, poses, sigmas=sigmas, engine=engine)[0]
    return scores
