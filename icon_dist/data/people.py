"""Who goes into a shard set: several annotation files joined, the first few people, or a detector's boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from icon_dist import storage
from icon_dist.datasets.document import are_numbers, is_id, parse
from icon_dist.errors import DataError, shown
from icon_dist.types import Annotations, Instance

PERSON = 1  # category id of a person in COCO-format files


def _shifted(part: Annotations, *, people: int, photos: int) -> Annotations:
    """The same people with other ids."""
    instances = [dataclasses.replace(p, id=p.id + people, image_id=p.image_id + photos) for p in part.instances]
    images = [{**image, "id": image["id"] + photos} for image in part.truth["images"]]
    annotations = [
        {**one, "id": one["id"] + people, "image_id": one["image_id"] + photos} for one in part.truth["annotations"]
    ]
    return Annotations(part.skeleton, instances, {**part.truth, "images": images, "annotations": annotations})


def _ids(part: Annotations) -> tuple[set[int], set[int]]:
    people = {p.id for p in part.instances} | {int(one["id"]) for one in part.truth["annotations"]}
    return people, {p.image_id for p in part.instances} | {int(image["id"]) for image in part.truth["images"]}


def join(parts: Sequence[Annotations]) -> Annotations:
    """One set of several annotation files. Ids that are taken already are shifted by the largest id before them."""
    whole, *others = parts
    for part in others:
        if part.skeleton != whole.skeleton:
            names = f"{whole.skeleton.name} and {part.skeleton.name}"
            raise DataError(f"annotations: skeletons {names} differ; build a shard set of each")
        (people, photos), (new_people, new_photos) = _ids(whole), _ids(part)
        if people & new_people or photos & new_photos:
            part = _shifted(part, people=max(people, default=0), photos=max(photos, default=0))
        whole = Annotations(whole.skeleton, [*whole.instances, *part.instances], _joined(whole.truth, part.truth))
    return whole


def _joined(truth: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Categories are listed where they are not COCO's one, notes where there are any."""
    categories = {c["id"]: c for t in (truth, other) for c in t.get("categories", [{"id": PERSON, "name": "person"}])}
    both = {key: [*truth.get(key, []), *other.get(key, [])] for key in ("images", "annotations", "notes")}
    listed = {"categories": list(categories.values())} if set(categories) != {PERSON} else {}
    return {key: value for key, value in both.items() if value or key != "notes"} | listed


def prefixed(part: Annotations, folder: str) -> Annotations:
    """The same people in photos of ``folder``/."""
    instances = [dataclasses.replace(p, file=f"{folder}/{p.file}") for p in part.instances]
    images = [{**image, "file_name": f"{folder}/{image['file_name']}"} for image in part.truth["images"]]
    return Annotations(part.skeleton, instances, {**part.truth, "images": images})


def first(whole: Annotations, count: int) -> Annotations:
    """The ``count`` people with the smallest ids, and the ground truth of their photos without the other people."""
    kept = sorted(whole.instances, key=lambda p: p.id)[:count]
    photos = {p.image_id for p in kept}
    dropped = {p.id for p in whole.instances} - {p.id for p in kept}
    truth = {
        **whole.truth,
        "images": [image for image in whole.truth["images"] if image["id"] in photos],
        "annotations": [
            one for one in whole.truth["annotations"] if one["image_id"] in photos and one["id"] not in dropped
        ],
    }
    return Annotations(whole.skeleton, kept, truth)


def _entries(detections: str) -> list[Any]:
    try:
        raw = storage.read(detections)
    except FileNotFoundError:
        raise DataError(f"{detections}: no such file; give the json of a person detector to --boxes") from None
    entries = parse(raw, source=detections)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{detections}: expected a list of {{image_id, category_id, bbox, score}}; correct the file")
    return entries


def detected(whole: Annotations, detections: str) -> Annotations:
    """A detector's person boxes (COCO results json) instead of the annotated people, on the same ground truth.

    The people are unlabelled; their id is the row in the file, from 0.
    """
    photos = {p.image_id: (p.file, p.wh) for p in whole.instances}
    for image in whole.truth["images"]:
        if image["id"] not in photos and {"file_name", "width", "height"} <= image.keys():
            photos[image["id"]] = image["file_name"], (int(image["width"]), int(image["height"]))
    found = []
    for row, entry in enumerate(_entries(detections)):
        where = f"{detections}#{row}"
        if type(entry) is not dict or not {"image_id", "bbox", "score"} <= entry.keys():
            raise DataError(f"{where}: expected image_id, bbox [x, y, w, h] and score; correct the file")
        image_id, category = entry["image_id"], entry.get("category_id", PERSON)
        for name, value in (("image_id", image_id), ("category_id", category)):
            if not is_id(value):
                raise DataError(f"{where} {name}={shown(value)}: expected an integer >= 0; correct the file")
        if category != PERSON:
            continue
        box, score = entry["bbox"], entry["score"]
        if type(box) is not list or len(box) != 4 or not are_numbers([*box, score]) or min(box[2:]) <= 0:
            said = f"bbox={shown(box)} score={shown(score)}"
            raise DataError(f"{where} {said}: not a box with a score; correct the file")
        if image_id not in photos:
            raise DataError(f"{where} image_id={image_id}: not in the annotations; give the boxes of the same split")
        file, wh = photos[image_id]
        keypoints = np.zeros((whole.skeleton.num_joints, 3), np.float32)
        x, y, w, h = map(float, box)
        found.append(Instance(row, image_id, file, wh, (x, y, w, h), w * h, keypoints, float(score)))
    return Annotations(whole.skeleton, found, whole.truth)
