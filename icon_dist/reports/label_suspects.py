"""Whose labels look wrong, by poses of a model that has not learnt them: the last part of a diagnosis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from icon_dist.checkpoints.weights import Weights
from icon_dist.datasets.merged_skeleton import columns
from icon_dist.errors import note, plural
from icon_dist.metrics.calibration import Curve, probabilities
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.label_suspects import Suspect, find
from icon_dist.reports.pictures import Subject, sheet
from icon_dist.shards.label_split import labels_seen
from icon_dist.shards.reader import rows_of
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Json, Predictions

LISTED = 100  # suspects of a page
DRAWN = 24


@dataclass(frozen=True)
class Opinion:
    """What one model says of the people of a set."""

    weights: Weights
    poses: Predictions  # on the joints of the set
    probability: Float[np.ndarray, "n K"]  # that each joint is right


@dataclass(frozen=True)
class Suspects:
    """The people, most suspicious first, and the poses by which they are."""

    found: list[Suspect]
    poses: Predictions


def opinion_of(weights: Weights, poses: Predictions, curves: Sequence[Curve], shards: ShardSet) -> Opinion:
    """``curves`` are by joint of the model."""
    own = [curves[joint] for joint in columns(weights.skeleton, shards.skeleton).tolist()]
    return Opinion(weights, poses, probabilities(poses.keypoints[..., 2].astype(np.float64), own))


def suspects_of(truth: GroundTruth, shards: ShardSet, first: Opinion, second: Opinion | None) -> Suspects:
    """Everybody is judged by the first model, or by the second where the first has learnt his labels.

    With two models, who was learnt by both is left out; with one, nobody is, and a note counts them.
    """
    learnt = _learnt(first, shards)
    if second is None:
        judged = learnt[rows_of(shards, first.poses.instance)]
        if judged.any():
            people = plural(int(judged.sum()), "person")
            note(f"suspects: {people} of these were learnt, perhaps with a wrong label; --second RUN judges them")
        poses, probability = first.poses, first.probability
    else:
        both = learnt & _learnt(second, shards)
        if both.any():
            note(f"suspects: {plural(int(both.sum()), 'person was', 'people were')} learnt by both runs; left out")
        turn = (learnt & ~both, ~learnt)
        parts = [
            (one.poses.take(keep), one.probability[keep])
            for one, rows in zip((second, first), turn, strict=True)
            for keep in [rows[rows_of(shards, one.poses.instance)]]
        ]
        names = [field.name for field in dataclasses.fields(Predictions)]
        poses = Predictions(**{name: np.concatenate([getattr(part, name) for part, _ in parts]) for name in names})
        probability = np.concatenate([values for _, values in parts])
    return Suspects(find(truth, poses, probability, shards.skeleton), poses)


def _learnt(opinion: Opinion, shards: ShardSet) -> NDArray[np.bool_]:
    """``[n]``: rows of the set whose labels a model has seen in training, as far as it says."""
    learnt = np.zeros(len(shards), dtype=bool)
    learnt[labels_seen(opinion.weights, shards)] = True
    return learnt


def listed(found: Suspects, truth: GroundTruth, joints: Sequence[str]) -> list[Json]:
    """The first of them as ``diagnosis.json`` has them."""
    files = dict(zip(truth.images.tolist(), truth.files.tolist(), strict=True))
    ids, images = truth.id.tolist(), truth.image_id.tolist()
    return [
        {
            "id": ids[suspect.person],
            "file": files[images[suspect.person]],
            "kind": suspect.kind,
            "joints": [joints[k] for k in np.flatnonzero(suspect.joints).tolist()],
            "suspicion": suspect.suspicion,
        }
        for suspect in found.found[:LISTED]
    ]


def sheet_of(found: Suspects, truth: GroundTruth, shards: ShardSet, *, aspect: float) -> NDArray[np.uint8] | None:
    """The first of them: the pose in color, the label in white, and where they disagree; None without any."""
    if not found.found:
        return None
    chosen = found.found[:DRAWN]
    rows = rows_of(shards, found.poses.instance[[suspect.pose for suspect in chosen]])
    subjects = []
    for row, suspect in zip(rows.tolist(), chosen, strict=True):
        label, name = truth.keypoints[suspect.person], f"#{truth.id[suspect.person]}: {suspect.kind}"
        pose = found.poses.keypoints[suspect.pose, :, :2].astype(np.float64)
        subjects.append(Subject(row, pose, label, name, suspect.joints))
    return sheet(shards, subjects, shards.skeleton, aspect=aspect)
