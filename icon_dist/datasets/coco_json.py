"""COCO-format person keypoints -> :class:`Annotations`, every entry checked (METHOD 5, RELIABILITY "COCO json").

Types and lengths are checked entry by entry, values as columns: 150k people take about two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist.datasets.document import (
    LARGEST,
    NUMBER,
    Faults,
    are_numbers,
    collector_off,
    is_id,
    load,
    missing_files,
    name_fault,
)
from icon_dist.errors import DataError, shown
from icon_dist.types import Annotations, Instance, Skeleton

F64 = NDArray[np.float64]
FIELDS = ("id", "image_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints")


def clean_boxes(boxes: F64, wh: F64) -> F64:
    """Boxes ``[n, 4]`` (x, y, w, h px) inside photos of size ``wh [n, 2]``, as HRNet's loader cuts them (METHOD 5)."""
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(wh - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return np.concatenate([low, high - low], axis=1)


@collector_off()
def read_people(
    annotations: str | Path,
    *,
    skeleton: Skeleton,
    images: str | Path | None,
    drop_invalid: bool,
    counted: int | None = None,
    box_area: float | None = None,
    image_field: str | None = None,
) -> Annotations:
    """Read a COCO-format file.

    ``counted``: ``num_keypoints`` counts the first so many joints (all). ``box_area``: the file has no ``area``, it is
    this share of the box. ``image_field``: a number of every image to keep in the truth.
    """
    document = load(annotations)
    _check_sections(document, skeleton, source=annotations)
    faults = Faults(annotations, drop=drop_invalid)
    photos = _photos(document["images"], faults, image_field=image_field)
    entries = _well_formed(document["annotations"], faults, skeleton=skeleton, box_area=box_area)
    for entry in entries:
        entry.setdefault("iscrowd", 0)

    ids, image_ids, categories, crowd = (
        np.array([e[k] for e in entries], dtype=np.int64) for k in ("id", "image_id", "category_id", "iscrowd")
    )
    keypoints = _floats(chain.from_iterable(e["keypoints"] for e in entries)).reshape(-1, skeleton.num_joints, 3)
    boxes = _floats(chain.from_iterable(e["bbox"] for e in entries)).reshape(-1, 4)
    wild_points, wild_boxes = _wild(keypoints), _wild(boxes)
    keypoints_in_use = np.where(wild_points[:, None, None], 0, keypoints)
    boxes_in_use = np.where(wild_boxes[:, None], 0, boxes)
    if box_area is not None:
        for entry, area in zip(entries, (boxes_in_use[:, 2] * boxes_in_use[:, 3] * box_area).tolist(), strict=True):
            entry["area"] = area
    areas = _floats(e["area"] for e in entries)
    labelled = keypoints[..., 2] > 0
    count = labelled[:, :counted].sum(axis=1)
    for entry, number in zip(entries, count.tolist(), strict=True):
        entry.setdefault("num_keypoints", number)
    stated = np.array([e["num_keypoints"] for e in entries], dtype=np.int64)
    sizes = np.array([_size(photos.get(i)) for i in image_ids.tolist()], dtype=np.float64).reshape(-1, 2)
    cleaned = clean_boxes(boxes_in_use, sizes)
    wanted = labelled.any(axis=1) & (crowd == 0) & ~(areas == 0)
    names = [photos[i]["file_name"] if i in photos else "" for i in image_ids.tolist()]
    absent = missing_files({n for n, w in zip(names, wanted, strict=True) if w and n}, images) if images else set()

    first = np.zeros(len(entries), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    category = document["categories"][0]["id"]
    rules: list[tuple[Any, Callable[[int], str]]] = [
        (~first, lambda i: f"id={ids[i]}: given twice"),
        (sizes[:, 0] == 0, lambda i: f"image_id={image_ids[i]}: no such image in this file"),
        (categories != category, lambda i: f"category_id={categories[i]}: the only category is {category}"),
        (wild_points, lambda i: _not_finite(keypoints[i], skeleton)),
        (~np.isin(keypoints[..., 2], (0, 1, 2)).all(axis=1), lambda i: _visibility(keypoints[i, :, 2], skeleton)),
        (stated != count, lambda i: f"num_keypoints={stated[i]}: {count[i]} joints have v > 0"),
        (wild_boxes | (boxes[:, 2:] < 0).any(axis=1), lambda i: _bad_box(boxes[i])),
        (~((areas >= 0) & (areas < LARGEST**2)), lambda i: f"area={areas[i]}: expected a finite number >= 0"),
        ((crowd != 0) & (crowd != 1), lambda i: f"iscrowd={crowd[i]}: expected 0 or 1"),
        (wanted & ~(cleaned[:, 2:] > 0).all(axis=1), lambda i: _outside(boxes[i], sizes[i])),
        (wanted & np.array([n in absent for n in names], dtype=bool), lambda i: f"image {names[i]!r}: not in {images}"),
    ]
    bad = np.zeros(len(entries), dtype=bool)
    for failed, text in rules:
        for i in np.flatnonzero(failed & ~bad).tolist():
            faults.add(f"ann id={ids[i]} {text(i)}")
        bad |= failed
    faults.warn()

    rows = np.flatnonzero(wanted & ~bad)
    rows = rows[np.argsort(ids[rows])]
    if not len(rows):
        raise DataError(f"{annotations}: no person with a labelled joint; nothing to train on or to score")
    points = keypoints_in_use.astype(np.float32)
    whs = sizes.astype(int)
    people = [
        Instance(id=i, image_id=m, file=names[r], wh=(w, h), box=(x, y, bw, bh), area=a, keypoints=points[r])
        for r, i, m, (w, h), (x, y, bw, bh), a in zip(
            rows.tolist(),
            ids[rows].tolist(),
            image_ids[rows].tolist(),
            whs[rows].tolist(),
            cleaned[rows].tolist(),
            areas[rows].tolist(),
            strict=True,
        )
    ]
    kept = [{k: entries[r][k] for k in FIELDS} | {"category_id": 1} for r in np.flatnonzero(~bad).tolist()]
    return Annotations(skeleton, people, {"images": list(photos.values()), "annotations": kept})


def read_photos(file: str | Path, *, skeleton: Skeleton) -> Annotations:
    """The photos of a set without annotations, such as ``image_info_test-dev2017.json``; nobody is known in them."""
    document = load(file)
    if type(document) is not dict or type(document.get("images")) is not list:
        raise DataError(f"{file}: no list of images; expected a file like image_info_test-dev2017.json")
    photos = _photos(document["images"], Faults(file, drop=False), image_field=None)
    return Annotations(skeleton, [], {"images": list(photos.values()), "annotations": []})


def _check_sections(document: Any, skeleton: Skeleton, *, source: str | Path) -> None:
    if type(document) is not dict:
        kind = "a list" if type(document) is list else f"{type(document).__name__}"
        raise DataError(f"{source}: {kind} on top, expected an object with images, annotations, categories")
    for name in ("images", "annotations", "categories"):
        if type(document.get(name)) is not list:
            found = "missing" if name not in document else "not a list"
            raise DataError(f"{source} {name}: {found}; expected a COCO keypoints file (person_keypoints_*.json)")
    categories = document["categories"]
    if len(categories) != 1 or type(categories[0]) is not dict or not is_id(categories[0].get("id")):
        raise DataError(f"{source} categories: expected exactly one, with an id; remove those that are not people")
    names = categories[0].get("keypoints", list(skeleton.joints))
    if names != list(skeleton.joints):
        raise DataError(
            f"{source} categories[0].keypoints: {shown(names)} are not the joints of skeleton {skeleton.name}: "
            f"{list(skeleton.joints)}; name the right dataset or skeleton"
        )


def _photos(entries: list[Any], faults: Faults, *, image_field: str | None) -> dict[int, dict[str, Any]]:
    fields = ["id", "file_name", "width", "height", *([image_field] if image_field else [])]
    photos: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        fault = _photo_fault(entry, image_field=image_field)
        if fault is None and entry["id"] in photos:
            fault = "duplicate id"
        if fault is not None:
            faults.add(f"image {_label(entry, number)} {fault}")
            continue
        photos[entry["id"]] = {k: entry[k] for k in fields}
    return photos


def _photo_fault(entry: Any, *, image_field: str | None) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    if not is_id(entry.get("id")):
        return f"id={shown(entry.get('id'))}: expected an integer >= 0"
    if (fault := name_fault(entry.get("file_name"))) is not None:
        return f"file_name={fault}"
    for key in ("width", "height"):
        if not is_id(entry.get(key)) or entry[key] == 0:
            return f"{key}={shown(entry.get(key))}: expected a positive integer"
    if image_field and not are_numbers([entry.get(image_field)]):
        return f"{image_field}={shown(entry.get(image_field))}: expected a number"
    return None


def _well_formed(
    entries: list[Any], faults: Faults, *, skeleton: Skeleton, box_area: float | None
) -> list[dict[str, Any]]:
    """The annotations whose fields have the right types and lengths."""
    kept = []
    for number, entry in enumerate(entries):
        fault = _form_fault(entry, joints=skeleton.num_joints, has_area=box_area is None)
        if fault is None:
            kept.append(entry)
        else:
            faults.add(f"ann {_label(entry, number)} {fault}")
    return kept


def _form_fault(entry: Any, *, joints: int, has_area: bool) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    for key in ("id", "image_id", "category_id"):
        if not is_id(entry.get(key)):
            return f"{key}={shown(entry.get(key))}: expected an integer >= 0"
    for key in ("iscrowd", "num_keypoints"):
        if key in entry and not is_id(entry[key]):
            return f"{key}={shown(entry[key])}: expected an integer >= 0"
    if has_area and type(entry.get("area")) not in NUMBER:
        return f"area={shown(entry.get('area'))}: expected a number"
    for key, length, form in (("bbox", 4, "[x,y,w,h]"), ("keypoints", 3 * joints, f"{joints} x [x,y,v]")):
        values = entry.get(key)
        if type(values) is not list:
            return f"{key}={shown(values)}: expected a list of {length} numbers ({form})"
        if len(values) != length:
            return f"{key}: {len(values)} values, expected {length} ({form})"
        if not NUMBER.issuperset(map(type, values)):
            wrong = next(v for v in values if type(v) not in NUMBER)
            return f"{key}: {shown(wrong)} is not a number, expected {length} numbers ({form})"
    return None


def _label(entry: Any, number: int) -> str:
    known = type(entry) is dict and is_id(entry.get("id"))
    return f"id={entry['id']}" if known else f"number {number}"


def _floats(values: Iterable[float]) -> F64:
    listed = list(values)
    try:
        return np.array(listed, dtype=np.float64)
    except OverflowError:  # an integer of more than 308 digits
        return np.array([v if abs(v) < 1e300 else np.inf for v in listed], dtype=np.float64)


def _wild(values: F64) -> NDArray[np.bool_]:
    """Rows with a number that is not finite, or too large to be a coordinate."""
    return np.asarray(~(np.abs(values) < LARGEST).all(axis=tuple(range(1, values.ndim))))


def _size(photo: dict[str, Any] | None) -> tuple[int, int]:
    return (photo["width"], photo["height"]) if photo else (0, 0)


def _visibility(values: F64, skeleton: Skeleton) -> str:
    joint, value = next((j, v) for j, v in zip(skeleton.joints, values.tolist(), strict=True) if v not in (0, 1, 2))
    return f"keypoints: visibility {value:g} of {joint}, expected 0, 1 or 2"


def _not_finite(points: F64, skeleton: Skeleton) -> str:
    first = int(np.flatnonzero(_wild(points))[0])
    return f"keypoints: {points[first].tolist()} of {skeleton.joints[first]}, expected finite numbers below {LARGEST:g}"


def _bad_box(box: F64) -> str:
    return f"bbox={box.tolist()}: expected finite numbers below {LARGEST:g}, width and height not below 0"


def _outside(box: F64, wh: Sequence[float] | F64) -> str:
    return f"bbox={box.tolist()}: at most one pixel of it lies in the {wh[0]:g}x{wh[1]:g} image"
