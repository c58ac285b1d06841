"""CrowdPose AP: COCO's rule, and again on easy, medium and hard images by ``crowdIndex``.

The paper cuts at .1 and .8, the public API (Jeff-sjtu/CrowdPose ``crowdposetools``) at .2 and .8: both are reported.
An image on a cut belongs to the harder side, as in the API.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from icon_dist.errors import DataError
from icon_dist.metrics.coco import NAMES, final_poses, statistics
from icon_dist.types import Predictions, Skeleton

CUTS = {".1/.8": (0.1, 0.8), ".2/.8": (0.2, 0.8)}
SUBSETS = ("easy", "medium", "hard")


def require_crowding(images: Iterable[dict[str, Any]]) -> None:
    """Only CrowdPose's own json says how crowded an image is."""
    for image in images:
        if "crowdIndex" not in image:
            raise DataError(
                f"image {image['id']}: no crowdIndex, by which metric crowdpose sorts images; use metric coco in the "
                "skeleton and build again"
            )


def score(
    truth: dict[str, Any],
    predictions: Predictions,
    skeleton: Skeleton,
    *,
    nms: float | None,
    image_ids: Collection[int],
    engine: str,
) -> dict[str, float]:
    """AP and AR, and AP per subset, in 0..1; -1 where the truth has no person."""
    sigmas = np.array(skeleton.sigmas)
    poses = final_poses(predictions, sigmas=sigmas, nms=nms)
    wanted = set(image_ids)
    crowding = {i["id"]: i["crowdIndex"] for i in truth["images"] if i["id"] in wanted}
    values = statistics(truth, poses, sigmas=sigmas, image_ids=image_ids, engine=engine)
    whole = dict(zip(NAMES, values, strict=True))
    scores = {name: value for name, value in whole.items() if not name.endswith(("(M)", "(L)"))}
    for label, cuts in CUTS.items():
        level = dict(zip(crowding, np.digitize(list(crowding.values()), cuts).tolist(), strict=True))
        for number, subset in enumerate(SUBSETS):
            members = [image for image, of in level.items() if of == number]
            values = statistics(truth, poses, sigmas=sigmas, image_ids=members, engine=engine)
            scores[f"AP {subset} {label}"] = values[0]
    return scores
