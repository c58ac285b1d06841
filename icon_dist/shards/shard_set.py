"""The shard format: plain WebDataset tars of person crops, an index beside them, a manifest written last.

::

    shard-00000.tar ...   KEY.jpg + KEY.json a person
    index.parquet         one row a person, in shard order: where the bytes are, box, keypoints, window
    truth.json.gz         COCO-shaped ground truth of the whole set, for scoring
    manifest.json         counts, skeleton, build settings, sha256 and bytes of every other file, and its own seal
    teacher-KEY.parquet   not of the set: what a teacher saw of its people (seen.py)

Everything here reads; ``pack.py`` writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.datasets import skeleton_from_dict
from icon_dist.datasets.annotation_file import MAX_BYTES as MAX_JSON
from icon_dist.datasets.annotation_file import parse
from icon_dist.errors import DataError, TooLargeError, shorten
from icon_dist.images.image import MAX_BYTES, MAX_PIXELS, check_image
from icon_dist.images.photo import Conversion, conversion_of
from icon_dist.shards.parquet import MOST_FOOTER, BadParquetError, unpacked
from icon_dist.storage import hashed_json, lock
from icon_dist.types import Skeleton

__all__ = ["FORMAT", "ShardSet", "check_image", "index_schema", "open_shards", "read_manifest", "read_truth"]

FORMAT = 1
MANIFEST, INDEX, TRUTH = "manifest.json", "index.parquet", "truth.json.gz"
BUILDING = "building.json"  # there as long as a build is unfinished
LEAST_BYTES = 2048  # of a person in a tar: two headers, a block of image and one of json
LONGEST_KEY = 100
KEY = re.compile(r"[A-Za-z0-9_-]+")
BUILD_COMMAND = "icon-dist shards build coco|mpii|crowdpose|custom --annotations FILE --images DIR --out"


@dataclass(frozen=True)
class ShardSet:
    """The index of a shard directory: one row a person, in shard order."""

    uri: str
    manifest: dict[str, Any]
    skeleton: Skeleton
    shard_names: tuple[str, ...]
    shard: NDArray[np.int32]  # [n] number of the tar in shard_names
    offset: NDArray[np.int64]  # [n] of the image bytes inside the tar
    size: NDArray[np.int64]  # [n] of the image bytes
    sha256: tuple[str, ...]  # [n] hex, of the image bytes
    key: tuple[str, ...]  # [n]
    instance: NDArray[np.int64]  # [n] person id, unique in the set
    image_id: NDArray[np.int64]  # [n]
    box: NDArray[np.float64]  # [n, 4] x, y, w, h; photo px, unpadded
    area: NDArray[np.float64]  # [n] for OKS, photo px^2
    score: NDArray[np.float64]  # [n] of the box; 1 for ground truth
    keypoints: NDArray[np.float32]  # [n, K, 3] x, y in photo px, raw v
    window: NDArray[np.float64]  # [n, 4] x0, y0, w, h of the stored part, photo px
    stored_wh: NDArray[np.int32]  # [n, 2] of the stored image; smaller than the window if it was scaled down
    photo_wh: NDArray[np.int32]  # [n, 2]

    def __len__(self) -> int:
        return len(self.key)

    @property
    def index_sha256(self) -> str:
        """Tells this set from all others."""
        digest: str = self.manifest["files"][INDEX]["sha256"]
        return digest

    @property
    def origin(self) -> dict[str, Any]:
        """What a model that learns from this set says of it."""
        return {key: self.manifest.get(key) for key in ("dataset", "split", "people", "licence")}

    @property
    def conversion(self) -> Conversion:
        """How the photos that the crops are cut from became pixels."""
        return conversion_of(self.manifest["settings"])

    def shard_uri(self, shard: int) -> str:
        """Where a tar lies, by its number."""
        return storage.join(self.uri, self.shard_names[shard])

    def to_stored(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Affine ``[n, 2, 3]``: photo px -> px of the stored image. Pixel centres sit on integers in both."""
        window = self.window[rows]
        zoom = self.stored_wh[rows] / window[:, 2:]
        matrix = np.zeros((len(zoom), 2, 3))
        matrix[:, [0, 1], [0, 1]] = zoom
        matrix[:, :, 2] = (0.5 - window[:, :2]) * zoom - 0.5
        return matrix


def row_bytes(joints: int) -> int:
    """More than a person takes in the index, unpacked."""
    return 1024 + 64 * joints


def index_schema(joints: int) -> pa.Schema:
    """Return the Arrow schema of ``index.parquet`` for instances of so many ``joints``."""

    def row(kind: pa.DataType, length: int) -> pa.DataType:
        return pa.list_(kind, length)

    return pa.schema(
        {
            "shard": pa.int32(),
            "offset": pa.int64(),
            "size": pa.int64(),
            "sha256": pa.string(),
            "key": pa.string(),
            "instance": pa.int64(),
            "image_id": pa.int64(),
            "box": row(pa.float64(), 4),
            "area": pa.float64(),
            "score": pa.float64(),
            "keypoints": row(pa.float32(), 3 * joints),
            "window": row(pa.float64(), 4),
            "stored_wh": row(pa.int32(), 2),
            "photo_wh": row(pa.int32(), 2),
        }
    )


def read_manifest(uri: str) -> dict[str, Any]:
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
        raise DataError(f"{uri}: no shards here ({MANIFEST} is missing); build them: {BUILD_COMMAND} {uri}") from None
    try:
        manifest = hashed_json.unsealed(raw)
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


def _verified(uri: str, name: str, manifest: dict[str, Any], *, most: int) -> bytes:
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


def read_truth(uri: str) -> dict[str, Any]:
    """Ground truth of the whole set, as ``Annotations.truth``."""
    truth: dict[str, Any] = parse(
        _verified(uri, TRUTH, read_manifest(uri), most=MAX_JSON), source=storage.join(uri, TRUTH)
    )
    return truth


def open_shards(uri: str, *, input_hw: tuple[int, int] | None = None, max_zoom: float | None = None) -> ShardSet:
    """The verified index of ``uri``; no tar is touched.

    ``input_hw`` (H, W) and ``max_zoom`` (largest enlargement of the box by augmentation, 1 + augment.scale) are what a
    run will ask of the crops: more than they were built for is refused, since it would blur or see false black borders.
    """
    uri = storage.absolute(uri)
    manifest = read_manifest(uri)
    try:
        skeleton = skeleton_from_dict(manifest["skeleton"], source=f"{storage.join(uri, MANIFEST)} skeleton")
        names = tuple(manifest["shards"])
        present = storage.sizes(uri)
        if missing := sorted(set(names) - set(present)):
            place = storage.join(uri, missing[0])
            raise DataError(f"{place}: missing ({len(missing)} of {len(names)} shards); copy again")
        room = sum(present[name] for name in names) // LEAST_BYTES
        most = (room + 1) * row_bytes(skeleton.num_joints) + MOST_FOOTER
        table = _read_index(uri, _verified(uri, INDEX, manifest, most=most), skeleton, room=room)
        _check_settings(uri, manifest, input_hw=input_hw, max_zoom=max_zoom)
        return _shard_set(uri, manifest, skeleton, names, table)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, pa.ArrowException) as error:
        why = shorten(f"{type(error).__name__}: {error}", 200)
        raise DataError(f"{uri}: manifest and index cannot be read ({why}); build the shards again") from None


def _read_index(uri: str, raw: bytes, skeleton: Skeleton, *, room: int) -> pa.Table:
    """The table, whose size is known before it is unpacked: a few kilobytes of parquet can say gigabytes.

    No more rows than people fit into the tars (``room``), no longer texts than are written.
    """
    place, joints = storage.join(uri, INDEX), skeleton.num_joints
    try:
        rows, size, values = unpacked(raw)
    except BadParquetError as error:
        raise DataError(f"{place}: {error}; build the shards again") from None
    if not pq.read_schema(pa.BufferReader(raw)).equals(index_schema(joints)):
        raise DataError(f"{place}: columns differ from the format of {joints} joints; build the shards again")
    if rows > room:
        raise DataError(f"{place}: {rows} rows, the shards have room for {room}; copy them or build them again")
    widths = {field.name: getattr(field.type, "list_size", 1) for field in index_schema(joints)}
    if size > (rows + 1) * row_bytes(joints) or any(held > rows * widths.get(name, 0) for name, held in values.items()):
        raise DataError(f"{place}: unpacks to more than {rows} people take; build the shards again")
    file = pq.ParquetFile(pa.BufferReader(raw), read_dictionary=["sha256", "key"])
    table = file.read()
    for name, longest in (("sha256", 64), ("key", LONGEST_KEY)):
        lengths = [pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in table[name].chunks]
        if max(lengths, default=0) > longest or table[name].null_count:
            raise DataError(f"{place} {name}: expected texts of up to {longest} letters; build the shards again")
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
    if wrong := next((key for key in table["key"].to_pylist() if not KEY.fullmatch(key)), None):
        raise DataError(f"{place} key={wrong!r}: expected letters, digits, '-' and '_'; build the shards again")
    return table


def _check_settings(
    uri: str, manifest: dict[str, Any], *, input_hw: tuple[int, int] | None, max_zoom: float | None
) -> None:
    settings = manifest["settings"]
    conversion_of(settings)
    if input_hw is not None:
        (height, width), limit = input_hw, settings["max_input"]
        asked = f"{uri} data.input={height}x{width}"
        if limit is not None and (height > limit[0] or width > limit[1]):
            fix = "build them again with a larger --max-input"
            raise DataError(f"{asked}: the shards are built for inputs up to {limit[0]}x{limit[1]}; {fix}")
        low, high = min(settings["aspects"]), max(settings["aspects"])
        if not low <= width / height <= high:
            fix = f"build them again with --max-input of the shape {height}:{width}"
            raise DataError(f"{asked}: the shards have margin for width/height {low:g} to {high:g}; {fix}")
    if max_zoom is not None and max_zoom > settings["zoom"] + 1e-9:
        fix = f"lower data.augment.scale to {settings['zoom'] - 1:.2f}"
        raise DataError(f"{uri} zoom={max_zoom:g}: the shards have margin for {settings['zoom']}; {fix}")


def _shard_set(
    uri: str, manifest: dict[str, Any], skeleton: Skeleton, names: Sequence[str], table: pa.Table
) -> ShardSet:
    place = storage.join(uri, INDEX)
    people, joints = len(table), skeleton.num_joints
    if people != manifest["people"]:
        raise DataError(f"{place}: {people} rows, but {MANIFEST} counts {manifest['people']}; build the shards again")

    def numbers(name: str, dtype: type, *shape: int) -> NDArray[Any]:
        """Return column ``name`` as an array [people, *shape]; DataError if a value is missing or not finite."""
        column = table[name].combine_chunks()
        flat = column.flatten() if shape else column
        if column.null_count or flat.null_count or not pc.all(pc.is_finite(flat)).as_py():
            raise DataError(f"{place} {name}: values that are missing or not finite; build the shards again")
        return np.array(np.from_dlpack(flat), dtype=dtype).reshape(people, *shape)  # to_numpy would import pandas

    shard, offset, size = numbers("shard", np.int32), numbers("offset", np.int64), numbers("size", np.int64)
    ends = np.array([manifest["files"][name]["bytes"] for name in names], dtype=np.int64)
    known = (shard >= 0) & (shard < len(names))
    inside = known & (offset >= 0) & (size > 0) & (size <= MAX_BYTES)
    inside &= offset + size <= ends[np.where(known, shard, 0)]
    stored = numbers("stored_wh", np.int32, 2)
    window = numbers("window", np.float64, 4)
    inside &= (stored > 0).all(1) & (window[:, 2:] > 0).all(1) & (stored.astype(np.int64).prod(1) <= MAX_PIXELS)
    if not inside.all():
        raise DataError(f"{place} row {np.argmin(inside)}: points outside its shard or the limits; build again")
    instance = numbers("instance", np.int64)
    if len(np.unique(instance)) != people:
        raise DataError(f"{place}: an instance id occurs twice; build the shards again")
    return ShardSet(
        uri=uri,
        manifest=manifest,
        skeleton=skeleton,
        shard_names=tuple(names),
        shard=shard,
        offset=offset,
        size=size,
        sha256=tuple(table["sha256"].to_pylist()),
        key=tuple(table["key"].to_pylist()),
        instance=instance,
        image_id=numbers("image_id", np.int64),
        box=numbers("box", np.float64, 4),
        area=numbers("area", np.float64),
        score=numbers("score", np.float64),
        keypoints=numbers("keypoints", np.float32, joints, 3),
        window=window,
        stored_wh=stored,
        photo_wh=numbers("photo_wh", np.int32, 2),
    )
