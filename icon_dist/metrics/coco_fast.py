"""COCO keypoint AP in numpy, bit for bit what pycocotools says, more than ten times as fast.

The rule is ``pycocotools.cocoeval``'s. Poses are matched best first within an image, so images with the same number of
people are matched together: one step a rank, over all images, area ranges and OKS thresholds. Sums run over the same
numbers in the same order as there, which is why people are grouped by the number of their labelled joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import NDArray

from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.oks import at_distance
from icon_dist.types import Predictions

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_POSES = 20  # of an image
WRONG, PASSED_OVER, RIGHT = 0, 1, 2  # unmatched, matched with somebody who does not count, matched
EPS = np.spacing(1)


@dataclass(frozen=True)
class People:
    """The truth, sorted by image."""

    image: Int64[np.ndarray, " n"]  # position among the images
    keypoints: Float[np.ndarray, "n K 3"]
    box: Float[np.ndarray, "n 4"]
    area: Float[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]  # may be matched again and again
    ignored: Bool[np.ndarray, "n 3"]  # per area range: neither a match nor a miss of theirs counts


@dataclass(frozen=True)
class Poses:
    """The best :data:`MAX_POSES` of every image, sorted by image, best first."""

    image: Int64[np.ndarray, " m"]
    rank: Int64[np.ndarray, " m"]
    xy: Float[np.ndarray, "m K 2"]
    score: Float[np.ndarray, " m"]


def statistics(
    truth: GroundTruth, poses: Predictions, *, sigmas: NDArray[np.float64], smallest: float = 0.0
) -> list[float]:
    """pycocotools' ten statistics over the images of ``truth``; people smaller than ``smallest`` px^2 do not count."""
    areas = ((smallest, 1e10), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, medium, large; both bounds belong to each
    images = np.unique(truth.images)
    people, found = _people(truth, images, areas=areas), _poses(poses, images)
    outcome = _match(people, found, images=len(images), sigmas=sigmas)
    best_first = np.argsort(-found.score, kind="stable")
    outcome = outcome[..., best_first]
    size = np.ptp(found.xy[best_first], axis=1).prod(axis=1)
    precision, recall = -np.ones((3, 10, 101)), -np.ones((3, 10))
    for a, (low, high) in enumerate(areas):
        count = int(np.count_nonzero(~people.ignored[:, a]))
        if count:
            inside = (size >= low) & (size <= high)
            for t in range(len(THRESHOLDS)):
                precision[a, t], recall[a, t] = _curve(outcome[a, t], inside, count=count)
    tables = [p[a][at].ravel() for p in (precision, recall) for a, at in _QUESTIONS]
    return [float(np.mean(table)) for table in tables]


_ALL = slice(None)
_QUESTIONS = ((0, _ALL), (0, THRESHOLDS == 0.5), (0, THRESHOLDS == 0.75), (1, _ALL), (2, _ALL))


def _people(truth: GroundTruth, images: NDArray[np.int64], *, areas: Sequence[tuple[float, float]]) -> People:
    ordered = truth.people(np.argsort(truth.image_id, kind="stable"))
    area, uncounted = ordered.area, ordered.crowd | (ordered.labelled == 0)
    return People(
        image=np.searchsorted(images, ordered.image_id),
        keypoints=ordered.keypoints,
        box=ordered.box,
        area=area,
        crowd=ordered.crowd,
        ignored=np.stack([uncounted | (area < low) | (area > high) for low, high in areas], axis=1),
    )


def _poses(poses: Predictions, images: NDArray[np.int64]) -> Poses:
    rows = np.flatnonzero(np.isin(poses.image_id, images))
    rows = rows[np.lexsort((-poses.box_score[rows], poses.image_id[rows]))]  # stable: ties keep their order
    image = np.searchsorted(images, poses.image_id[rows])
    rank = np.arange(len(rows)) - np.searchsorted(image, image)
    kept = rank < MAX_POSES
    rows = rows[kept]
    xy = poses.keypoints[rows, :, :2].astype(np.float64)
    return Poses(image[kept], rank[kept], xy, poses.box_score[rows].astype(np.float64))


def _similarity(
    people: People,
    poses: Poses,
    person: Int64[np.ndarray, " pairs"],
    pose: Int64[np.ndarray, " pairs"],
    *,
    sigmas: NDArray[np.float64],
) -> Float[np.ndarray, " pairs"]:
    """OKS over the labelled joints; to somebody without any, by the distance of all joints to the doubled box."""
    labelled = people.keypoints[..., 2] > 0
    counts = labelled.sum(axis=1)
    labelled_first = np.argsort(~labelled, axis=1, kind="stable")
    low, size = people.box[:, None, :2], people.box[:, None, 2:]
    low, high = low - size, low + size * 2
    oks = np.empty(len(person))
    for count in np.unique(counts[person]):
        rows = np.flatnonzero(counts[person] == count)
        one, other = person[rows], pose[rows]
        if count:
            joints = labelled_first[one, :count]
            apart = poses.xy[other[:, None], joints] - people.keypoints[one[:, None], joints, :2]
        else:
            joints = np.arange(len(sigmas))[None]
            xy = poses.xy[other]
            apart = np.maximum(0, low[one] - xy) + np.maximum(0, xy - high[one])
        squared = apart[..., 0] ** 2 + apart[..., 1] ** 2
        similar = at_distance(squared, area=people.area[one], sigmas=sigmas[joints])
        oks[rows] = similar.sum(axis=1) / similar.shape[1]
    return oks


def _match(
    people: People, poses: Poses, *, images: int, sigmas: NDArray[np.float64]
) -> UInt8[np.ndarray, "areas thresholds m"]:
    """What becomes of each pose: it takes the most similar person still free, who counts if there is one."""
    true, found = np.bincount(people.image, minlength=images), np.bincount(poses.image, minlength=images)
    person_from, pose_from = np.cumsum(true) - true, np.cumsum(found) - found
    each = true[poses.image]  # pairs of a pose: the people of its image
    pair_from = np.cumsum(each) - each
    pose = np.repeat(np.arange(len(each)), each)
    person = person_from[poses.image[pose]] + np.arange(len(pose)) - pair_from[pose]
    oks = _similarity(people, poses, person, pose, sigmas=sigmas)
    outcome = np.full((people.ignored.shape[1], len(THRESHOLDS), len(each)), WRONG, dtype=np.uint8)
    for number in np.unique(each[each > 0]).tolist():
        some = np.flatnonzero((true == number) & (found > 0))  # images I
        members = person_from[some] + np.arange(number)[:, None]  # [number I]
        again = people.crowd[members][:, None, None]
        first_class = number * ~people.ignored[members].transpose(0, 2, 1)  # [number A I]
        free = np.ones((*first_class.shape[:2], len(THRESHOLDS), len(some)), dtype=bool)
        for rank in range(found[some].max()):
            here = found[some] > rank
            row = np.where(here, pose_from[some] + rank, pose_from[some])
            similar = np.where(here, oks[pair_from[row] + np.arange(number)[:, None]], -1)  # [number I]
            # a number from 1 for the order of preference: those who count come first, the later of equals wins
            place = 1 + np.argsort(np.argsort(similar, axis=0, kind="stable"), axis=0)
            wish = (place[:, None] + first_class).astype(np.uint16)[:, :, None]
            open_to = free & (similar[:, None] >= THRESHOLDS[:, None])[:, None]
            wished = np.where(open_to, wish, np.uint16(0))
            best = wished.max(axis=0)  # [A T I]
            free &= again | ~open_to | (wished != best)
            result = (best > 0).astype(np.uint8) + (best > number)
            outcome[..., row[here]] = result[..., here]
    return outcome


def _curve(
    outcome: UInt8[np.ndarray, " m"], inside: Bool[np.ndarray, " m"], *, count: int
) -> tuple[Float[np.ndarray, " 101"], float]:
    """Precision at :data:`RECALLS`, and the last recall, of poses in order. Only right ones raise a precision."""
    right = np.flatnonzero(outcome == RIGHT)
    wrong = np.cumsum((outcome == WRONG) & inside)[right]
    total = np.arange(1, len(right) + 1)
    precision = total / (wrong + total + EPS)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return envelope[np.searchsorted(total / count, RECALLS)], len(right) / count
