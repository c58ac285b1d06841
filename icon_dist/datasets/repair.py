"""Columns of annotations that tools leave out or fill in their own way, where the people themselves say what is right.

Each function takes and returns arrays of all annotations of a file; what it changed is for the caller to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets.annotation_file import Faults
from icon_dist.errors import DataError, plural

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
MARGIN = 0.1  # of a box around joints, a part of their extent; COCO's boxes have .06 to .11 (median)
SMALL, LARGE = 0.001, 2  # parts of the box that cannot be the area of a person: a placeholder, another unit
PLACED = 0.1  # joints with coordinates and v = 0, to those that are labelled; COCO, CrowdPose and LSP have none
HOPELESS = 0.5  # a file with a larger share of its joints far outside is not mended


def extent(keypoints: F64) -> tuple[F64, F64]:
    """Lower and upper corner ``[n, 2]`` of the labelled joints of ``[n, K, 3]``; inf and -inf where there are none."""
    labelled = keypoints[..., 2:] > 0
    low = np.where(labelled, keypoints[..., :2], np.inf).min(axis=1)
    high = np.where(labelled, keypoints[..., :2], -np.inf).max(axis=1)
    return low, high


def far_outside(keypoints: F64, wh: F64) -> Mask:
    """Labelled joints ``[n, K]`` that lie further outside their image than its longer side: nobody clicked there.

    Of the joints of COCO, CrowdPose, LSP and MPII the furthest is out by .6 of that side. Without a size (0) none is.
    """
    beyond = np.maximum(-keypoints[..., :2], keypoints[..., :2] - wh[:, None]).max(axis=2)
    longer = wh.max(axis=1, keepdims=True)
    return np.asarray((keypoints[..., 2] > 0) & (longer > 0) & (beyond > longer))


def forget_blank_joints(points: object) -> int:
    """Make joints of one person without coordinates, null or NaN for both, (0, 0, 0); returns how many there were.

    ``points`` are x, y, v one after the other, or a list a joint. What is neither is left for checks.
    """
    if type(points) is not list or not _may_have_blanks(points):
        return 0
    blank = 0
    if all(type(point) is list and len(point) == 3 for point in points):
        return sum(forget_blank_joints(point) for point in points)
    for at in range(0, len(points) - 2, 3):
        if all(value is None or value != value for value in points[at : at + 2]):
            points[at : at + 3] = (0, 0, 0)
            blank += 1
    return blank


def _may_have_blanks(points: list[Any]) -> bool:
    """Whether there is a null, a NaN or a list among ``points``, in a hundredth of the time of looking at each."""
    try:
        return math.isnan(sum(points))
    except (TypeError, OverflowError):
        return True


def forget_negative(keypoints: F64, *, faults: Faults) -> NDArray[np.int64]:
    """Make joints of ``keypoints`` with v below 0 unlabelled, with a note: some write -1 for joints that a set has not.

    Returns the changed rows.
    """
    negative = keypoints[..., 2] < 0
    if negative.any():
        keypoints[negative] = 0
        faults.note(f"{plural(int(negative.sum()), 'joint')} with v below 0, read as not labelled")
    return np.flatnonzero(negative.any(axis=1))


def count_placed(keypoints: F64, *, faults: Faults) -> int:
    """How many joints have coordinates and v = 0; a note where these are many, as some write so what is hidden."""
    placed = int(((keypoints[..., 2] == 0) & (keypoints[..., :2] > 0).all(axis=2)).sum())
    if placed > PLACED * (keypoints[..., 2] > 0).sum():
        what = f"{plural(placed, 'joint')} with coordinates and v=0, read as not labelled"
        faults.note(f"{what}; if these are hidden ones, write v=1")
    return placed


def forget_far_joints(
    keypoints: F64, wh: F64, *, ids: Sequence[int] | NDArray[np.int64], joints: Sequence[str], faults: Faults
) -> NDArray[np.int64]:
    """Make such joints of ``keypoints`` unlabelled, with a note; DataError if most are. Returns the changed rows."""
    far = far_outside(keypoints, wh)
    rows = np.flatnonzero(far.any(axis=1))
    if len(rows):
        joint = int(np.argmax(far[rows[0]]))
        at = f"{joints[joint]} of {faults.entry(int(ids[rows[0]]))} at {keypoints[rows[0], joint, :2].tolist()}"
        labelled = int((keypoints[..., 2] > 0).sum())
        of = f"{far.sum()} of {plural(labelled, 'labelled joint')}"
        text = f"{of} further outside the image than it is large (the first: {at})"
        if far.sum() > HOPELESS * labelled:
            raise DataError(f"{faults.source} keypoints: {text}; these are no pixels of the images, correct the file")
        faults.note(f"{text}; taken as unlabelled")
        keypoints[far] = 0
    return rows


def require_pixels(keypoints: F64, boxes: F64, wh: F64, *, source: object) -> None:
    """DataError where joints or boxes of all people (with joints) are no pixel coordinates: every one within 0..1."""
    if not len(keypoints) or wh.max() <= 2:
        return
    fix = "multiply x by the width and y by the height of the image"
    for key, values in (("keypoints", keypoints[..., :2][keypoints[..., 2] > 0]), ("bbox", boxes)):
        if values.max() <= 1 and values.min() >= 0 and values.any():
            who = plural(len(keypoints), "person")
            raise DataError(f"{source} {key}: of {who} all coordinates lie within 0..1, expected pixels; {fix}")


def boxes_around_joints(keypoints: F64) -> F64:
    """Boxes ``[n, 4]`` (x, y, w, h) that hold the labelled joints with a margin; of no size around a single point."""
    low, high = extent(keypoints)
    margin = MARGIN * (high - low).max(axis=1, keepdims=True)
    return np.concatenate([low - margin, high - low + 2 * margin], axis=1)


def areas_of_boxes(areas: F64, boxes: F64, *, missing: Mask, people: Mask) -> tuple[F64, dict[str, int]]:
    """``areas``, with that of the box where it is missing, below 0, or cannot be that of one of the ``people``.

    Also how many had to go, by the reason. Areas of crowds and people without joints may be 0, as some of COCO's.
    """
    of_box = boxes[:, 2] * boxes[:, 3]
    stated = ~missing & np.isfinite(areas)
    reasons = {
        "missing": missing,
        "with 0 or less": stated & ((areas < 0) | people & (areas == 0)),
        "with less than a thousandth of it": stated & people & (areas > 0) & (areas < SMALL * of_box),
        "with more than twice of it": stated & people & (areas > LARGE * of_box),
    }
    replaced = np.logical_or.reduce(list(reasons.values()))
    return np.where(replaced, of_box, areas), {why: int(rows.sum()) for why, rows in reasons.items() if rows.any()}
