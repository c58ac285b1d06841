"""What the test servers take: COCO's and CrowdPose's result json, MPII's ``pred.mat`` (HRNet's ``lib/dataset``)."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from pathlib import PurePosixPath

import numpy as np

from icon_dist.errors import ConfigError, DataError, plural
from icon_dist.metrics.coco import NMS, final_poses
from icon_dist.types import Predictions, Skeleton

SUFFIXES = {"coco": ".json", "crowdpose": ".json", "pckh": ".mat"}  # by metric


def check_results(path: str, skeleton: Skeleton, *, boxes: str) -> None:
    """ConfigError before hours of prediction if :func:`results` has nothing for such a file."""
    suffix = SUFFIXES.get(skeleton.metric)
    if suffix is None:
        raise ConfigError(f"--results {path}: no test server takes poses of {skeleton.name}; leave it out")
    if PurePosixPath(path).suffix != suffix:
        raise ConfigError(f"--results {path}: poses of {skeleton.name} are a {suffix} file; name it so")
    if suffix == ".mat" and boxes != "gt":
        raise ConfigError(f"--results {path}: one pose for each annotated person; leave --boxes {boxes} out")


def results(predictions: Predictions, skeleton: Skeleton, *, people: Collection[int], category: int = 1) -> bytes:
    """The file that the skeleton's test server takes.

    ``people``: ids of everybody in the annotations (MPII only); ``category``: id of theirs (COCO's and CrowdPose's).
    """
    if not len(predictions.instance):
        raise DataError("results: no pose was predicted, and no server scores an empty file; give boxes of people")
    if skeleton.metric == "pckh":
        return pred_mat(predictions, people=people)
    return result_json(final_poses(predictions, sigmas=np.array(skeleton.sigmas), nms=NMS), category=category)


def result_json(poses: Predictions, *, category: int) -> bytes:
    """What ``COCO.loadRes`` reads, one pose a line; every number exactly the one that was scored here."""
    columns = (poses.image_id, poses.keypoints.reshape(-1, 3 * poses.keypoints.shape[1]), poses.box_score)
    lines = [
        json.dumps({"image_id": image, "category_id": category, "keypoints": keypoints, "score": value})
        for image, keypoints, value in zip(*(c.tolist() for c in columns), strict=True)
    ]
    return ("[" + ",\n".join(lines) + "]\n").encode()


def pred_mat(predictions: Predictions, *, people: Collection[int]) -> bytes:
    """``preds`` [n, 16, 2], 1-based px, a row each of the annotation list, whose rows are the ids ``people``."""
    rows = sorted(people)
    if rows != list(range(len(rows))):
        gap = next((i for i, row in enumerate(rows) if i != row), 0)
        raise DataError(f"pred.mat: person {gap} of the annotation list is missing; build the shards from all of it")
    if missing := sorted(set(rows) - set(predictions.instance.tolist())):
        few = plural(len(missing), "person")
        raise DataError(f"pred.mat: no pose for {few} (id={missing[0]} ...); predict everybody")
    preds = np.empty((len(rows), *predictions.keypoints.shape[1:2], 2), dtype=np.float32)
    preds[predictions.instance] = predictions.keypoints[..., :2] + 1
    from scipy.io import savemat  # only this file of MPII's needs it

    file = io.BytesIO()
    savemat(file, {"preds": preds})
    return file.getvalue()
