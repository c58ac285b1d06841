"""Who goes into a shard set: several annotation files joined, or the first few people.

Several shard sets in one run are joined in ``shards/union.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from icon_dist.errors import DataError, plural
from icon_dist.types import PERSON, Annotations, Category, Truth


def _shifted(part: Annotations, *, people: int, photos: int) -> Annotations:
    """The same people with other ids."""
    instances = [dataclasses.replace(p, id=p.id + people, image_id=p.image_id + photos) for p in part.instances]
    truth = part.truth.copy()
    truth["images"] = [{**image, "id": image["id"] + photos} for image in truth["images"]]
    truth["annotations"] = [
        {**one, "id": one["id"] + people, "image_id": one["image_id"] + photos} for one in truth["annotations"]
    ]
    many = plural(len(truth["images"]), "photo")
    what = f"{many} of a later annotation file: image ids + {photos} and ids of people + {people}, as theirs were taken"
    truth["notes"] = [*truth.get("notes", []), what]
    return Annotations(part.skeleton, instances, truth)


def _ids(part: Annotations) -> tuple[set[int], set[int]]:
    people = {p.id for p in part.instances} | {int(one["id"]) for one in part.truth["annotations"]}
    return people, {p.image_id for p in part.instances} | {int(image["id"]) for image in part.truth["images"]}


def _beyond(taken: set[int], new: set[int]) -> int:
    """By how much the ``new`` ids are shifted to lie above those that are taken; some tools count from 0."""
    return max(taken, default=0) + (0 in new)


def join(parts: Sequence[Annotations]) -> Annotations:
    """One set of several annotation files. Ids that are taken already are shifted past the largest id before them."""
    whole, *others = parts
    for part in others:
        if part.skeleton != whole.skeleton:
            names = f"{whole.skeleton.name} and {part.skeleton.name}"
            raise DataError(f"annotations: skeletons {names} differ; build a shard set of each")
        (people, photos), (new_people, new_photos) = _ids(whole), _ids(part)
        if people & new_people or photos & new_photos:
            part = _shifted(part, people=_beyond(people, new_people), photos=_beyond(photos, new_photos))
        whole = Annotations(whole.skeleton, [*whole.instances, *part.instances], _joined(whole.truth, part.truth))
    return whole


def _joined(truth: Truth, other: Truth) -> Truth:
    """Categories are listed where they are not COCO's one, notes where there are any."""
    common = Category(id=PERSON, name="person")
    categories = {c["id"]: c for t in (truth, other) for c in t.get("categories", [common])}
    both = Truth(images=truth["images"] + other["images"], annotations=truth["annotations"] + other["annotations"])
    if notes := truth.get("notes", []) + other.get("notes", []):
        both["notes"] = notes
    if set(categories) != {PERSON}:
        both["categories"] = list(categories.values())
    return both


def prefixed(part: Annotations, folder: str) -> Annotations:
    """The same people in photos of ``folder``/."""
    instances = [dataclasses.replace(p, file=f"{folder}/{p.file}") for p in part.instances]
    truth = part.truth.copy()
    truth["images"] = [{**image, "file_name": f"{folder}/{image['file_name']}"} for image in truth["images"]]
    return Annotations(part.skeleton, instances, truth)


def first(whole: Annotations, count: int) -> Annotations:
    """The ``count`` people with the smallest ids, and the ground truth of their photos without the other people."""
    kept = sorted(whole.instances, key=lambda p: p.id)[:count]
    photos = {p.image_id for p in kept}
    dropped = {p.id for p in whole.instances} - {p.id for p in kept}
    truth = whole.truth.copy()
    truth["images"] = [image for image in truth["images"] if image["id"] in photos]
    truth["annotations"] = [
        one for one in truth["annotations"] if one["image_id"] in photos and one["id"] not in dropped
    ]
    return Annotations(whole.skeleton, kept, truth)
