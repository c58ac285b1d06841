"""What goes wrong at each joint, and the AP that correcting it would gain (paper Fig. 6).

The taxonomy of Ronchi & Perona, ICCV 2017, with the rules of their public code (matteorr/coco-analyze): a pose is
matched to a person at OKS >= .1, best scores first; each of its joints is compared with the same joint of everybody in
the photo and with its left-right counterparts, and the most similar of them decides:

========= ==================================================
good      the person's own joint, similarity over .85
jitter    the person's own joint, .5 to .85
inversion the person's other side, .5 or more
swap      either side of another person, .5 or more
miss      nothing as similar as .5
========= ==================================================

A correction moves the wrong joints only, one kind at a time, without another NMS or other scores. Beside "the truth"
there is the public code's place, from which the published figures come: to the right of the true joint, as similar as
the mildest error of the kind (an inversion or swap keeps its own). That code takes sigma where the similarity has
2 sigma, so its places are more similar than it says: .5 becomes .84, .85 becomes .96. (On 9,586 perturbed poses of COCO
all matches and kinds are the same as there, and the gains to 1e-5: it keeps the area of a pose that it corrects.)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator

import numpy as np
from jaxtyping import Float, Int8, Int64
from numpy.typing import NDArray

from icon_dist.metrics import coco_fast
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.oks import oks, similarity
from icon_dist.types import Predictions, Skeleton

KINDS = ("good", "jitter", "inversion", "swap", "miss")
WRONG = KINDS[1:]
GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
UNLABELLED = -1
FINE, COARSE = 0.85, 0.5  # similarities between good, jitter and worse
MATCHED = 0.1  # least OKS of a match
MOST = 20  # poses of a photo, the best ones
SMALLEST = 32.0**2  # px^2; smaller people do not count
BLOCK = 1 << 18  # pairs of pose and person compared at once
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Errors:
    """One row a matched pose."""

    pose: Int64[np.ndarray, " n"]  # row of the predictions
    person: Int64[np.ndarray, " n"]  # row of the truth
    kind: Int8[np.ndarray, "n K"]  # number in KINDS; -1 where the true joint is not labelled
    own: Float[np.ndarray, "n K"]  # similarity to the person's own joint; 0 where not labelled
    best: Float[np.ndarray, "n K"]  # to the most similar joint

    def count(self) -> Int64[np.ndarray, "5 K"]:
        """Labelled joints by kind."""
        return np.stack([(self.kind == number).sum(axis=0) for number in range(len(KINDS))])


@dataclasses.dataclass(frozen=True)
class _People:
    """The ground truth photo by photo."""

    row: I64  # of the truth
    image_id: I64  # ascending
    joints: F64  # [n K 3]
    area: F64
    counts: NDArray[np.bool_]  # may be matched; the others may still be swapped with


def find(truth: GroundTruth, poses: Predictions, skeleton: Skeleton) -> Errors:
    """The errors of all matched poses, which are final: rescored, after NMS."""
    people = _people(truth)
    sigmas = np.array(skeleton.sigmas)
    pose, person = _match(people, poses, sigmas=sigmas)
    xy = poses.keypoints[..., :2].astype(np.float64)
    blocks = [
        _kinds(xy[pose[rows]], person[rows], people, sigmas=sigmas, mirror=skeleton.mirrored)
        for rows in _blocks(_neighbors(people, people.image_id[person])[1])
    ]
    kind, own, best = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return Errors(pose, people.row[person], kind, own, best)


def correct(
    truth: GroundTruth,
    poses: Predictions,
    errors: Errors,
    skeleton: Skeleton,
    *,
    kinds: Collection[str],
    to_truth: bool = False,
) -> Predictions:
    """``poses`` with the joints of those kinds moved to the true place, or to where the public code puts them."""
    people = truth.people(errors.person)
    joints = people.keypoints[..., :2]
    if not to_truth:
        reached = np.where(errors.kind == JITTER, FINE, np.where(errors.kind == MISS, COARSE, errors.best))
        reached = np.clip(reached, np.spacing(1), 1.0)
        joints[..., 0] += np.sqrt(-2 * np.log(reached) * people.area[:, None]) * np.array(skeleton.sigmas)
    moved = np.isin(errors.kind, [KINDS.index(kind) for kind in kinds])
    keypoints = poses.keypoints.astype(np.float64)
    keypoints[errors.pose, :, :2] = np.where(moved[..., None], joints, keypoints[errors.pose, :, :2])
    return dataclasses.replace(poses, keypoints=keypoints.astype(np.float32))


def gains(
    truth: GroundTruth, poses: Predictions, errors: Errors, skeleton: Skeleton, *, to_truth: bool = False
) -> dict[str, float]:
    """``AP`` of ``poses`` among people of at least 32^2 px, and what correcting each kind of error adds to it."""

    def ap(of: Predictions) -> float:
        return coco_fast.statistics(truth, of, sigmas=np.array(skeleton.sigmas), smallest=SMALLEST)[0]

    before = ap(poses)
    after = {k: ap(correct(truth, poses, errors, skeleton, kinds=[k], to_truth=to_truth)) for k in WRONG}
    return {"AP": before, **{kind: value - before for kind, value in after.items()}}


def worst(errors: Errors, kind: str, *, count: int) -> Int64[np.ndarray, " rows"]:
    """Rows of ``errors`` that suffer most from ``kind``: by the similarity to the truth that their joints lack."""
    wrong = errors.kind == KINDS.index(kind)
    lack = ((1 - errors.own) * wrong).sum(axis=1)
    order: I64 = np.argsort(-lack, kind="stable")[: min(count, int((lack > 0).sum()))]
    return order


def _people(truth: GroundTruth) -> _People:
    row = np.argsort(truth.image_id, kind="stable")
    people = truth.people(row)
    counted = (people.labelled > 0) & ~people.crowd & (people.area >= SMALLEST)
    counts = counted & (people.keypoints[..., 2] > 0).any(axis=1)
    return _People(row, people.image_id, people.keypoints, people.area, counts)


def _neighbors(people: _People, image_id: I64) -> tuple[I64, I64]:
    """Where the people of each photo start, and how many there are."""
    start = np.searchsorted(people.image_id, image_id)
    return start, np.searchsorted(people.image_id, image_id, side="right") - start


def _pairs(start: I64, count: I64) -> tuple[I64, I64]:
    """Every member of every group: ``group`` [pairs] and ``member`` [pairs], group by group."""
    group = np.repeat(np.arange(len(count)), count)
    member = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count) + start[group]
    return group, member


def _blocks(count: I64) -> Iterator[slice]:
    """Rows of at most BLOCK pairs together (or one row); at least one block, if only an empty one."""
    number = np.cumsum(count) // BLOCK
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(count)]
    yield from (slice(a, b) for a, b in itertools.pairwise(edges))


def _match(people: _People, poses: Predictions, *, sigmas: F64) -> tuple[I64, I64]:
    """Rows of poses and of the people they are matched to, as pycocotools does: the best score chooses first.

    All photos at once: first every photo's best pose takes its most similar person, then the second one, ...
    """
    order = np.lexsort((np.arange(len(poses.instance)), -poses.box_score.astype(np.float64), poses.image_id))
    image = poses.image_id[order]
    place = np.arange(len(order)) - np.searchsorted(image, image)  # 0: the best pose of its photo
    xy = poses.keypoints[..., :2].astype(np.float64)
    free = people.counts.copy()
    pose, person = [], []
    for turn in range(min(MOST, int(place.max(initial=-1)) + 1)):
        now = order[place == turn]
        start, count = _neighbors(people, poses.image_id[now])
        now, start, count = now[count > 0], start[count > 0], count[count > 0]
        for rows in _blocks(count):
            group, member = _pairs(start[rows], count[rows])
            if not len(group):
                continue
            joints = people.joints[member]
            value = oks(
                xy[now[rows]][group],
                joints[..., :2],
                area=people.area[member],
                sigmas=sigmas,
                labelled=joints[..., 2] > 0,
            )
            value = np.where(free[member], value, -1.0)
            most = np.maximum.reduceat(value, np.cumsum(count[rows]) - count[rows])
            taken = (value == most[group]) & (value >= MATCHED)
            last = np.full(len(most), -1)
            np.maximum.at(last, group[taken], member[taken])  # of equals, the last
            pose.append(now[rows][last >= 0])
            person.append(last[last >= 0])
            free[person[-1]] = False
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *pose]), np.concatenate([empty, *person])


def _kinds(
    xy: F64, person: I64, people: _People, *, sigmas: F64, mirror: list[int]
) -> tuple[NDArray[np.int8], F64, F64]:
    """Kind, own and greatest similarity of every joint of poses ``xy`` matched to ``person``."""
    start, count = _neighbors(people, people.image_id[person])
    group, member = _pairs(start, count)
    joints, area = people.joints[member], people.area[member]
    straight, inverted = (
        np.where(joints[:, order, 2] > 0, similarity(xy[group], joints[:, order, :2], area=area, sigmas=sigmas), -1.0)
        for order in (list(range(len(mirror))), mirror)
    )
    own_pair = np.flatnonzero(member == person[group])  # one pair a pose, in order
    own, other_side = straight[own_pair], inverted[own_pair]
    straight[own_pair] = inverted[own_pair] = -1.0
    first = own_pair - (person - start)
    neighbor, far_side = (np.maximum.reduceat(x, first) if len(own_pair) else own for x in (straight, inverted))
    best = np.max([own, neighbor, other_side, far_side], axis=0)
    # Of equals the first in this order, as in the public code: a joint on the midline has no inversion.
    kind = np.full(own.shape, SWAP, np.int8)
    kind[(other_side == best) & (neighbor < best)] = INVERSION
    kind[own == best] = JITTER
    kind[(own == best) & (own > FINE)] = GOOD
    kind[best < COARSE] = MISS
    kind[own < 0] = UNLABELLED
    return kind, np.maximum(own, 0.0), np.maximum(best, 0.0)
