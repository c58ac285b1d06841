"""Every byte of a shard directory against its index and manifest; one line a finding."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import DataError
from icon_dist.images.image import decode
from icon_dist.shards import teacher_cache
from icon_dist.shards.manifest import MANIFEST, SKELETON, read_truth
from icon_dist.shards.shard_set import ShardSet

BLOCK = tarfile.BLOCKSIZE
FIELDS = ("id", "image_id", "box", "area", "score", "keypoints", "window", "stored_wh", "photo_wh")  # of a json
COLUMNS = {"id": "instance"}  # of the index, that are called otherwise
Member = tuple[str, int, bytes]  # name, offset and bytes of the data


def members(data: bytes) -> Iterator[Member]:
    """The files of a plain tar. Unlike ``tarfile`` it never skips: the first thing wrong is a DataError."""
    at = 0
    while at + BLOCK <= len(data):
        block = data[at : at + BLOCK]
        if block == bytes(BLOCK):
            if data.count(0, at) != len(data) - at or len(data) - at < 2 * BLOCK:
                raise DataError(f"byte {at}: the end mark is cut off or something follows it")
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise DataError(f"byte {at}: not a tar header ({error})") from None
        if not header.isreg() or not re.fullmatch(r"[A-Za-z0-9_-]+\.(jpg|png|json)", header.name):
            raise DataError(f"byte {at}: member {header.name!r} is no plain KEY.jpg, KEY.png or KEY.json")
        start = at + BLOCK
        if not 0 <= header.size <= len(data) - start:
            raise DataError(f"byte {at}: member {header.name} is cut off")
        yield header.name, start, data[start : start + header.size]
        at = start + -(-header.size // BLOCK) * BLOCK
    raise DataError(f"byte {at}: cut off, there is no end mark")


def verify(shards: ShardSet) -> Iterator[str]:
    """Findings; none = the set is sound."""
    manifest, uri = shards.manifest, shards.uri
    for name in sorted(set(storage.listing(uri)) - {MANIFEST, SKELETON, *manifest["files"]}):
        if not teacher_cache.NAME.fullmatch(name):
            yield f"{name}: not listed in {MANIFEST}; remove it"
    if len(set(shards.key)) != len(shards):
        yield "index.parquet: a key occurs twice"
    for number, name in enumerate(shards.shard_names):
        rows = np.flatnonzero(shards.shard == number)
        yield from (f"{name}: {text}" for text in _shard(shards, name, rows))
    try:
        read_truth(uri)
    except DataError as error:
        yield str(error).removeprefix(f"{uri}/")


def _shard(shards: ShardSet, name: str, rows: NDArray[np.int64]) -> Iterator[str]:
    data = storage.read(storage.join(shards.uri, name))
    facts = shards.manifest["files"][name]
    if len(data) != facts["bytes"]:
        yield f"{len(data)} bytes, {MANIFEST} says {facts['bytes']}"
    elif hashlib.sha256(data).hexdigest() != facts["sha256"]:
        yield f"sha256 differs from {MANIFEST}"
    found: dict[str, tuple[int, bytes]] = {}
    try:
        for member, offset, content in members(data):
            if member in found:
                yield f"{member}: occurs twice"
            found[member] = offset, content
    except DataError as error:
        yield str(error)
    known = {shards.key[row]: row for row in rows}
    for key in sorted({member.rpartition(".")[0] for member in found} - known.keys()):
        yield f"{key}: not in the index"
    for key, row in known.items():
        yield from (f"{key}: {text}" for text in _sample(shards, key, int(row), found))


def _sample(shards: ShardSet, key: str, row: int, found: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    images = [member for member in (f"{key}.jpg", f"{key}.png") if member in found]
    if len(images) != 1 or f"{key}.json" not in found:
        have = ", ".join(sorted(m for m in (*images, f"{key}.json") if m in found)) or "nothing"
        yield f"expected one image and one json, found {have}"
        return
    offset, image = found[images[0]]
    if (offset, len(image)) != (shards.offset[row], shards.size[row]):
        yield "the image is not where the index says"
    elif hashlib.sha256(image).digest() != shards.sha256[row].tobytes():
        yield "sha256 of the image differs from the index"
    try:
        height, width = decode(image, name=images[0]).shape[:2]
        if (width, height) != tuple(shards.stored_wh[row]):
            yield f"the image has {width} x {height} px, the index says {shards.stored_wh[row].tolist()}"
    except DataError as error:
        yield str(error)
    try:
        if differ := _differing(json.loads(found[f"{key}.json"][1]), shards, row):
            yield f"json: {', '.join(differ)} not as in the index"
    except (ValueError, KeyError, TypeError):
        yield "json: not of this format"


def _differing(fields: Mapping[str, Any], shards: ShardSet, row: int) -> list[str]:
    """Fields of a person's json that say something else than the index."""
    expected = {name: np.asarray(getattr(shards, COLUMNS.get(name, name))[row]) for name in FIELDS}
    return [key for key, value in expected.items() if not np.array_equal(np.asarray(fields[key], value.dtype), value)]
