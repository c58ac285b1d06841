"""The boxes of photos and videos out of a COCO file: a detector's results, or annotations.

The file may be about more photos than are predicted. Its images are matched with the photos by file name, or, as COCO
names its photos, by the number that is the name. Boxes of a video say of which ``frame`` they are, counted from 0;
they, or their images, as in the ``poses.json`` of a video.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.datasets.annotation_file import MAX_BYTES, Entry, are_numbers, is_id, mend_wholes, parse
from icon_dist.datasets.detections import other_form, others_left_out, unusual_boxes
from icon_dist.errors import DataError, note, plural, shown
from icon_dist.inference.estimator import box_fault
from icon_dist.inference.inputs import Source
from icon_dist.types import PERSON, Skeleton

NAMES = ("file_name", "image_name", "image", "image_id")  # where a result says of which image it is
FORM = "expected COCO results, a list of {image_id or file_name, bbox, score}, or COCO annotations"
SHAPELESS = "is not four finite numbers and a score"
MIN_SCORE = 0.3  # of a detector's boxes: those with a lower one are mostly nothing
Key = int | str  # what an image is called in the file
K = TypeVar("K")


@dataclass(frozen=True)
class FileBoxes:
    """The boxes of a file by photo, or by frame of a video."""

    of_place: dict[tuple[str, int | None], Float[np.ndarray, "n 5"]]  # x, y, width, height in px, score; or absent
    image_ids: dict[str, int]  # those of the file, by photo
    category: int = PERSON  # that of the file, where it is one and the file describes it


@dataclass(frozen=True)
class _Entry:
    """One box as it stands in the file; only its image and category are checked."""

    row: int
    image: Key
    box: Any
    score: Any
    category: int | None
    keypoints: Any
    frame: int | None  # of a video


@dataclass(frozen=True)
class _File:
    uri: str
    entries: list[_Entry]  # without crowds
    names: dict[Key, str]  # file names by image id, in annotations
    categories: list[Entry]


def read_boxes(uri: str, sources: Sequence[Source], skeleton: Skeleton, *, min_score: float | None = None) -> FileBoxes:
    """The boxes of the file at ``uri`` for the photos and videos in ``sources``.

    Boxes with a score below ``min_score`` are left out; without it, of boxes without keypoints those below .3.

    A DataError names the first bad entry and counts its like; notes tell of entries and photos that have no partner.
    """
    file = _read(uri)
    places = _partners({entry.image for entry in file.entries} | set(file.names), file.names, sources, uri)
    entries = _of_category(file, skeleton)
    _require_joints(file, entries, skeleton)
    entries = _of_score(file, entries, min_score)
    known = [(entry, places[entry.image]) for entry in entries if entry.image in places]
    boxes = _checked(known, {source.place: source.wh for source in sources}, uri)
    videos = {source.place for source in sources if source.video}
    by_place: dict[tuple[str, int | None], list[list[float]]] = defaultdict(list)
    for (entry, place), box in zip(known, boxes, strict=True):
        by_place[place, _frame_of(entry, place, uri) if place in videos else None].append(box)
    _note_unmatched(uri, len(entries) - len(known), sources, with_boxes={place for place, _ in by_place})
    ids = {place: key for key, place in places.items() if isinstance(key, int) and place not in videos}
    of_place = {place: np.array(found, np.float64) for place, found in by_place.items()}
    described = {one.get("id") for one in file.categories}
    kinds = {entry.category for entry in entries if entry.category is not None and entry.category in described}
    return FileBoxes(of_place, ids, kinds.pop() if len(kinds) == 1 else PERSON)


def _frame_of(entry: _Entry, place: str, uri: str) -> int:
    if entry.frame is None:
        name = PurePosixPath(place).name
        raise DataError(f"{uri}#{entry.row}: {name} is a video; give each of its boxes a frame, counted from 0")
    return entry.frame


def _read(uri: str) -> _File:
    try:
        content = parse(storage.read(uri, most=MAX_BYTES), source=uri)
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file; give the json of a detector, or annotations, to --boxes") from None
    names: dict[Key, str] = {}
    frames: dict[Key, Any] = {}
    categories: list[Entry] = []
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        images, described = content.get("images"), content.get("categories")
        mend_wholes(images, "id", "frame")
        mend_wholes(described, "id")
        if not isinstance(images, list) or not all(_is_image(image) for image in images):
            raise DataError(f"{uri} images: expected a list of {{id, file_name}}; give the whole COCO file")
        names = {image["id"]: image["file_name"] for image in images}
        frames = {image["id"]: image.get("frame") for image in images}
        categories = [one for one in described if isinstance(one, dict)] if isinstance(described, list) else []
        content = content["annotations"]
    if not isinstance(content, list):
        raise DataError(f"{uri}: {FORM}")
    mend_wholes(content, "image_id", "category_id", "frame")
    entries = [_entry(row, one, frames, uri) for row, one in enumerate(content) if not _is_crowd(one)]
    if not entries:
        raise DataError(f"{uri}: holds no box; {FORM}")
    if dangling := [entry for entry in entries if names and entry.image not in names]:
        raise DataError(f"{uri}#{dangling[0].row} image_id: none of its images has this id; give the whole COCO file")
    return _File(uri, entries, names, categories)


def _is_image(image: Any) -> bool:
    return isinstance(image, dict) and is_id(image.get("id")) and isinstance(image.get("file_name"), str)


def _is_crowd(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("iscrowd"))


def _entry(row: int, entry: Any, frames: Mapping[Key, Any], uri: str) -> _Entry:
    values = [entry.get(name) for name in NAMES] if isinstance(entry, dict) else []
    images: list[Key] = [value for value in values if value is not None and (is_id(value) or isinstance(value, str))]
    if not images or "bbox" not in entry:
        raise DataError(f"{uri}#{row} {shown(entry)}: is no box of an image; {FORM}")
    category = entry.get("category_id")
    if category is not None and not is_id(category):
        raise DataError(f"{uri}#{row} category_id={shown(category)}: expected an integer >= 0")
    frame = entry.get("frame", frames.get(images[0]))
    if frame is not None and not is_id(frame):
        raise DataError(f"{uri}#{row} frame={shown(frame)}: expected the number of a frame, counted from 0")
    return _Entry(row, images[0], entry["bbox"], entry.get("score", 1.0), category, entry.get("keypoints"), frame)


def _partners(keys: set[Any], names: dict[Any, str], sources: Sequence[Source], uri: str) -> dict[Any, str]:
    """The photo or video of every image of the file that has one.

    DataError where two images have the same photo, or none has one.
    """
    by_name: dict[str, list[Source]] = defaultdict(list)
    by_stem: dict[str, list[Source]] = defaultdict(list)
    by_number: dict[str, list[Source]] = defaultdict(list)
    for one in sources:
        stem = PurePosixPath(one.name).stem
        by_name[one.name].append(one)
        by_stem[stem].append(one)
        if (number := stem.rpartition("_")[2]).isdecimal():  # 000000000139, COCO_val2014_000000000139
            by_number[number.lstrip("0")].append(one)
    found: dict[str, list[Any]] = defaultdict(list)
    for key in sorted(keys, key=str):
        name = str(names.get(key, key)).replace("\\", "/")
        last = PurePosixPath(name).name
        several = by_name.get(last) or by_stem.get(last) or (last.isdecimal() and by_number.get(last.lstrip("0")))
        if several:
            found[_place(several, name, uri)].append(key)
    if not found:
        image = shown(next(iter(names.values()), sorted(keys, key=str)[0]))
        photos = plural(len(sources), "photo")
        text = f"is about none of the {photos}: it has {image}, not {sources[0].name}"
        raise DataError(f"{uri}: {text}; give the boxes of these photos")
    videos = {source.place for source in sources if source.video}
    return {
        key: place
        for place, several in found.items()
        for key in (several if place in videos else [_one_of(several, names, place, uri)])
    }


def _place(sources: Sequence[Source], name: str, uri: str) -> str:
    """Of several photos that an image of the file may be, the one with the longest end in common."""
    places = _alike({source.place: _common(source.place, name) for source in sources})
    if len(places) > 1:
        what = f"its image {shown(name)} may be {places[0]} or {places[1]}"
        raise DataError(f"{uri}: {what}; give a file_name that is that of one photo alone, or one of the photos")
    return places[0]


def _one_of(keys: list[Key], names: dict[Key, str], place: str, uri: str) -> Key:
    """Of several images of the file that are named like a photo, the one with the longest end in common."""
    same = _alike({key: _common(place, str(names.get(key, key))) for key in keys})
    if len(same) > 1:
        few = " and ".join(shown(names.get(key, key)) for key in same[:2])
        raise DataError(f"{uri}: two of its images, {few}, are named like {place}; give a file of one of them")
    return same[0]


def _common(place: str, name: str) -> int:
    """How many folders and names at their ends are the same."""
    own, other = PurePosixPath(place).parts, PurePosixPath(name.replace("\\", "/")).parts
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(own[::-1], other[::-1], strict=False))])


def _alike(common: dict[K, int]) -> list[K]:
    """Those with the most in common."""
    most = max(common.values())
    return [one for one, count in common.items() if count == most]


def _of_category(file: _File, skeleton: Skeleton) -> list[_Entry]:
    """The entries of the kind of thing that the model is about."""
    counts = Counter(entry.category for entry in file.entries)
    if len(counts) == 1:
        return file.entries
    fitting = [one.get("id") for one in file.categories if one.get("keypoints") == list(skeleton.joints)]
    named = [one.get("id") for one in file.categories if one.get("name") in (skeleton.name, "person")]
    wanted = fitting or named or [PERSON]
    kept = [entry for entry in file.entries if entry.category in wanted]
    if not kept:
        found = ", ".join(f"{category} ({count})" for category, count in counts.most_common(5))
        what = f"no box has category_id {wanted[0]}; the file's are {found}"
        raise DataError(f"{file.uri}: {what}; keep those of one category")
    note(f"{file.uri}: {others_left_out(counts, wanted)}")
    return kept


def _of_score(file: _File, entries: list[_Entry], min_score: float | None) -> list[_Entry]:
    """The entries whose score is high enough; what is no score is left for :func:`_checked`."""

    def is_low(entry: _Entry) -> bool:
        """Whether the box is left out; the score of a pose is not that of a box."""
        least = min_score if min_score is not None else 0 if entry.keypoints else MIN_SCORE
        return are_numbers([entry.score]) and entry.score < least

    kept = [entry for entry in entries if not is_low(entry)]
    least = MIN_SCORE if min_score is None else min_score
    if not kept:
        highest = max(entry.score for entry in entries)
        raise DataError(
            f"{file.uri}: no box has a score of {least:g} or more, the highest is {highest:.3g}; --min-score"
        )
    highest = max((entry.score for entry in kept if not entry.keypoints and are_numbers([entry.score])), default=0)
    if min_score is None and highest > 1:
        note(f"{file.uri}: scores go up to {highest:g}, not to 1, and boxes below {least:g} are left out; --min-score")
    if left := len(entries) - len(kept):
        note(f"{file.uri}: {plural(left, 'box')} with a score below {least:g} left out; --min-score takes others")
    return kept


def _require_joints(file: _File, entries: Sequence[_Entry], skeleton: Skeleton) -> None:
    """DataError for poses of other joints: the boxes are probably those of other things."""
    posed = [entry for entry in entries if isinstance(entry.keypoints, list) and entry.keypoints]
    fix = "give boxes of the same joints, or boxes without keypoints"
    for entry in posed:
        if len(entry.keypoints) not in (3 * skeleton.num_joints, skeleton.num_joints):
            joints = plural(len(entry.keypoints) // 3, "joint")
            what = f"{joints}, the model predicts {skeleton.num_joints} of {skeleton.name}"
            raise DataError(f"{file.uri}#{entry.row} keypoints: {what}; {fix}")
    used = {entry.category for entry in posed}
    for category in file.categories:
        theirs = category.get("keypoints") if is_id(category.get("id")) and category["id"] in used else None
        if isinstance(theirs, list) and theirs and theirs != list(skeleton.joints):
            other = next((n for n, own in zip(theirs, skeleton.joints, strict=False) if n != own), theirs[-1])
            raise DataError(f"{file.uri} categories: joint {shown(other)} is none of {skeleton.name} there; {fix}")


def _checked(known: Sequence[tuple[_Entry, str]], sizes: dict[str, tuple[int, int]], uri: str) -> list[list[float]]:
    """Boxes with scores; the first that is none is named, and its like are counted."""
    boxes: list[list[float]] = []
    faults: list[str] = []
    for entry, place in known:
        numbers = isinstance(entry.box, list) and len(entry.box) == 4 and are_numbers([*entry.box, entry.score])
        faults.append(box_fault(entry.box, wh=sizes[place]) if numbers else SHAPELESS)
        boxes.append([*map(float, entry.box), float(entry.score)] if numbers else [0, 0, 0, 0, 0])
    sized = [i for i, box in enumerate(boxes) if min(box[2:4]) > 0]
    form, which = _form([boxes[i] for i in sized], [sizes[known[i][1]] for i in sized])
    if form:
        first = sized[int(np.flatnonzero(which)[0])]
        what = f"{uri}#{known[first][0].row} bbox={shown(known[first][0].box)}: looks like {form}"
        raise DataError(f"{what}; expected x, y, width, height in px")
    if any(faults):
        first = next(i for i, fault in enumerate(faults) if fault)
        like = f" ({sum(map(bool, faults))} of {plural(len(known), 'box')})"
        what = f"{uri}#{known[first][0].row} bbox={shown(known[first][0].box)}: {faults[first]}"
        raise DataError(f"{what}; expected x, y, width > 0, height > 0 in px, and a score{like}")
    if known:
        of_image = {image: i for i, image in enumerate({(place, entry.frame) for entry, place in known})}
        images = [of_image[place, entry.frame] for entry, place in known]
        wh = np.array([sizes[place] for _, place in known], np.float64)
        for text in unusual_boxes(np.array(boxes)[:, :4], images, wh):
            note(f"{uri}: {text}")
    return boxes


def _form(boxes: list[list[float]], sizes: list[tuple[int, int]]) -> tuple[str, NDArray[np.bool_]]:
    if not boxes:
        return "", np.zeros(0, np.bool_)
    return other_form(np.array(boxes)[:, :4], np.array(sizes, np.float64))


def _note_unmatched(uri: str, left_out: int, sources: Sequence[Source], *, with_boxes: set[str]) -> None:
    if left_out:
        note(f"{uri}: {plural(left_out, 'box')} of other images left out")
    if without := len(sources) - len(with_boxes):
        kind = "file" if any(source.video for source in sources) else "photo"
        note(f"{uri}: no box for {without} of {plural(len(sources), kind)}; nobody is predicted there")
