"""COCO-format person keypoints -> :class:`Annotations`, every entry checked.

Types and lengths are checked entry by entry, values as columns: 150k people take about two seconds. What tools leave
out or fill in their own way is put right where the people themselves say what is right (``repair.py``), with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets import repair
from icon_dist.datasets.annotation_file import (
    LARGEST,
    NUMBER,
    Entry,
    Faults,
    collector_off,
    id_fault,
    is_id,
    missing_files,
)
from icon_dist.datasets.coco_document import categories_of, check_sections, images_of, mend_values
from icon_dist.errors import plural, shown
from icon_dist.images.photo import Exif
from icon_dist.types import Annotations, Instance, Skeleton, Truth, TruthImage, TruthPerson

F64 = NDArray[np.float64]
Rule = tuple[Any, Callable[[int], str]]  # which entries break it, and what to say of one
FIELDS = ("id", "image_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints")


def clean_boxes(boxes: F64, wh: F64) -> F64:
    """Boxes ``[n, 4]`` (x, y, w, h px) inside photos of size ``wh [n, 2]``.

    HRNet's loader gives the same of every box that begins in its photo. One that begins left of or above it, which
    COCO has none of, is moved there; here the part in the photo remains.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(wh - 1, boxes[:, :2] + np.maximum(boxes[:, 2:] - 1, 0))
    return np.concatenate([low, high - low], axis=1)


@collector_off()
def people_of(
    document: Any,
    faults: Faults,
    *,
    skeleton: Skeleton,
    images: str | Path | None,
    counted_joints: int | None = None,
    box_area: float | None = None,
    image_field: str | None = None,
    exif: Exif | None = None,
) -> Annotations:
    """The people of a COCO-format ``document``, a file's or what a reader of another format makes; it is changed.

    ``faults`` take what is wrong with it; the DataError of the first names ``faults.source``. ``counted_joints``:
    ``num_keypoints`` counts the first so many joints (all). ``box_area``: the file has no ``area``, it is this share of
    the box. ``image_field``: a number of every image to keep in the truth. ``exif="apply"``: sizes that are read from
    photos are those of the upright picture.
    """
    check_sections(document, source=faults.source)
    mend_values(document, faults)
    people, others = categories_of(document, skeleton, faults)
    photos = images_of(document["images"], faults, image_field=image_field, images=images, exif=exif or "ignore")
    entries = _well_formed(document["annotations"], faults, joints=skeleton.num_joints, others=others)

    ids, image_ids, categories, crowd = (
        np.array([e[k] for e in entries], dtype=np.int64) for k in ("id", "image_id", "category_id", "iscrowd")
    )
    keypoints = _floats(chain.from_iterable(e["keypoints"] for e in entries)).reshape(-1, skeleton.num_joints, 3)
    boxes = _floats(chain.from_iterable(e["bbox"] for e in entries)).reshape(-1, 4)
    size_of = {i: (photo["width"], photo["height"]) for i, photo in photos.items()}
    sizes = np.array([size_of.get(i, (0, 0)) for i in image_ids.tolist()], dtype=np.float64).reshape(-1, 2)
    keypoints_in_use = _mended_joints(
        entries, keypoints, sizes, ids=ids, skeleton=skeleton, counted=counted_joints, faults=faults
    )
    wild_points, wild_boxes = _wild(keypoints), _wild(boxes)
    boxes_in_use = np.where(wild_boxes[:, None], 0, boxes)
    labelled = keypoints_in_use[..., 2] > 0
    wanted = labelled.any(axis=1) & (crowd == 0)
    placed = repair.count_placed(keypoints_in_use, faults=faults)
    _box_joints(entries, boxes_in_use, keypoints_in_use, wanted & ~wild_boxes, faults=faults)
    known = wanted & ~wild_boxes & ~wild_points
    repair.require_pixels(keypoints_in_use[known], boxes_in_use[known], sizes[known], source=faults.source)
    cleaned = clean_boxes(boxes_in_use, sizes)
    boxed = (cleaned[:, 2:] > 0).all(axis=1)
    areas = _areas(entries, boxes_in_use, wanted & boxed, share=box_area, faults=faults)
    names = [photos[i]["file_name"] if i in photos else "" for i in image_ids.tolist()]
    absent = missing_files({n for n, w in zip(names, wanted, strict=True) if w and n}, images) if images else set()

    first = np.zeros(len(entries), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    categories_text = f"the only category is {min(people)}" if len(people) == 1 else f"categories are {sorted(people)}"
    rules: list[Rule] = [
        (~first, lambda i: f"id={ids[i]}: given twice"),
        (sizes[:, 0] == 0, lambda i: f"image_id={image_ids[i]}: no such image in this file"),
        (~np.isin(categories, list(people)), lambda i: f"category_id={categories[i]}: {categories_text}"),
        (wild_points, lambda i: _not_finite(keypoints[i], skeleton)),
        (~np.isin(keypoints[..., 2], (0, 1, 2)).all(axis=1), lambda i: _visibility(keypoints[i, :, 2], skeleton)),
        (wild_boxes | (boxes[:, 2:] < 0).any(axis=1), lambda i: _bad_box(boxes[i])),
        (~np.isfinite(areas), lambda i: f"area={areas[i]}: expected a finite number"),
        ((crowd != 0) & (crowd != 1), lambda i: f"iscrowd={crowd[i]}: expected 0 or 1"),
        (wanted & ~boxed, lambda i: _outside(boxes_in_use[i], sizes[i])),
        (wanted & np.array([n in absent for n in names], dtype=bool), lambda i: f"image {names[i]!r}: not in {images}"),
    ]
    bad = _broken(rules, ids, faults)

    rows = np.flatnonzero(wanted & ~bad)
    rows = rows[np.argsort(ids[rows])]
    if not len(rows):
        crowds = int((crowd == 1).sum())
        unlabelled = int((~labelled.any(axis=1) & (crowd == 0)).sum())
        raise faults.nobody(people=len(document["annotations"]), crowds=crowds, unlabelled=unlabelled, placed=placed)
    faults.warn()
    points = keypoints_in_use.astype(np.float32)
    columns = (column[rows].tolist() for column in (ids, image_ids, sizes.astype(int), cleaned, areas))
    instances = [
        Instance(id=i, image_id=m, file=names[r], wh=(w, h), box=(x, y, bw, bh), area=a, keypoints=points[r])
        for r, i, m, (w, h), (x, y, bw, bh), a in zip(rows.tolist(), *columns, strict=True)
    ]
    kept = [entries[r] for r in np.flatnonzero(~bad).tolist()]
    return Annotations(skeleton, instances, _truth(photos, kept, people, notes=faults.notes))


def _broken(rules: Sequence[Rule], ids: NDArray[np.int64], faults: Faults) -> NDArray[np.bool_]:
    """The entries that break a rule, ``faults`` told of the first one that each breaks."""
    bad = np.zeros(len(ids), dtype=bool)
    for failed, text in rules:
        for i in np.flatnonzero(failed & ~bad).tolist():
            faults.add(f"{faults.entry(int(ids[i]))} {text(i)}")
        bad |= failed
    return bad


def _truth(photos: dict[int, TruthImage], entries: list[Entry], people: dict[int, str], *, notes: list[str]) -> Truth:
    """What scores are computed from; a category other than 1 is kept by its name."""
    kept = [{k: entry[k] for k in FIELDS} | {"category_id": 1} for entry in entries]
    truth = Truth(images=list(photos.values()), annotations=cast(list[TruthPerson], kept))
    if set(people) != {1}:
        truth["categories"] = [{"id": i, "name": name} for i, name in sorted(people.items())]
    if notes:
        truth["notes"] = notes
    return truth


def _well_formed(entries: list[Any], faults: Faults, *, joints: int, others: set[int]) -> list[Entry]:
    """The annotations whose fields have the right types and lengths, without those of ``others`` (categories).

    Those without keypoints get some that are not labelled, those without a box one of no size; without both an
    annotation is right only where no other has a box, as a tool of keypoints writes those who are not seen.
    """
    kept = []
    boxless = not any(entry.get("bbox") for entry in entries if type(entry) is dict)
    for number, entry in enumerate(entries):
        fault = _form_fault(entry, joints=joints, others=others, boxless=boxless)
        if fault is not None:
            known = type(entry) is dict and is_id(entry.get("id"))
            faults.add(f"{faults.entry(entry['id']) if known else f'ann number {number}'} {fault}")
        elif entry["category_id"] not in others:
            kept.append(entry)
    return kept


def _form_fault(entry: Any, *, joints: int, others: set[int], boxless: bool) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    for key in ("id", "image_id", "category_id"):
        if not is_id(entry.get(key)):
            return id_fault(key, entry.get(key))
    if entry["category_id"] in others:
        return None
    crowd = entry.setdefault("iscrowd", 0)
    if type(crowd) is not bool and not is_id(crowd):
        return f"iscrowd={shown(crowd)}: expected 0 or 1"
    entry["iscrowd"] = int(crowd)
    if entry.get("area") is not None and type(entry["area"]) not in NUMBER:
        return f"area={shown(entry['area'])}: expected a number"
    points = entry.get("keypoints")
    if points is None or points == []:
        points = [0] * (3 * joints)
    elif type(points) is list and len(points) == joints and all(type(p) is list and len(p) == 3 for p in points):
        points = list(chain.from_iterable(points))
    box = entry.get("bbox")
    labelled = type(points) is list and any(v in (1, 2) for v in points[2::3])
    if (box is None or box == []) and (labelled or boxless):
        box = [0, 0, 0, 0]
    entry["keypoints"], entry["bbox"] = points, box
    for key, length, form in (("bbox", 4, "[x,y,w,h]"), ("keypoints", 3 * joints, f"{joints} x [x,y,v]")):
        values = entry[key]
        if type(values) is not list:
            return f"{key}={shown(values)}: expected a list of {length} numbers ({form})"
        if len(values) != length:
            pairs = key == "keypoints" and (
                len(values) == 2 * joints or all(type(v) is list and len(v) == 2 for v in values)
            )
            hint = "; without v? write 2 behind joints that are labelled, else 0" if pairs else ""
            return f"{key}: {len(values)} values, expected {length} ({form}){hint}"
        if not NUMBER.issuperset(map(type, values)):
            wrong = next(v for v in values if type(v) not in NUMBER)
            return f"{key}: {shown(wrong)} is not a number, expected {length} numbers ({form})"
    return None


def _mended_joints(
    entries: list[Entry],
    keypoints: F64,
    sizes: F64,
    *,
    ids: NDArray[np.int64],
    skeleton: Skeleton,
    counted: int | None,
    faults: Faults,
) -> F64:
    """Joints as they are used, all 0 where one is no coordinate; what is forgotten of them is so in ``entries``.

    In ``keypoints`` itself it is those with v below 0.
    """
    negative = repair.forget_negative(keypoints, faults=faults)
    used = np.where(_wild(keypoints)[:, None, None], 0, keypoints)
    _recount(entries, (used[:, :counted, 2] > 0).sum(axis=1), faults=faults)
    far = repair.forget_far_joints(used, sizes, ids=ids, joints=skeleton.joints, faults=faults)
    for i in {*negative.tolist(), *far.tolist()}:
        entries[i]["keypoints"] = used[i].ravel().tolist()
        entries[i]["num_keypoints"] = int((used[i, :counted, 2] > 0).sum())
    return used


def _box_joints(entries: list[Entry], boxes: F64, keypoints: F64, people: NDArray[np.bool_], *, faults: Faults) -> None:
    """Give ``people`` without a box one around their joints, in ``entries`` and ``boxes``."""
    rows = np.flatnonzero(people & (boxes[:, 2:] == 0).any(axis=1))
    if not len(rows):
        return
    boxes[rows] = repair.boxes_around_joints(keypoints[rows])
    for i in rows.tolist():
        entries[i]["bbox"] = boxes[i].tolist()
    who = plural(len(rows), "person")
    faults.note(f"bbox of {who} missing or empty; taken around the labelled joints")


def _areas(entries: list[Entry], boxes: F64, people: NDArray[np.bool_], *, share: float | None, faults: Faults) -> F64:
    """Areas ``[n]``, as they are in ``entries`` then; ``share`` of the box where a set has none."""
    if share is not None:
        areas = boxes[:, 2] * boxes[:, 3] * share
        changed = np.ones(len(entries), dtype=bool)
    else:
        missing = np.array([e.get("area") is None for e in entries], dtype=bool)
        stated = _floats(0 if e.get("area") is None else e["area"] for e in entries)
        areas, reasons = repair.areas_of_boxes(stated, boxes, missing=missing, people=people)
        changed = missing | (areas != stated) & ~np.isnan(stated)
        if reasons:
            why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            of = f"{sum(reasons.values())} of {plural(len(entries), 'annotation')}"
            faults.note(f"area of {of} taken from the box, width x height: {why}")
    for i in np.flatnonzero(changed).tolist():
        entries[i]["area"] = float(areas[i])
    return areas


def _recount(entries: list[Entry], count: NDArray[np.int64], *, faults: Faults) -> None:
    """Write the number of labelled joints into ``entries``; many tools write that of all joints."""
    wrong = 0
    for entry, number in zip(entries, count.tolist(), strict=True):
        wrong += entry.get("num_keypoints", number) != number
        entry["num_keypoints"] = number
    if wrong:
        who = plural(wrong, "annotation")
        faults.note(f"num_keypoints of {who} is not the number of joints with v > 0; recounted")


def _floats(values: Iterable[float]) -> F64:
    listed = list(values)
    try:
        return np.array(listed, dtype=np.float64)
    except OverflowError:  # an integer of more than 308 digits
        return np.array([v if abs(v) < 1e300 else np.inf for v in listed], dtype=np.float64)


def _wild(values: F64) -> NDArray[np.bool_]:
    """Rows with a number that is not finite, or too large to be a coordinate."""
    return np.asarray(~(np.abs(values) < LARGEST).all(axis=tuple(range(1, values.ndim))))


def _visibility(values: F64, skeleton: Skeleton) -> str:
    joint, value = next((j, v) for j, v in zip(skeleton.joints, values.tolist(), strict=True) if v not in (0, 1, 2))
    guess = " (a confidence is no label)" if 0 < value < 1 else ""
    return f"keypoints: visibility {value:g} of {joint}, expected 0, 1 or 2{guess}"


def _not_finite(points: F64, skeleton: Skeleton) -> str:
    first = int(np.flatnonzero(_wild(points))[0])
    return f"keypoints: {points[first].tolist()} of {skeleton.joints[first]}, expected finite numbers below {LARGEST:g}"


def _bad_box(box: F64) -> str:
    return f"bbox={box.tolist()}: expected finite numbers below {LARGEST:g}, width and height not below 0"


def _outside(box: F64, wh: Sequence[float] | F64) -> str:
    if not box[2:].any():
        return "bbox: missing or empty, and a single labelled joint gives none"
    end, (width, height) = box[:2] + box[2:], wh
    exchanged = (end > (width, height)).any() and (end <= (height, width)).all()
    guess = "; are its width and height exchanged, or is it turned by EXIF (--exif apply)?" if exchanged else ""
    return f"bbox={box.tolist()}: at most one pixel of it lies in the {width:g}x{height:g} image{guess}"
