"""A run's best checkpoint scored and diagnosed on a shard set: what reports need that a run has not recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from icon_dist.config import EvalConfig
from icon_dist.inference import trained
from icon_dist.inference.boxes import photos_of, truth_of
from icon_dist.inference.predictor import conditions_on
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.matching import match
from icon_dist.metrics.oks import similarity
from icon_dist.metrics.recall import THRESHOLDS
from icon_dist.metrics.score import check_truth, main_metric, require_evaluator
from icon_dist.reports.diagnosis import Diagnosis, Scored, diagnosis_of, read_features
from icon_dist.reports.runs import Run
from icon_dist.reports.score_checks import Asked
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.types import Skeleton

AT = THRESHOLDS.index(0.5)


@dataclass(frozen=True)
class Poses:
    """The poses of annotated instances beside their truth, one row an instance with a labelled joint."""

    instance: Int64[np.ndarray, " n"]
    xy: Float[np.ndarray, "n K 2"]  # photo px
    truth: Float[np.ndarray, "n K 2"]
    labelled: Bool[np.ndarray, "n K"]
    area: Float[np.ndarray, " n"]  # px^2
    similarity: Float[np.ndarray, "n K"]  # to the truth


@dataclass(frozen=True)
class Measured:
    """One checkpoint on one shard set."""

    checkpoint: str
    step: int
    conditions: str
    skeleton: Skeleton
    aspect: float  # width over height of the network's input
    scored: Scored
    diagnosis: Diagnosis
    poses: Poses

    @property
    def joint_scores(self) -> tuple[str, dict[str, float]]:
        """Percent of each joint's labelled ones that are right, and what right means; -1 where none is labelled."""
        joints = self.skeleton.joints
        metric = main_metric(self.skeleton)
        if all(joint in self.scored.scores for joint in joints):
            return metric, {joint: self.scored.scores[joint] for joint in joints}
        recall = self.diagnosis.numbers["recall"]["per_joint"]
        return "similarity of .5 or more, %", {joint: recall[joint]["ks"][AT] for joint in joints}


@dataclass(frozen=True)
class Shards:
    """A set on which checkpoints are measured."""

    uri: str
    index: ShardSet
    truth: GroundTruth


def open_measured(uri: str, inputs: Iterable[tuple[int, int]]) -> Shards:
    """The shards at ``uri``, for networks with inputs of these sizes (H, W). DataError where they do not fit."""
    for input_hw in dict.fromkeys(inputs):
        index = open_shards(uri, input_hw=input_hw)
    return Shards(uri, index, truth_of(index))


def measure(run: Run, shards: Shards, *, settings: EvalConfig, loaders: int, device: str) -> Measured:
    """Score and diagnose the best checkpoint of a run, or its last where none was scored, on the boxes of ``shards``.

    CheckpointError about the weights, DataError about the images, DivergedError where the poses are not finite.
    """
    found = trained.load(run.uri, device=device)
    index = shards.index
    truth = shards.truth.among(photos_of(index, settings.limit))
    check_truth(truth, index.skeleton)
    require_evaluator(index.skeleton, engine=settings.engine)
    asked = Asked(index, truth, settings, loaders=loaders, device=device)
    scores, predictions = asked.predicted(found)
    scored = Scored(index, truth, predictions, scores, "gt")
    features = read_features(
        found.model, index, truth.images, codec=found.codec, batch=settings.batch, loaders=loaders, device=device
    )
    return Measured(
        checkpoint=found.weights.checkpoint,
        step=found.weights.step,
        conditions=conditions_on(index, settings, codec=found.codec.name),
        skeleton=index.skeleton,
        aspect=found.codec.frame.aspect,
        scored=scored,
        diagnosis=diagnosis_of(scored, features, index.skeleton),
        poses=_beside_truth(scored, index.skeleton),
    )


def _beside_truth(scored: Scored, skeleton: Skeleton) -> Poses:
    found = match(scored.truth, scored.predictions, skeleton)
    row = {instance: i for i, instance in enumerate(scored.predictions.instance.tolist())}
    kept = np.flatnonzero(found.labelled.any(axis=1) & np.isin(found.people.id, scored.predictions.instance))
    instance, area = found.people.id[kept], found.people.area[kept]
    xy = scored.predictions.keypoints[[row[i] for i in instance.tolist()], :, :2].astype(np.float64)
    return Poses(
        instance=instance,
        xy=xy,
        truth=found.xy[kept],
        labelled=found.labelled[kept],
        area=area,
        similarity=similarity(xy, found.xy[kept], area=area, sigmas=np.array(skeleton.sigmas)),
    )
