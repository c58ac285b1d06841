"""Who goes into a shard set: several annotation files joined, or the first few people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from icon_dist.errors import DataError
from icon_dist.types import PERSON, Annotations


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
