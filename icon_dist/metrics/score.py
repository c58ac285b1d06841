"""One entrance to every metric: the skeleton says which."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from icon_dist.errors import DataError, plural
from icon_dist.metrics import coco, crowdpose, pck, pckh
from icon_dist.metrics.oks import select
from icon_dist.types import Predictions, Skeleton

MAIN = {"coco": "AP", "crowdpose": "AP", "pckh": "PCKh", "pck": "PCK@0.2"}
ENGINES = ("pycocotools", "fast")  # of AP


def main_metric(skeleton: Skeleton) -> str:
    """Name of the headline number among the scores."""
    return MAIN[skeleton.metric]


def evaluator(skeleton: Skeleton, *, engine: str) -> str:
    """What computes the numbers of :func:`score`, to be named beside them."""
    return engine if skeleton.metric in ("coco", "crowdpose") else "icon_dist"


def check_truth(
    truth: dict[str, Any], skeleton: Skeleton, *, boxes: str = "gt", image_ids: Collection[int] | None = None
) -> None:
    """DataError now if :func:`score` would raise one hours later, or have nothing to measure.

    ``boxes``: where those of the people are from; ``image_ids``: only these images will count.
    """
    if skeleton.metric in ("pck", "pckh") and boxes != "gt":
        raise DataError(f"boxes={boxes}: {skeleton.metric} measures the annotated people; use their own boxes (gt)")
    wanted = {image["id"] for image in truth["images"]} if image_ids is None else set(image_ids)
    people = [a for a in truth["annotations"] if a["image_id"] in wanted and not a["iscrowd"]]
    if not any(person["num_keypoints"] for person in people):
        few = f"none of {plural(len(people), 'person')} in {plural(len(wanted), 'photo')}"
        raise DataError(
            f"{few} has a labelled joint: there is nothing to score by; annotate more, or score other photos"
        )
    match skeleton.metric:
        case "pck":
            pck.require_torso(people, skeleton)
        case "pckh":
            pckh.require_heads(people, skeleton)
        case "crowdpose":
            crowdpose.require_crowding(image for image in truth["images"] if image["id"] in wanted)


def require_evaluator(skeleton: Skeleton, *, engine: str) -> None:
    """ClusterError now if :func:`score` would raise one hours later for want of a package."""
    if evaluator(skeleton, engine=engine) == "pycocotools":
        coco.require_pycocotools()


def score(
    truth: dict[str, Any],
    predictions: Predictions,
    skeleton: Skeleton,
    *,
    nms: float | None = coco.NMS,
    image_ids: Collection[int] | None = None,
    engine: str = "pycocotools",
) -> dict[str, float]:
    """Scores by name: AP and AR in 0..1, PCKh and PCK in percent.

    ``nms``: OKS above which the lesser of two poses goes (AP only), None for no suppression. ``image_ids``: count these
    images only (a limited evaluation); people and predictions elsewhere are left out. ``engine``: of AP, one of
    :data:`ENGINES`; both give the same numbers. ``truth`` is not changed.
    """
    known = {image["id"] for image in truth["images"]}
    wanted = known if image_ids is None else set(image_ids)
    strangers = (wanted if image_ids is not None else set(predictions.image_id.tolist())) - known
    if strangers:
        raise DataError(f"image {min(strangers)}: not in the ground truth; predictions and truth are of different sets")
    finite = np.isfinite(predictions.keypoints).all() and np.isfinite(predictions.box_score).all()
    if not finite:
        raise DataError("predictions: not all of them are finite; the model or the boxes are broken")
    ours = select(predictions, np.isin(predictions.image_id, sorted(wanted)))
    match skeleton.metric:
        case "coco":
            return coco.score(truth, ours, skeleton, nms=nms, image_ids=wanted, engine=engine)
        case "crowdpose":
            return crowdpose.score(truth, ours, skeleton, nms=nms, image_ids=wanted, engine=engine)
        case "pckh":
            return pckh.score(truth, ours, skeleton, image_ids=wanted)
        case "pck":
            return pck.score(truth, ours, skeleton, image_ids=wanted)
    raise AssertionError(skeleton.metric)
