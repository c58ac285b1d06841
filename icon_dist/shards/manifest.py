"""``manifest.json`` of a shard set, written last: what the set is, and the sha256 of every file in it.

It seals itself the same way (:mod:`icon_dist.storage.hashed_json`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from icon_dist import storage
from icon_dist.datasets.annotation_file import MAX_BYTES as MAX_JSON
from icon_dist.datasets.annotation_file import parse
from icon_dist.errors import DataError, TooLargeError
from icon_dist.storage import hashed_json, lock
from icon_dist.types import Truth

FORMAT = 1
MANIFEST, INDEX, TRUTH = "manifest.json", "index.parquet", "truth.json.gz"
SKELETON = "skeleton.yaml"  # beside a set whose skeleton was derived, to be looked at and corrected; nothing reads it
BUILDING = "building.json"  # there as long as a build is unfinished
BUILD_COMMAND = "icon-dist shards build coco|mpii|crowdpose|custom|yolo|... --annotations FILE --images DIR --out"


class FileFacts(TypedDict):
    """What a manifest says of one file."""

    bytes: int
    sha256: str


class BuildHead(TypedDict):
    """What a build is before anything is packed: the same head, the same bytes."""

    format: int
    dataset: str
    split: str
    boxes: str  # gt, or where they are from
    skeleton: Mapping[str, Any]  # as :func:`icon_dist.datasets.skeleton_to_dict` makes it
    settings: Mapping[str, Any]  # of :class:`icon_dist.shards.tar.Settings`, and what windows follow from them
    source: str  # digest of all that is packed except pixels
    licence: NotRequired[str]


class ShardManifest(BuildHead):
    """All of ``manifest.json``."""

    people: int  # rows of the index
    photos: int
    shards: list[str]  # names of the tars
    splits: NotRequired[dict[str, str]]  # share -> fingerprint of the labelled people, of the paper's splits
    files: dict[str, FileFacts]
    sha256: str  # the seal


def read_manifest(uri: str) -> ShardManifest:
    """The manifest of a finished build, whatever its settings."""
    place = storage.join(uri, MANIFEST)
    try:
        raw = storage.read(place, most=hashed_json.MOST, sound=hashed_json.holds)
    except TooLargeError:
        raise DataError(
            f"{place}: more than {hashed_json.MOST >> 20} MiB, which no manifest has; build again"
        ) from None
    except FileNotFoundError:
        if storage.exists(storage.join(uri, BUILDING)):
            if who := lock.owner(uri):
                raise DataError(f"{uri}: is being written by {who}; wait for its end") from None
            fix = "run the same icon-dist shards build command again"
            raise DataError(f"{uri}: the build is unfinished; {fix}") from None
        if os.path.isfile(uri):
            folder = "give the folder that icon-dist shards build wrote"
            raise DataError(f"{uri}: no shards here, it is a file; {folder}: {BUILD_COMMAND} FOLDER") from None
        raise DataError(f"{uri}: no shards here ({MANIFEST} is missing); build them: {BUILD_COMMAND} {uri}") from None
    try:
        manifest = cast(ShardManifest, hashed_json.unsealed(raw))
    except hashed_json.BrokenSealError as error:
        fix = "copy it again, or delete the folder and build the shards again"
        raise DataError(f"{place}: {error}; {fix}") from None
    try:
        version = int(manifest["format"])
        if version > FORMAT:
            fix = "upgrade icon_dist or build the shards again"
            raise DataError(f"{place} format={version}: newer than this version reads ({FORMAT}); {fix}")
        shards, files = manifest["shards"], manifest["files"]
        complete = {INDEX, TRUTH, *shards} == set(files) and all(len(files[name]["sha256"]) == 64 for name in files)
        named = all(re.fullmatch(r"shard-\d{5}\.tar", name) for name in shards)
        sound = complete and named and all(_is_count(files[name]["bytes"]) for name in files)
        sound = sound and _is_count(manifest["people"]) and manifest["people"] > 0
        sound = sound and all(manifest[name].isprintable() for name in ("dataset", "split", "boxes"))
        sound = sound and manifest.get("licence", "").isprintable()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        sound = False
    if not sound:
        raise DataError(f"{place}: not a shard manifest; build the shards again")
    return manifest


def _is_count(value: object) -> bool:
    return isinstance(value, int) and type(value) is not bool and 0 <= value < 1 << 62


def verified(uri: str, name: str, manifest: ShardManifest, *, most: int) -> bytes:
    """The bytes of a file of the set, at most ``most``. DataError where they are not those of the manifest."""
    place = storage.join(uri, name)

    def sound(raw: bytes) -> bool:
        return bool(hashlib.sha256(raw).hexdigest() == manifest["files"][name]["sha256"])

    try:
        raw = storage.read(place, most=most, sound=sound)
    except TooLargeError:
        raise DataError(
            f"{place}: more than {most} bytes, which it cannot have; copy it again or build again"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{place}: missing; copy it again or build the shards again") from None
    if not sound(raw):
        raise DataError(f"{place}: sha256 differs from {MANIFEST}; copy it again or build the shards again")
    return raw


def read_truth(uri: str) -> Truth:
    """Ground truth of the whole set, as ``Annotations.truth``."""
    raw = verified(uri, TRUTH, read_manifest(uri), most=MAX_JSON)
    return cast(Truth, parse(raw, source=storage.join(uri, TRUTH)))
