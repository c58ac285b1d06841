"""People whose labels look wrong: a model is sure of a joint, and the label is somewhere else.

Joints count that are labelled, and right with a probability of a half or more (:mod:`icon_dist.metrics.calibration`).
The kinds, of which the first that fits names a person:

====================== =======================================================================================
sides exchanged        two or more joints of pairs lie on the labels of their other sides
somebody else          three or more joints, all that are sure, are far from their labels, and on another person
joints exchanged       two joints, each on the label of the other
far from the label     a joint is near nobody's label of its own
====================== =======================================================================================

Similarity is that of OKS: 1 at the label, .5 near it, below .1 far. A model that has learnt a person may have learnt
the wrong label by heart, so the poses should be of one that has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.oks import similarity
from icon_dist.types import Predictions, Skeleton, mirror_order

F64 = NDArray[np.float64]
KINDS = ("sides exchanged", "somebody else", "joints exchanged", "far from the label")
SURE = 0.5  # probability from which a joint counts
NEAR, FAR = 0.5, 0.1  # similarities


@dataclass(frozen=True)
class Suspect:
    """One person."""

    person: int  # row of the truth
    pose: int  # row of the predictions
    kind: str
    joints: Bool[np.ndarray, " K"]  # that disagree
    suspicion: float  # 0 to 1: mean over these of probability x (1 - similarity)


def find(
    truth: GroundTruth, poses: Predictions, probability: Float[np.ndarray, "n K"], skeleton: Skeleton
) -> list[Suspect]:
    """Suspects, the most suspicious first; ``poses`` are of annotated boxes, with the ids of their people."""
    row, joints = {one: i for i, one in enumerate(truth.id.tolist())}, truth.keypoints
    of_image: dict[int, list[int]] = {image: [] for image in truth.images.tolist()}
    for i, image in enumerate(truth.image_id.tolist()):
        of_image[image].append(i)
    found = []
    for number, (instance, image) in enumerate(zip(poses.instance.tolist(), poses.image_id.tolist(), strict=True)):
        if image not in of_image:
            continue
        person = row[instance]
        others = joints[[other for other in of_image[image] if other != person]]
        pose = _Pose(
            xy=poses.keypoints[number, :, :2].astype(np.float64),
            label=joints[person],
            area=float(truth.area[person]),
            sure=(joints[person, :, 2] > 0) & (probability[number] >= SURE),
            skeleton=skeleton,
        )
        if (verdict := next(pose.verdicts(others), None)) is not None:
            kind, wrong = verdict
            suspicion = float((probability[number] * (1 - pose.to_label))[wrong].mean())
            found.append(Suspect(person, number, kind, wrong, suspicion))
    return sorted(found, key=lambda suspect: -suspect.suspicion)


@dataclass(frozen=True)
class _Pose:
    xy: F64  # [K, 2]
    label: F64  # [K, 3]
    area: float
    sure: NDArray[np.bool_]
    skeleton: Skeleton

    @property
    def to_label(self) -> F64:
        """Similarity of each joint to its own label."""
        return self._to(self.label)

    def _to(self, label: F64, order: list[int] | None = None) -> F64:
        """Similarity of each joint to its label in ``label``, or to that of another joint; 0 where that is missing."""
        place = label if order is None else label[order]
        near = similarity(
            self.xy[None], place[None, :, :2], area=np.array([self.area]), sigmas=np.array(self.skeleton.sigmas)
        )[0]
        return np.where(place[:, 2] > 0, near, 0.0)

    def verdicts(self, others: F64) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Which kinds of suspect this is, the gravest first, and by which joints."""
        own, mirrored = self.to_label, self.skeleton.mirrored
        far = self.sure & (own < FAR)
        if not far.any():
            return
        paired = far & (np.array(mirrored) != np.arange(len(mirrored))) & (self._to(self.label, mirrored) >= NEAR)
        if paired.sum() >= 2:
            yield KINDS[0], paired
        if far.sum() >= 3 and (far == self.sure).all() and any(self._is(other) for other in others):
            yield KINDS[1], far
        for a in np.flatnonzero(far).tolist():
            for b in np.flatnonzero(far).tolist():
                crossed = self._to(self.label, mirror_order(len(mirrored), [(a, b)]))
                if a < b and mirrored[a] != b and min(crossed[a], crossed[b]) >= NEAR:
                    both = np.zeros_like(far)
                    both[[a, b]] = True
                    yield KINDS[2], both
        alone = far & ~np.any([self._to(other) >= NEAR for other in others], axis=0) if len(others) else far
        if alone.any():
            yield KINDS[3], alone

    def _is(self, other: F64) -> bool:
        """Whether this is the pose of another person."""
        both = self.sure & (other[:, 2] > 0)
        return both.sum() >= 3 and float(self._to(other)[both].mean()) >= NEAR
