"""Several shard sets as one: the rows of each after the other, on the joints of all (``data.train=[A, B]``).

A set is read as it lies; only its index is rearranged in memory. A joint that a set does not have is not labelled
there (v = 0), so it has no target, no query, no key and no limb. Ids of later sets are shifted past the earlier ones'.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icon_dist.datasets.merged_skeleton import columns, merged, missing, near_names
from icon_dist.errors import plural, shorten
from icon_dist.shards.manifest import ShardManifest
from icon_dist.shards.shard_set import ShardSet, Texts
from icon_dist.types import Origin, Skeleton

MOST_ID = 1 << 62
PER_ROW = ("offset", "size", "sha256", "box", "area", "score", "keypoints", "window", "stored_wh", "photo_wh")


@dataclass(frozen=True)
class ShardUnion(ShardSet):
    """The rows of several sets. ``manifest`` has what is true of all; what is of one set is in ``parts``."""

    parts: tuple[ShardSet, ...] = ()  # as they were opened, with their own joints and ids
    labels: tuple[str, ...] = ()  # what they are called

    @property
    def index_sha256(self) -> str:
        """Tells these sets, in this order, from all others."""
        return hashlib.sha256(" ".join(part.index_sha256 for part in self.parts).encode()).hexdigest()

    @property
    def origin(self) -> Origin:
        """What a model that learns from these sets says of them."""
        said = [Origin(**part.origin, index=part.index_sha256) for part in self.parts]
        dataset, split = (
            " + ".join(dict.fromkeys(names)) for names in zip(*((s["dataset"], s["split"]) for s in said), strict=True)
        )
        stated = dict.fromkeys(f"{one['split']}: {one['licence'] or 'not stated'}" for one in said)
        licence = "; ".join(stated) if any(one["licence"] for one in said) else None
        return Origin(dataset=dataset, split=split, people=len(self), licence=licence, sets=said)

    @property
    def has_joint(self) -> NDArray[np.bool_]:
        """``[sets, K]``: which joints each set has."""
        found = np.zeros((len(self.parts), self.skeleton.num_joints), dtype=bool)
        for of_set, part in zip(found, self.parts, strict=True):
            of_set[columns(self.skeleton, part.skeleton)] = True
        return found

    @functools.cached_property
    def has_halves(self) -> NDArray[np.bool_]:
        """``[n]``: people of sets whose crops have margin for half of a body."""
        halves = [bool(part.skeleton.upper or part.skeleton.lower) for part in self.parts]
        return np.repeat(halves, [len(part) for part in self.parts])

    def shard_uri(self, shard: int) -> str:
        """Where a tar lies: shard names of a union are whole places."""
        return self.shard_names[shard]


def on_joints(part: ShardSet, skeleton: Skeleton) -> ShardSet:
    """The set on the joints of ``skeleton``, which has them all; the others are not labelled.

    Where visibility means something else in this set, v says it in the terms of ``skeleton``.
    """
    keypoints = np.zeros((len(part), skeleton.num_joints, 3), np.float32)
    keypoints[:, columns(skeleton, part.skeleton)] = part.keypoints
    if part.skeleton.visible_at < skeleton.visible_at:
        v = keypoints[..., 2]
        v[v >= part.skeleton.visible_at] = skeleton.visible_at
    return dataclasses.replace(part, skeleton=skeleton, keypoints=keypoints)


def union_of(parts: Sequence[ShardSet]) -> ShardSet:
    """These sets as one; a single set as it is. DataError where their skeletons do not fit together."""
    if len(parts) == 1:
        return parts[0]
    labels = labels_of([part.uri for part in parts])
    skeleton = merged([part.skeleton for part in parts], names=labels)
    whole = [on_joints(part, skeleton) for part in parts]
    tars = np.cumsum([0, *(len(part.shard_names) for part in parts)])[:-1]
    numbers: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in whole]) for name in PER_ROW}
    return ShardUnion(
        uri=" + ".join(part.uri for part in parts),
        manifest=_manifest(parts),
        skeleton=skeleton,
        shard_names=tuple(part.shard_uri(number) for part in parts for number in range(len(part.shard_names))),
        shard=np.concatenate([part.shard + np.int32(first) for part, first in zip(parts, tars, strict=True)]),
        instance=_apart([part.instance for part in parts]),
        image_id=_apart([part.image_id for part in parts]),
        key=Texts(pa.concat_arrays([part.key.column for part in parts])),
        **numbers,
        parts=tuple(parts),
        labels=labels,
    )


def labels_of(uris: Sequence[str]) -> tuple[str, ...]:
    """A short name for each place: its last folder, with as many before it as tell it from the others.

    >>> labels_of(["data/coco/train", "s3://b/lsp/train"]), labels_of(["data/coco", "data/lsp"])
    (('coco/train', 'lsp/train'), ('coco', 'lsp'))
    """
    folders = [[folder for folder in uri.split("/") if folder] for uri in uris]
    for count in range(1, max(map(len, folders)) + 1):
        names = tuple("/".join(path[-count:]) for path in folders)
        if len({*names}) == len(names):
            return names
    return tuple(uris)


def describe(union: ShardUnion) -> list[str]:
    """Lines of a plan: whose joints there are, and of every set its people and what it lacks."""
    known: set[str] = set()
    brought = []
    for part, label in zip(union.parts, union.labels, strict=True):
        new = [joint for joint in part.skeleton.joints if joint not in known]
        known.update(new)
        if part is union.parts[0]:
            brought.append(f"the {len(new)} of {label}")
        elif new:
            brought.append(f"{shorten(', '.join(new))} of {label}")
    lines = [f"joints      {union.skeleton.num_joints}: {', then '.join(brought)}"]
    width = max(map(len, union.labels))
    for part, label in zip(union.parts, union.labels, strict=True):
        lacks = missing(part.skeleton, union.skeleton)
        said = f"without {shorten(', '.join(lacks), 200)}" if lacks else "all of them"
        have = f"{plural(len(part), 'person')}, {plural(part.skeleton.num_joints, 'joint')}"
        lines.append(f"            {label:<{width}}  {have}: {said}")
    return lines


def union_notes(union: ShardUnion) -> Iterator[str]:
    """What is unusual about these sets together, and no error."""
    skeletons = [part.skeleton for part in union.parts]
    yield from near_names(skeletons, union.labels)
    indexes = [part.index_sha256 for part in union.parts]
    for place, part in enumerate(union.parts):
        if part.index_sha256 in indexes[:place]:
            twin = union.parts[indexes.index(part.index_sha256)]
            yield f"data.train: {part.uri} is a copy of {twin.uri}: its people come twice in each epoch; leave one out"
        shared = columns(union.skeleton, part.skeleton)
        if tuple(union.skeleton.sigmas[joint] for joint in shared) != part.skeleton.sigmas:
            first = "the model keeps those of the first set that has the joint; every set is scored with its own"
            yield f"data.train: {union.labels[place]} has other sigmas: {first}"


def _apart(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The ids of all sets as one column, later ones shifted past the largest so far; numbered anew where that is too
    much for 64 bits."""
    shifted, end = [], None
    for of_set in ids:
        by = 0 if end is None else end + 1 - int(of_set.min())
        end = int(of_set.max()) + by
        if end >= MOST_ID or int(of_set.min()) + by < 0:
            return _numbered(ids)
        shifted.append(of_set + by)
    return np.concatenate(shifted)


def _numbered(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Ids from 0 on, in the order of sets and of ids within each."""
    found, first = [], 0
    for of_set in ids:
        known, place = np.unique(of_set, return_inverse=True)
        found.append(first + place.astype(np.int64))
        first += len(known)
    return np.concatenate(found)


def _manifest(parts: Sequence[ShardSet]) -> ShardManifest:
    """What a manifest says of all of them; files by the whole place of each tar."""
    files = {
        part.shard_uri(number): part.manifest["files"][name]
        for part in parts
        for number, name in enumerate(part.shard_names)
    }
    together = {
        key: " + ".join(dict.fromkeys(str(part.manifest[key]) for part in parts))
        for key in ("dataset", "split", "boxes")
    }
    return cast(ShardManifest, {**together, "people": sum(map(len, parts)), "files": files})
