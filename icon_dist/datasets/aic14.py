"""AI Challenger human keypoints: a list of photos, each with boxes as corners and 14 joints of every person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icon_dist.datasets.annotation_file import Entry, Faults, is_vector, load
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.derived_skeleton import find_skeleton
from icon_dist.errors import DataError, shown
from icon_dist.images.photo import Exif
from icon_dist.types import Annotations

VISIBILITY = {1: 2, 2: 1, 3: 0}  # visible, hidden, not labelled: theirs to COCO's
JOINTS = 14


def read(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    drop_invalid: bool = False,
    exif: Exif | None = None,
) -> Annotations:
    """``keypoint_*_annotations_*.json[.gz]``; the photo of an entry is its ``image_id`` with ``.jpg``.

    Ids of photos and people follow the order of the file, from 1. Sizes are those of the photos in ``images``.
    """
    document, faults = load(annotations), Faults(annotations, drop=drop_invalid)
    if type(document) is not list or not document:
        raise DataError(f"{annotations}: expected a list of photos on top; a file in COCO's form is custom")
    photos: list[Entry] = []
    people: list[Entry] = []
    for number, entry in enumerate(document):
        if (fault := _entry_fault(entry)) is not None:
            faults.add(f"entry {number} {fault}")
            continue
        photos.append({"id": len(photos) + 1, "file_name": f"{entry['image_id']}.jpg"})
        for name, box in entry["human_annotations"].items():
            where = f"{entry['image_id']} {name}"
            points = entry["keypoint_annotations"].get(name, [])
            if (fault := _person_fault(box, points)) is not None:
                faults.add(f"{where} {fault}")
                continue
            x1, y1, x2, y2 = box
            joints = [v if at % 3 < 2 else VISIBILITY[v] for at, v in enumerate(points)]
            people.append({"id": len(people) + 1, "image_id": len(photos), "category_id": 1, "keypoints": joints})
            people[-1]["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            faults.places[len(people)] = where
    found = {"images": photos, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    return people_of(found, faults, skeleton=find_skeleton("aic14"), images=images, exif=exif)


def _entry_fault(entry: Any) -> str | None:
    if type(entry) is not dict:
        return "is not an object"
    if type(entry.get("image_id")) is not str:
        return f"image_id={shown(entry.get('image_id'))}: expected the name of a photo without .jpg"
    for key in ("human_annotations", "keypoint_annotations"):
        if type(entry.get(key)) is not dict:
            return f"{key}={shown(entry.get(key))}: expected an object of people by name (human1, ...)"
    if alone := [name for name in entry["keypoint_annotations"] if name not in entry["human_annotations"]]:
        return f"keypoint_annotations: {shown(alone[0])} has no box in human_annotations"
    return None


def _person_fault(box: Any, points: Any) -> str | None:
    if not is_vector(box, 4) or box[2] < box[0] or box[3] < box[1]:
        return f"human_annotations={shown(box)}: expected [x1, y1, x2, y2]"
    if points != [] and not is_vector(points, 3 * JOINTS):
        return f"keypoint_annotations={shown(points)}: expected {3 * JOINTS} numbers ({JOINTS} x [x,y,v])"
    if wrong := [v for v in points[2::3] if v not in VISIBILITY]:
        return f"keypoint_annotations: visibility {wrong[0]:g}, expected 1 (visible), 2 (hidden) or 3 (not labelled)"
    return None
