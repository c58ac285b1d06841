"""One entrance to every metric: the skeleton says which."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from icon_dist.errors import DataError, plural
from icon_dist.metrics import coco, crowdpose, pck, pckh
from icon_dist.metrics.ground_truth import STRANGER, GroundTruth
from icon_dist.types import Predictions, Skeleton, score_text

MAIN = {"coco": "AP", "crowdpose": "AP", "pckh": "PCKh", "pck": "PCK@0.2"}
ENGINES = ("pycocotools", "fast")  # of AP


def main_metric(skeleton: Skeleton) -> str:
    """Name of the headline number among the scores."""
    return MAIN[skeleton.metric]


def evaluator(skeleton: Skeleton, *, engine: str) -> str:
    """What computes the numbers of :func:`score`, to be named beside them."""
    return engine if skeleton.metric in ("coco", "crowdpose") else "icon_dist"


def headline_text(skeleton: Skeleton, score: float | None, headline: str | None) -> str:
    """The main score of a checkpoint as people read it: ``AP 76.1``; None is one that was not evaluated.

    ``headline`` is its name: a set may be scored by another metric than that of the ``skeleton`` that is predicted.
    """
    metric = headline or main_metric(skeleton)
    return "not evaluated" if score is None else f"{metric} {score_text(metric, score)}"


def check_truth(
    truth: GroundTruth, skeleton: Skeleton, *, boxes: str = "gt", image_ids: Collection[int] | None = None
) -> None:
    """DataError now if :func:`score` would raise one hours later, or have nothing to measure.

    ``boxes``: where those of the people are from; ``image_ids``: only these images will count.
    """
    if skeleton.metric in ("pck", "pckh") and boxes != "gt":
        raise DataError(f"boxes={boxes}: {skeleton.metric} measures the annotated people; use their own boxes (gt)")
    truth = truth.among(image_ids)
    people = truth.people(~truth.crowd)
    if not people.labelled.any():
        few = f"none of {plural(len(people.id), 'person')} in {plural(len(truth.images), 'photo')}"
        raise DataError(
            f"{few} has a labelled joint: there is nothing to score by; annotate more, or score other photos"
        )
    match skeleton.metric:
        case "pck":
            pck.require_torso(people, skeleton)
        case "pckh":
            pckh.require_heads(people, skeleton)
        case "crowdpose":
            crowdpose.require_crowding(truth)


def require_evaluator(skeleton: Skeleton, *, engine: str) -> None:
    """ClusterError now if :func:`score` would raise one hours later for want of a package."""
    if evaluator(skeleton, engine=engine) == "pycocotools":
        coco.require_pycocotools()


def score(
    truth: GroundTruth,
    predictions: Predictions,
    skeleton: Skeleton,
    *,
    nms: float | None = coco.NMS,
    image_ids: Collection[int] | None = None,
    engine: str = "pycocotools",
) -> dict[str, float]:
    """Scores by name: AP and AR in 0..1, PCKh and PCK in percent.

    ``nms``: OKS above which the lower of two poses is removed (AP only), None for none. ``image_ids``: count these
    images only (a limited evaluation); people and predictions elsewhere are left out. ``engine``: of AP, one of
    :data:`ENGINES`; both give the same numbers.
    """
    truth = truth.among(image_ids)
    known = np.isin(predictions.image_id, truth.images)
    if image_ids is None and not known.all():
        raise DataError(f"image {predictions.image_id[~known].min()}: {STRANGER}")
    if not (np.isfinite(predictions.keypoints).all() and np.isfinite(predictions.box_score).all()):
        raise DataError("predictions: not all of them are finite; the model or the boxes are broken")
    ours = predictions.take(known)
    match skeleton.metric:
        case "coco":
            return coco.score(truth, ours, skeleton, nms=nms, engine=engine)
        case "crowdpose":
            return crowdpose.score(truth, ours, skeleton, nms=nms, engine=engine)
        case "pckh":
            return pckh.score(truth, ours, skeleton)
        case "pck":
            return pck.score(truth, ours, skeleton)
    raise AssertionError(skeleton.metric)
