"""Who is evaluated: the people of shards, a detector's boxes in the same photos, or a test set without annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.datasets import coco_document, mpii
from icon_dist.datasets.annotation_file import missing_files
from icon_dist.datasets.detections import category_ids, detected
from icon_dist.errors import ConfigError, DataError, plural, shown
from icon_dist.images.photo import AS_STORED, Conversion
from icon_dist.metrics.ground_truth import GroundTruth, ground_truth
from icon_dist.shards.local_copies import place_of
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.reader import People, Photos, photo_source
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Annotations, Skeleton


@dataclass(frozen=True)
class Subjects:
    """The instances of an evaluation, their boxes, and the ground truth to score them with where there is one."""

    people: People
    truth: GroundTruth | None  # None: only a test server knows
    split: str
    boxes: str  # where the boxes are from
    category: int  # id of people in the set, for files of results


def truth_of(shards: ShardSet) -> GroundTruth:
    """What poses of the people of ``shards`` are scored by, read from beside them."""
    return ground_truth(read_truth(place_of(shards.uri)), joints=shards.skeleton.num_joints)


def annotated(shards: ShardSet, *, boxes: str, images: str | None) -> Subjects:
    """``boxes``: gt for those of the shards, or a detector's file, for which ``images`` is the folder of the photos."""
    file, split = read_truth(place_of(shards.uri)), str(shards.manifest["split"])
    truth, category = ground_truth(file, joints=shards.skeleton.num_joints), category_ids(file)[0]
    if boxes == "gt":
        return Subjects(shards, truth, split, str(shards.manifest["boxes"]), category)
    if images is None:
        raise ConfigError(f"--boxes {boxes}: needs --images DIR, because shards hold only the annotated people")
    found = detected(Annotations(shards.skeleton, [], file), storage.absolute(boxes))
    people = _on_photos(found, images, skeleton=shards.skeleton, conversion=shards.conversion)
    return Subjects(people, truth, split, PurePath(boxes).name, category)


def unlabelled(photos: str, *, skeleton: Skeleton, boxes: str, images: str | None) -> Subjects:
    """A test set: MPII's ``test.json``, or COCO's ``image_info_*.json`` with a detector's boxes."""
    if images is None:
        raise ConfigError(f"--photos {photos}: needs --images DIR with the photos")
    if skeleton.metric == "pckh":
        found = mpii.read_places(photos)
    elif boxes == "gt":
        raise ConfigError(f"--photos {photos}: nobody is annotated in it; needs a detector's --boxes FILE")
    else:
        found = detected(coco_document.read_photos(photos, skeleton=skeleton), storage.absolute(boxes))
    people = _on_photos(found, images, skeleton=skeleton)
    source = "given" if boxes == "gt" else PurePath(boxes).name
    return Subjects(people, None, PurePath(photos).stem, source, category_ids(found.truth)[0])


def _on_photos(found: Annotations, images: str, *, skeleton: Skeleton, conversion: Conversion = AS_STORED) -> Photos:
    """Those people on the photos below the folder ``images``, all of which must be there."""
    folder = storage.absolute(images)
    if not storage.is_remote(folder):
        names = {person.file for person in found.instances}
        if missing := sorted(missing_files(names, folder)):
            few = f"{len(missing)} of {plural(len(names), 'photo')}"
            raise DataError(f"--images {images}: {few} not in this folder, such as {shown(missing[0])}; give theirs")
    return photo_source(folder, found.instances, skeleton=skeleton, conversion=conversion)


def first_photos(people: People, limit: int) -> NDArray[np.int64]:
    """Rows of the first photos that hold ``limit`` people or more; a photo counts whole or not at all. 0: all rows."""
    if not limit:
        return np.arange(len(people))
    photo, first = np.unique(people.image_id, return_index=True)
    order = photo[np.argsort(first)]
    rank_of = np.argsort(np.argsort(first))[np.searchsorted(photo, people.image_id)]
    count = np.cumsum(np.bincount(rank_of, minlength=len(order)))
    return np.flatnonzero(rank_of <= np.searchsorted(count, limit))


def photos_of(people: People, limit: int) -> set[int] | None:
    """Images that count under a limit of so many people; None without one, for all."""
    return set(people.image_id[first_photos(people, limit)].tolist()) if limit else None
