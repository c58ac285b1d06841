"""COCO-WholeBody: COCO's files with the joints of feet, face and hands in fields of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icon_dist.datasets.annotation_file import NUMBER, Entry, Faults, load
from icon_dist.datasets.coco_document import check_sections
from icon_dist.datasets.coco_json import people_of
from icon_dist.datasets.derived_skeleton import find_skeleton
from icon_dist.types import Annotations

PARTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}  # joints of each


def read(annotations: str | Path, *, images: str | Path | None = None, drop_invalid: bool = False) -> Annotations:
    """``coco_wholebody_*.json[.gz]``: 133 joints, in the order of the fields above.

    What v says beyond 0 differs from field to field: of faces and hands it may be a confidence. Whatever is above 0 is
    labelled.
    """
    document, faults = load(annotations), Faults(annotations, drop=drop_invalid)
    check_sections(document, source=annotations)
    skeleton = find_skeleton("wholebody133")
    more = False
    for entry in document["annotations"]:
        if type(entry) is dict and any(part in entry for part in PARTS):
            parts = ["keypoints"] if _is_joined(entry) else PARTS
            more = more or _is_joined(entry) or any(part in entry for part in PARTS if part != "keypoints")
            entry["keypoints"] = [value for part in parts for value in _joints(entry, part)]
            entry.pop("num_keypoints", None)  # it counts those of the body
    if not more:
        faults.note("nobody has joints of feet, face or hands; icon-dist shards build coco reads the others alone")
    for category in document["categories"]:
        category["keypoints"] = list(skeleton.joints)
    return people_of(document, faults, skeleton=skeleton, images=images)


def _is_joined(entry: Entry) -> bool:
    """Whether all joints stand in the field of the body's, as other tools write them."""
    points = entry.get("keypoints")
    return type(points) is list and len(points) == 3 * sum(PARTS.values())


def _joints(entry: Entry, part: str) -> list[Any]:
    """A field's joints with v = 0, 1 or 2, none labelled where it is missing; another kind of field as it is."""
    values = entry.get(part)
    if values is None or values == []:
        return [0] * (3 * PARTS[part])
    if type(values) is not list or len(values) % 3 or not NUMBER.issuperset(map(type, values)):
        return values if type(values) is list else [values]  # for the check of lengths and numbers to name
    is_v = [at % 3 == 2 for at in range(len(values))]
    return [1 if v_here and 0 < value < 2 else value for value, v_here in zip(values, is_v, strict=True)]
