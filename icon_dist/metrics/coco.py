"""COCO keypoint AP, by pycocotools or by :mod:`icon_dist.metrics.coco_fast`, which says the same."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist.errors import needed_for
from icon_dist.metrics import coco_fast
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.oks_nms import rescore, suppress
from icon_dist.types import Predictions, Skeleton

Entry = dict[str, Any]  # of a file, as pycocotools takes it
NMS = 0.9  # OKS above which the lower-scored of two poses is removed
NAMES = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")


def score(
    truth: GroundTruth, predictions: Predictions, skeleton: Skeleton, *, nms: float | None, engine: str
) -> dict[str, float]:
    """The ten numbers in 0..1; -1 where no person of that size is in the truth."""
    sigmas = np.array(skeleton.sigmas)
    poses = final_poses(predictions, sigmas=sigmas, nms=nms)
    values = statistics(truth, poses, sigmas=sigmas, engine=engine)
    return dict(zip(NAMES, values, strict=True))


def final_poses(predictions: Predictions, *, sigmas: NDArray[np.float64], nms: float | None) -> Predictions:
    """Rescored, and without near-duplicates unless ``nms`` is None."""
    rescored = rescore(predictions)
    return rescored if nms is None else suppress(rescored, sigmas=sigmas, threshold=nms)


def require_pycocotools() -> None:
    """ConfigError now rather than after a training or an evaluation."""
    with needed_for("AP by --engine or eval.engine=pycocotools (fast says the same)", "pycocotools"):
        import pycocotools.cocoeval  # noqa: F401


def statistics(
    truth: GroundTruth,
    poses: Predictions,
    *,
    sigmas: NDArray[np.float64],
    smallest: float = 0.0,
    engine: str = "pycocotools",
) -> list[float]:
    """pycocotools' ten statistics over the images of ``truth``; people smaller than ``smallest`` px^2 do not count.

    ``engine``: pycocotools, or fast for the same numbers from :mod:`icon_dist.metrics.coco_fast`.
    """
    if engine == "fast":
        return coco_fast.statistics(truth, poses, sigmas=sigmas, smallest=smallest)
    assert engine == "pycocotools", engine
    require_pycocotools()
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, _annotations(truth)), _index(truth, detections(poses)), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.params.imgIds = np.unique(truth.images).tolist()
        evaluation.params.areaRng[0][0] = smallest  # of "all"
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def _index(truth: GroundTruth, annotations: list[Entry]) -> Any:
    from pycocotools.coco import COCO

    indexed = COCO()
    indexed.dataset = {
        "images": [{"id": image} for image in truth.images.tolist()],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    indexed.createIndex()
    return indexed


def _annotations(truth: GroundTruth) -> list[Entry]:
    """As in a file; ids from 1, because pycocotools takes a match with annotation 0 for no match."""
    columns = {
        "image_id": truth.image_id,
        "keypoints": truth.keypoints.reshape(-1, 3 * truth.keypoints.shape[1]),
        "bbox": truth.box,
        "area": truth.area,
        "iscrowd": truth.crowd.astype(int),
        "num_keypoints": truth.labelled,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": i, "category_id": 1, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, start=1)]


def detections(poses: Predictions) -> list[Entry]:
    """As ``COCO.loadRes`` makes them from a results file: the area is that of the joints' bounding box."""
    keypoints = poses.keypoints.astype(np.float64)
    area = np.ptp(keypoints[..., :2], axis=1).prod(axis=1)
    columns = (poses.image_id, keypoints.reshape(-1, 3 * keypoints.shape[1]), poses.box_score, area)
    return [
        {"id": i, "image_id": image, "category_id": 1, "keypoints": points, "score": value, "area": size}
        for i, (image, points, value, size) in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1)
    ]
