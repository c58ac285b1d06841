"""A person detector's boxes (COCO results json) as people without labels, judged by the photos that they lie in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.datasets.annotation_file import Entry, are_numbers, id_fault, is_id, is_vector, mend_wholes, parse
from icon_dist.errors import DataError, note, plural, raise_all, shown
from icon_dist.types import PERSON, Annotations, Instance, Truth

BEYOND = 0.05  # of a photo's side: further out reaches no box that was cut at the photo's edge
MANY = 0.1  # of the boxes: a habit of the file, not of single boxes
OVERLAP = 0.5  # intersection over union of a box with the person it is of

F64 = NDArray[np.float64]
Rule = tuple[Any, Callable[[int], str]]  # which boxes break it, and what to say of one


def detected(whole: Annotations, detections: str) -> Annotations:
    """The boxes of the file ``detections`` instead of the annotated people, on the same ground truth.

    The people are unlabelled; their id is the row in the file, from 0. Boxes of other categories than the set's are
    left out, as a detector of 80 classes has them. A DataError names the first bad box and counts its like; a note
    tells what is unusual.
    """
    photos = _photos(whole)
    file = _File(detections, category_ids(whole.truth), photos)
    rows, entries = file.boxes()
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64)
    scores = np.array([entry["score"] for entry in entries], dtype=np.float64)
    image_ids = [entry["image_id"] for entry in entries]
    sizes = np.array([photos[i].wh if i in photos else (0, 0) for i in image_ids], dtype=np.float64)
    file.require(rows, _rules(boxes, scores, image_ids, sizes))
    for text in _unusual(boxes, scores, image_ids, sizes, whole.truth):
        note(f"{detections}: {text}")
    found = []
    for row, image_id, box, score in zip(rows, image_ids, boxes.tolist(), scores.tolist(), strict=True):
        keypoints = np.zeros((whole.skeleton.num_joints, 3), np.float32)
        x, y, w, h = box
        photo = photos[image_id]
        found.append(Instance(row, image_id, photo.file, photo.wh, (x, y, w, h), w * h, keypoints, score))
    return Annotations(whole.skeleton, found, whole.truth)


def category_ids(truth: Truth) -> list[int]:
    """Ids of the set's own category of people; several that have the same joints are one."""
    return [category["id"] for category in truth.get("categories", ())] or [PERSON]


def others_left_out(counts: Mapping[int | None, int], wanted: Sequence[int | None]) -> str:
    """How many boxes are of other categories than those ``wanted``; and whether ids may be counted from 0."""
    left = plural(sum(count for category, count in counts.items() if category not in wanted), "box")
    zero = counts.get(0, 0) if 0 not in wanted else 0
    guess = f"; {zero} of them have category_id 0: if the ids count from 0, keep only the boxes of people"
    return f"{left} of other categories than {wanted[0]} left out{guess if zero else ''}"


class _Photo(NamedTuple):
    file: str
    wh: tuple[int, int]


def _photos(whole: Annotations) -> dict[int, _Photo]:
    photos = {p.image_id: _Photo(p.file, p.wh) for p in whole.instances}
    for image in whole.truth["images"]:
        if image["id"] not in photos and {"file_name", "width", "height"} <= image.keys():
            photos[image["id"]] = _Photo(image["file_name"], (int(image["width"]), int(image["height"])))
    return photos


class _File:
    """The entries of one file, and errors that count."""

    def __init__(self, source: str, categories: list[int], photos: dict[int, _Photo]) -> None:
        self._source, self._categories, self._photos = source, categories, photos
        self._entries = _entries(source)
        mend_wholes(self._entries, "image_id", "category_id")

    def boxes(self) -> tuple[list[int], list[Entry]]:
        """Rows and entries of the set's category, each with an image id, four numbers and a score."""
        count = range(len(self._entries))
        self._refuse([(i, what) for i in count if (what := self._nameless(self._entries[i]))], len(count))
        given = [entry.get("category_id", self._categories[0]) for entry in self._entries]
        rows = [i for i in count if given[i] in self._categories]
        if not rows:
            wanted = " or ".join(map(str, self._categories))
            found = ", ".join(f"{category} ({n})" for category, n in Counter(given).most_common(5))
            raise DataError(
                f"{self._source}: 0 of {plural(len(given), 'box')} have category_id {wanted}, which is that "
                f"of people in the set; the file's are {found}; write {wanted} in the file"
            )
        if 0 in given and 0 not in self._categories:
            note(f"{self._source}: {others_left_out(Counter(given), self._categories)}")
        self._refuse([(i, what) for i in rows if (what := _shapeless(self._entries[i]))], len(rows))
        return rows, [self._entries[i] for i in rows]

    def require(self, rows: list[int], rules: list[Rule]) -> None:
        """No box breaks any of them."""
        errors = []
        for broken, text in rules:
            if len(which := np.flatnonzero(broken).tolist()):
                errors.append(self._error([(rows[i], "") for i in which], text(which[0]), len(rows)))
        raise_all(errors)

    def _refuse(self, bad: list[tuple[int, str]], of: int) -> None:
        if bad:
            raise self._error(bad, bad[0][1], of)

    def _error(self, bad: list[tuple[int, str]], text: str, of: int) -> DataError:
        like = f" ({len(bad)} of {plural(of, 'box')})"
        return DataError(f"{self._source}#{bad[0][0]} {text}; correct the file{like}")

    def _nameless(self, entry: Any) -> str:
        """What keeps an entry from having a photo and a category, or nothing."""
        if type(entry) is not dict:
            return f"{shown(entry)}: expected an object with image_id, bbox [x, y, w, h] and score"
        if missing := [name for name in ("image_id", "bbox", "score") if name not in entry]:
            return f"{shown(entry)}: no {' and no '.join(missing)}; expected image_id, bbox [x, y, w, h] and score"
        image_id, category = entry["image_id"], entry.get("category_id", PERSON)
        if not is_id(image_id):
            return id_fault("image_id", image_id) + self._meant(image_id)
        return "" if is_id(category) else f"category_id={shown(category)}: expected an integer >= 0"

    def _meant(self, image_id: Any) -> str:
        """Whose id it could be that stands there as text."""
        if isinstance(image_id, str):
            for known, photo in self._photos.items():
                if image_id in (str(known), photo.file, photo.file.rpartition("/")[2], photo.file.rpartition(".")[0]):
                    return f", {known} for this photo"
        return ", the id that the photo has in the annotations"


def _entries(detections: str) -> list[Any]:
    try:
        raw = storage.read(detections)
    except FileNotFoundError:
        raise DataError(f"{detections}: no such file; give the json of a person detector to --boxes") from None
    entries = parse(raw, source=detections)
    expected = "expected a list of {image_id, category_id, bbox, score}"
    if isinstance(entries, dict) and isinstance(entries.get("annotations"), list):
        raise DataError(f"{detections}: annotations, not results; {expected}, each with the detector's score")
    if not isinstance(entries, list):
        raise DataError(f"{detections}: {expected}; correct the file")
    if not entries:
        raise DataError(f"{detections}: an empty list, {expected}; run the detector on these photos")
    return entries


def _shapeless(entry: Entry) -> str:
    """What is wrong with the numbers of a box by themselves, or nothing."""
    box, score = entry["bbox"], entry["score"]
    if is_vector(box, 4) and are_numbers([score]) and min(box[2:]) > 0:
        return ""
    hint = "expected four finite numbers x, y, width > 0, height > 0 and a finite score"
    return f"bbox={shown(box)} score={shown(score)}: not a box with a score, {hint}"


def _rules(boxes: F64, scores: F64, image_ids: list[int], sizes: F64) -> list[Rule]:
    unknown = sizes[:, 0] == 0
    form, which = other_form(boxes, np.where(sizes > 0, sizes, np.inf))
    outside = ((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(axis=1) & ~unknown & (not form)
    strange = f"{len(set(np.array(image_ids)[unknown].tolist()))} of {plural(len(set(image_ids)), 'photo')}"

    def where(i: int) -> str:
        return f"bbox={boxes[i].tolist()}: in a photo of {sizes[i, 0]:g}x{sizes[i, 1]:g} px"

    return [
        (
            unknown,
            lambda i: f"image_id={image_ids[i]}: not in the annotations ({strange}); give the boxes of the same split",
        ),
        (which, lambda i: f"{where(i)} it looks like {form}; expected x, y, width, height in px"),
        (outside, lambda i: f"{where(i)} it lies outside; expected x, y, width, height in px"),
        (scores < 0, lambda i: f"score={scores[i]:g}: expected 0 or more, which poses can be ranked by"),
    ]


def other_form(boxes: F64, sizes: F64) -> tuple[str, NDArray[np.bool_]]:
    """How the file seems to write boxes, if not as x, y, w, h in px; and the boxes that show it."""
    shares = (boxes.max(axis=1) <= 1.01) & (sizes.min(axis=1) > 8)
    if shares.mean() > 0.5:
        return "shares of width and height from 0 to 1", shares
    low, high = boxes[:, :2], boxes[:, 2:]
    beyond = _beyond(boxes, sizes)
    if beyond.mean() >= MANY:
        if ((low >= -1) & (high > low) & (high <= sizes + 1)).all():
            return "the corners x1, y1, x2, y2", beyond
        if ((low - high / 2 >= -1) & (low + high / 2 <= sizes + 1)).all():
            return "center x, center y, width, height", beyond
    return "", np.zeros(len(boxes), dtype=bool)


def _beyond(boxes: F64, sizes: F64) -> NDArray[np.bool_]:
    return np.asarray((boxes[:, :2] + boxes[:, 2:] > sizes * (1 + BEYOND) + 1).any(axis=1))


def _unusual(boxes: F64, scores: F64, image_ids: list[int], sizes: F64, truth: Truth) -> Iterator[str]:
    """What is no error, and may still be a mistake."""
    yield from unusual_boxes(boxes, image_ids, sizes)
    if scores.max() > 1:
        yield f"scores go up to {scores.max():g}, not to 1; only their order counts"
    if not scores.any():
        yield f"all {plural(len(boxes), 'box')} have score 0: poses cannot be ranked by it"
    yield from _misses(boxes, np.array(image_ids, dtype=np.int64), truth)


def unusual_boxes(boxes: F64, images: Sequence[int], sizes: F64) -> Iterator[str]:
    """The same of boxes ``[n, 4]`` in the photos ``images [n]`` of ``sizes [n, 2]`` px, whoever is in them."""
    count = plural(len(boxes), "box")
    beyond = _beyond(boxes, sizes)
    if beyond.mean() >= MANY:
        yield f"{beyond.sum()} of {count} reach far beyond the photo; expected x, y, width, height in px"
    if len(boxes) >= 5 and boxes.max() <= 100 and sizes.min() >= 200:
        yield f"all {count} lie in the upper left 100x100 px; if they are in percent, write px"
    places = np.column_stack([np.array(images, dtype=np.float64), boxes])
    if (twice := len(places) - len(np.unique(places, axis=0))) >= MANY * len(places):
        yield f"{twice} of {count} are given twice"


def _misses(boxes: F64, image_ids: NDArray[np.int64], truth: Truth) -> Iterator[str]:
    """Whether the boxes are where the people of the ground truth are."""
    people = [a for a in truth["annotations"] if a.get("num_keypoints") and not a["iscrowd"] and "bbox" in a]
    if not people:
        return
    photos = {a["image_id"] for a in people}
    if len(without := photos - set(image_ids.tolist())) > len(photos) / 2:
        yield f"no box in {len(without)} of {plural(len(photos), 'photo')} that have people; nobody is found there"
    order = np.argsort(image_ids, kind="stable")
    first, last = (
        np.searchsorted(image_ids[order], [a["image_id"] for a in people], side=side) for side in ("left", "right")
    )
    found = sum(
        bool(j > i and _overlaps(boxes[order[i:j]], np.array(a["bbox"], dtype=np.float64)).max() >= OVERLAP)
        for i, j, a in zip(first.tolist(), last.tolist(), people, strict=True)
    )
    if found < len(people) / 2:
        total = plural(len(people), "person of the ground truth has", "people of the ground truth have")
        yield f"only {found} of {total} a box around them; are these boxes of the same photos, in px?"


def _overlaps(boxes: F64, other: F64) -> F64:
    """Intersection over union of each box with another one."""
    low = np.maximum(boxes[:, :2], other[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], other[:2] + other[2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    both: F64 = common / np.maximum(boxes[:, 2:].prod(axis=1) + other[2:].prod() - common, 1e-9)
    return both
