"""Augmentation as one affine matrix per person, for a whole batch at once (HRNet ``JointsDataset``).

Half-body, scale, rotation, flip, in that order, all folded into the matrix photo px -> input px; pixels are
touched once, by whoever applies it. Every draw is a pure function of (seed, epoch, instance id).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_dist.codec.affine import compose, transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.rng import hashed, normal, uniforms
from icon_dist.types import Skeleton

F64 = NDArray[np.float64]
DRAWS = 9  # uniform numbers a person needs
ROTATED = 0.6  # share of people who are, as in the official code


@dataclass(frozen=True)
class Placement:
    """Where a person lands in the input image."""

    matrix: F64  # [n, 2, 3] photo px -> input px, the flip included
    flipped: NDArray[np.bool_]  # [n]: left and right joints have changed places


@dataclass(frozen=True)
class Joints:
    """What a batch knows of the joints."""

    xy: NDArray[np.float32]  # [n, K, 2] input px; 0 where unlabelled
    labelled: NDArray[np.bool_]  # [n, K]
    visible: NDArray[np.bool_]  # [n, K] by the rule of the dataset


def draws(seed: int, epoch: int | NDArray[np.int64], instance: NDArray[np.int64]) -> F64:
    """The random numbers ``[n, DRAWS]`` of these people in this epoch, or each in an epoch of its own."""
    return uniforms(hashed(seed, epoch, instance), DRAWS)


def upright(box: F64, frame: InputFrame) -> Placement:
    """Boxes ``[n, 4]`` as the network sees them at test time."""
    return Placement(matrix=frame.boxes(box), flipped=np.zeros(len(box), dtype=bool))


@dataclass(frozen=True)
class Augmentation:
    """Where training sees instances: a pure function of (seed, epoch, instance id)."""

    config: AugmentConfig
    skeleton: Skeleton
    frame: InputFrame
    seed: int

    def __call__(
        self,
        box: F64,
        keypoints: NDArray[np.float32],
        instance: NDArray[np.int64],
        epoch: int | NDArray[np.int64],
        *,
        has_halves: NDArray[np.bool_] | None = None,
    ) -> Placement:
        """Boxes ``[n, 4]`` and keypoints ``[n, K, 3]`` of instances ``[n]``, in one epoch or each in its own.

        ``has_halves [n]``: whose crops have margin for one half of the body; None = all.
        """
        return self.placed(box, keypoints, draws(self.seed, epoch, instance), has_halves=has_halves)

    def placed(
        self, box: F64, keypoints: NDArray[np.float32], random: F64, *, has_halves: NDArray[np.bool_] | None = None
    ) -> Placement:
        """The same by the numbers ``random [n, DRAWS]``."""
        u = np.moveaxis(random, -1, 0)
        config = self.config
        center, scale = self.frame.center_scale(box)
        if self.skeleton.upper or self.skeleton.lower:
            those = np.flatnonzero((u[0] < config.half_body_p) & (True if has_halves is None else has_halves))
            upper_first = normal(u[1], u[2])[those] < 0.5  # a normal number in the official code too: upper in 69 %
            whole = center[those], scale[those]
            center[those], scale[those] = self._half_body(*whole, keypoints[those], upper_first)
        zoom = np.clip(1 + normal(u[3], u[4]) * config.scale, 1 - config.scale, 1 + config.scale)
        turn = np.clip(normal(u[5], u[6]) * config.rotation, -2 * config.rotation, 2 * config.rotation)
        turn = np.where(u[7] < ROTATED, turn, 0.0)
        flipped = u[8] < config.flip_p

        matrix = self.frame.affine(center, scale * zoom[:, None], turn)
        # The official code mirrors the photo and its box center, then rotates. About the center that mirror is
        # diag(-1, 1), whatever the width of the photo.
        to_origin = np.tile(np.eye(2, 3), (len(box), 1, 1))
        to_origin[:, 0, 0] = np.where(flipped, -1.0, 1.0)
        to_origin[:, 0, 2] = np.where(flipped, 2 * center[:, 0], 0.0)
        return Placement(matrix=compose(matrix, to_origin), flipped=flipped)

    def _half_body(
        self, center: F64, scale: F64, keypoints: NDArray[np.float32], upper_first: NDArray[np.bool_]
    ) -> tuple[F64, F64]:
        """Official ``half_body_transform``: the upper or the lower half of a person, padded by 1.5."""
        labelled = keypoints[..., 2] > 0
        groups = np.zeros((2, self.skeleton.num_joints), dtype=bool)  # upper, lower
        groups[0, list(self.skeleton.upper)] = True
        groups[1, list(self.skeleton.lower)] = True
        upper, lower = labelled & groups[0], labelled & groups[1]
        take_upper = (upper_first & (upper.sum(-1) > 2)) | (lower.sum(-1) <= 2)
        chosen = np.where(take_upper[:, None], upper, lower)
        count = chosen.sum(-1)
        use = (labelled.sum(-1) > self.config.half_body_min) & (count >= 2)

        xy = keypoints[..., :2].astype(np.float64)
        inside = chosen[..., None]
        mean = np.where(inside, xy, 0).sum(1) / np.maximum(count, 1)[:, None]
        extent = np.where(inside, xy, -np.inf).max(1) - np.where(inside, xy, np.inf).min(1)
        wide = np.maximum(extent[:, 0], extent[:, 1] * self.frame.aspect)
        # two joints at one place have no extent: a matrix of infinite zoom helps nobody
        use &= wide > 0
        half = np.stack([wide, wide / self.frame.aspect], -1) / 200 * 1.5
        return np.where(use[:, None], mean, center), np.where(use[:, None], half, scale)


def place_joints(keypoints: NDArray[np.float32], placement: Placement, *, skeleton: Skeleton) -> Joints:
    """Keypoints ``[n, K, 3]`` in photo px, raw v, to input px; in a mirrored image left stays the person's left."""
    order = np.where(placement.flipped[:, None], skeleton.mirrored, np.arange(skeleton.num_joints))
    swapped = np.take_along_axis(keypoints, order[..., None], axis=1)
    v = swapped[..., 2]
    labelled = v > 0
    xy = np.where(labelled[..., None], transform(placement.matrix, swapped[..., :2]), 0)
    return Joints(xy=xy.astype(np.float32), labelled=labelled, visible=labelled & (v >= skeleton.visible_at))
