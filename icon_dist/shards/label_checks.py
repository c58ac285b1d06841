"""What labels say about themselves, for ``shards build`` and ``verify``: findings are certainly wrong, notes unusual.

Most mistakes of tools are another reading of the same numbers: corners for sizes, percent for pixels, y before x. A box
that is read as it was meant ends near the outermost joints (on COCO, CrowdPose and LSP the furthest side is away by
.2 of their extent, median), and no other reading of right files comes half as near for more than 1 % of the people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from icon_dist.codec.affine import PADDING
from icon_dist.datasets.repair import extent, far_outside
from icon_dist.errors import plural
from icon_dist.types import Skeleton, Truth

SHARE = 0.1  # of people with the same mistake that make a finding; right files have .002 to .01
FEWEST = 3  # such people
FITS = 0.6  # of the joints' extent: no side of a box is further away for 9 of 10 people
JUDGED = 3  # labelled joints of a person whose box or twin is judged
ORIGIN = 0.01  # largest share of joints at (0, 0)
BEYOND = 0.05  # a box is beyond its image by more than this part of its size
PERCENT = 100.0
YOLO = "boxes of a YOLO file"
ENOUGH, REACH = 10, 2 / 3  # a quarter of COCO's people end within two thirds of their image, ten of ten hardly
ROOMY = 200.0  # px; all labels within the first hundred of such images are suspicious

Corners = Float[np.ndarray, "n 4"]  # x1, y1, x2, y2
People = Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Labels:
    """The people of a set who have labelled joints, without crowds."""

    ids: Int64[np.ndarray, " n"]
    files: list[str]
    wh: Float[np.ndarray, "n 2"]  # of the photo; 0 where it is not known
    boxes: Float[np.ndarray, "n 4"]  # x, y, w, h as the file says
    keypoints: Float[np.ndarray, "n K 3"]  # raw v
    labelled: Bool[np.ndarray, "n K"]

    def some(self, rows: People) -> str:
        """``3 of 12 people (id 17 the first)``."""
        of = f"{rows.sum()} of {plural(len(rows), 'person')}"
        return f"{of} (id {self.ids[rows.argmax()]} the first)"


def check(truth: Truth, skeleton: Skeleton) -> tuple[list[str], list[str]]:
    """Findings and notes about a ground truth, a line each."""
    people = _labels(truth, skeleton)
    if not len(people.ids):
        return [], []
    kinds = (_misread, _corners, _off_their_boxes)  # the first that finds something explains the next
    first = next((found for kind in kinds if (found := list(kind(people)))), [])
    others = (
        _within_percent(people),
        _far_joints(people, skeleton),
        _at_origin(people),
        _twins(people),
        _shared_boxes(people),
    )
    notes = [*_notes(truth, people, skeleton), *(() if first else _scaled(people))]
    return [*first, *(line for found in others for line in found)], notes


def packed(people: int, truth: Truth) -> str:
    """How many of a ground truth are packed, and why the others are not.

    >>> packed(1, {"annotations": [{"iscrowd": 0, "keypoints": [3, 4, 2]}, {"iscrowd": 0, "keypoints": [0, 0, 0]}]})
    '1 of 2 people (1 without joints)'
    """
    others = [a for a in truth["annotations"] if a["iscrowd"] or not any(a["keypoints"][2::3])]
    crowds = sum(a["iscrowd"] for a in others)
    if not others:
        return plural(people, "person")
    why = [f"{len(others) - crowds} without joints"] if len(others) > crowds else []
    why += [plural(crowds, "crowd")] if crowds else []
    return f"{people} of {plural(people + len(others), 'person')} ({', '.join(why)})"


def _labels(truth: Truth, skeleton: Skeleton) -> Labels:
    photos = {image["id"]: image for image in truth["images"]}
    people = [a for a in truth["annotations"] if not a["iscrowd"] and any(a["keypoints"][2::3])]
    images = [photos[a["image_id"]] for a in people]
    keypoints = np.array([a["keypoints"] for a in people], np.float64).reshape(-1, skeleton.num_joints, 3)
    return Labels(
        ids=np.array([a["id"] for a in people], np.int64),
        files=[image["file_name"] for image in images],
        wh=np.array([(image["width"], image["height"]) for image in images], np.float64).reshape(-1, 2),
        boxes=np.array([a["bbox"] for a in people], np.float64).reshape(-1, 4),
        keypoints=keypoints,
        labelled=keypoints[..., 2] > 0,
    )


def _notes(truth: Truth, people: Labels, skeleton: Skeleton) -> Iterator[str]:
    if people.keypoints[..., 2].max() < skeleton.visible_at:
        why = f"no joint has v={skeleton.visible_at}, so none counts as visible for contrast"
        yield f"{why}; train with loss.counted=labelled"
    a, b = skeleton.torso
    if skeleton.metric == "pck" and not (people.labelled[:, a] & people.labelled[:, b]).any():
        names = f"{skeleton.joints[a]} and {skeleton.joints[b]}"
        yield f"nobody has both {names}, which PCK measures by; name other joints as torso in the skeleton"
    listed = Counter(image["file_name"] for image in truth["images"])
    if twice := [name for name, times in listed.items() if times > 1]:
        yield f"{plural(len(twice), 'photo')} under several image ids ({twice[0]} the first); give each one id"


def _scaled(people: Labels) -> Iterator[str]:
    """Labels that were made on copies of another size. On COCO, CrowdPose and LSP one of 25 thousand people is out."""
    known = people.wh[:, 0] > 0
    low, high = extent(people.keypoints)
    out = (np.maximum(-low, high - people.wh) / np.maximum(people.wh, 1)).max(axis=1)
    if _is_habit(outside := known & (out > BEYOND)):
        yield f"joints of {people.some(outside)} lie outside their image; were the labels made on larger copies?"
    ends = np.maximum(_ends(people)[:, 2:], high)
    reach = (ends / np.maximum(people.wh, 1)).max()
    if known.all() and len(known) >= ENOUGH and reach < REACH and ends.max() > PERCENT + 1:
        who = plural(len(known), "person")
        yield f"nothing of {who} lies beyond {reach:.0%} of the image's sides; were the labels made on smaller copies?"


def _readings(boxes: Corners, wh: Float[np.ndarray, "n 2"], hull: Corners) -> Iterator[tuple[str, Corners, Corners]]:
    """What boxes (x, y, w, h) and the joints' hull would be if the file meant something else, as corners."""
    (xy, size), wh4 = np.split(boxes, 2, axis=1), np.tile(wh, 2)
    own = np.concatenate([xy, xy + size], axis=1)
    turned = [1, 0, 3, 2]  # y before x
    yield "boxes look like x1, y1, x2, y2", boxes, hull
    yield "boxes look like center x, center y, w, h", np.concatenate([xy - size / 2, xy + size / 2], axis=1), hull
    yield "boxes or joints look like y before x", own[:, turned], hull
    yield "boxes look like y1, x1, y2, x2", boxes[:, turned], hull
    yield "boxes look like percent of the image", own * wh4 / PERCENT, hull
    yield "boxes look like parts of the image, 0..1", own * wh4, hull
    yield "joints look like percent of the image", own, hull * wh4 / PERCENT
    yield "joints look like parts of the image, 0..1", own, hull * wh4
    yield "joints look like offsets from the corner of their box", own, hull + np.tile(xy, 2)
    center = xy + size / 2  # what stood in the file
    yield f"{YOLO} look like x1, y1, x2, y2", np.concatenate([center, size], axis=1), hull
    yield f"{YOLO} look like left, top, width, height", np.concatenate([center, center + size], axis=1), hull


def _distance(corners: Corners, hull: Corners) -> Float[np.ndarray, " n"]:
    """How far the sides of boxes are from the outermost joints, the furthest, in parts of the joints' extent."""
    longer = (hull[:, 2:] - hull[:, :2]).max(axis=1)
    return np.asarray(np.abs(corners - hull).max(axis=1) / np.maximum(longer, 1e-9))


def _misread(people: Labels) -> Iterator[str]:
    """The reading, if any, in which many boxes fit their joints far better than in the file's own."""
    hull = np.concatenate(extent(people.keypoints), axis=1)
    names, boxes, hulls = zip(*_readings(people.boxes, people.wh, hull), strict=True)
    nearest = np.stack([_distance(b, h) for b, h in zip(boxes, hulls, strict=True)])
    judged = people.labelled.sum(axis=1) >= JUDGED
    as_written = _distance(_ends(people), hull)
    better = judged & (nearest.min(axis=0) < np.minimum(as_written / 2, FITS))
    if _is_habit(better) and better.sum() >= (judged & (as_written > FITS)).sum() / 2:  # else nothing explains them
        chosen = Counter(nearest.argmin(axis=0)[better].tolist()).most_common(1)[0][0]
        fit = f"{names[chosen]}: read so they fit for {people.some(better)}"
        beyond = f"; {_beyond(people).sum()} boxes reach beyond the image" if _beyond(people).any() else ""
        form = "boxes as center x, center y, width, height" if YOLO in fit else "pixels, boxes as x, y, w, h"
        yield f"{fit}{beyond}; expected {form}"


def _corners(people: Labels) -> Iterator[str]:
    """The same of people with too few joints to judge by: the image alone tells."""
    x1, y1, x2, y2 = people.boxes.T
    width, height = people.wh.T
    beyond = _beyond(people)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 > x1) & (y2 > y1) & (x2 <= width) & (y2 <= height)
    if _is_habit(beyond) and inside.all():
        said = f"boxes of {people.some(beyond)} reach beyond the image, as x1, y1, x2, y2 none would"
        yield f"{said}; expected pixels, boxes as x, y, w, h"


def _off_their_boxes(people: Labels) -> Iterator[str]:
    center, size = people.boxes[:, None, :2] + people.boxes[:, None, 2:] / 2, people.boxes[:, None, 2:] * PADDING
    inside = (np.abs(people.keypoints[..., :2] - center) <= size / 2).all(axis=2) & people.labelled
    off = inside.sum(axis=1) < people.labelled.sum(axis=1) / 2
    if _is_habit(off):
        yield f"most joints of {people.some(off)} lie outside their own padded box; boxes and joints do not match"


def _within_percent(people: Labels) -> Iterator[str]:
    """Boxes and joints in percent agree with each other."""
    most = max(people.keypoints[people.labelled][:, :2].max(), _ends(people).max())
    if len(people.ids) >= FEWEST and most < PERCENT + 1 and np.median(people.wh.min(axis=1)) >= ROOMY:
        who = plural(len(people.ids), "person")
        yield f"joints and boxes of all {who} end within {PERCENT:g} px: percent of the image? expected pixels"


def _far_joints(people: Labels, skeleton: Skeleton) -> Iterator[str]:
    far = far_outside(people.keypoints, people.wh)
    if far.any():
        row, joint = np.argwhere(far)[0].tolist()
        at = f"{skeleton.joints[joint]} of id {people.ids[row]} at {people.keypoints[row, joint, :2].tolist()}"
        yield f"{plural(int(far.sum()), 'joint')} further outside the image than it is large (the first: {at})"


def _at_origin(people: Labels) -> Iterator[str]:
    """Tools without a v write joints that nobody labelled there."""
    zero = (people.keypoints[..., :2] <= 0).all(axis=2) & people.labelled
    labelled = int(people.labelled.sum())
    if zero.sum() >= FEWEST and zero.sum() > ORIGIN * labelled:
        of = f"{zero.sum()} of {plural(labelled, 'labelled joint')}"
        yield f"{of} at (0, 0) or beyond that corner; joints that nobody labelled need v=0"


def _twins(people: Labels) -> Iterator[str]:
    """The same joints twice in a photo, to a tenth of a pixel. Two can be chance: CrowdPose val has one such pair."""
    joints = np.where(people.labelled[..., None], np.round(10 * people.keypoints[..., :2]), -1).astype(np.int64)
    enough = people.labelled.sum(axis=1) >= min(JUDGED, joints.shape[1])
    seen: dict[tuple[str, bytes], int] = {}
    pairs = []
    for row in np.flatnonzero(enough).tolist():
        first = seen.setdefault((people.files[row], joints[row].tobytes()), row)
        if first != row:
            pairs.append((first, row))
    if pairs:
        of = plural(len(pairs), "person is in the set twice", "people are in the set twice")
        ids = " and ".join(str(people.ids[row]) for row in pairs[0])
        yield f"{of}, with equal joints in the same photo (ids {ids} the first); remove one of each"


def _shared_boxes(people: Labels) -> Iterator[str]:
    """Several people of a photo with one box: all of it, or a copy. Of 160 thousand people of real sets nobody has."""
    of_box: dict[tuple[str, bytes], list[int]] = {}
    for row, box in enumerate(np.round(10 * people.boxes)):
        of_box.setdefault((people.files[row], box.tobytes()), []).append(row)
    shared = np.zeros(len(people.ids), np.bool_)
    for rows in of_box.values():
        shared[rows] = len({people.keypoints[row].tobytes() for row in rows}) > 1
    if _is_habit(shared):
        yield f"{people.some(shared)} have the same box as somebody else in their photo; give everybody their own"


def _is_habit(rows: People) -> bool:
    """Whether so many people have a mistake that it is one of the file."""
    return bool(rows.sum() >= min(FEWEST, len(rows)) and rows.mean() > SHARE)


def _ends(people: Labels) -> Corners:
    return np.concatenate([people.boxes[:, :2], people.boxes[:, :2] + people.boxes[:, 2:]], axis=1)


def _beyond(people: Labels) -> People:
    """Boxes that reach beyond their image by a good part of its size."""
    (low, high), known = np.split(_ends(people), 2, axis=1), people.wh[:, 0] > 0
    out = np.maximum(-low, high - people.wh) / np.maximum(people.wh, 1)
    return np.asarray(known & (out.max(axis=1) > BEYOND))
