"""The shard format: plain WebDataset tars of person crops, an index beside them, a manifest written last.

::

    shard-00000.tar ...   KEY.jpg + KEY.json a person
    index.parquet         one row a person, in shard order: where the bytes are, box, keypoints, window
    truth.json.gz         COCO-shaped ground truth of the whole set, for scoring
    manifest.json         counts, skeleton, build settings, sha256 and bytes of every other file, and its own seal
    teacher-KEY.parquet   not of the set: what a teacher saw of its people (teacher_cache.py)

Everything here reads; ``writer.py`` writes, and ``manifest.py`` has what a manifest holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.datasets import skeleton_from_dict
from icon_dist.errors import DataError, shorten
from icon_dist.images.image import MAX_BYTES, MAX_PIXELS
from icon_dist.images.photo import Conversion, conversion_of
from icon_dist.shards.local_copies import place_of
from icon_dist.shards.manifest import INDEX, MANIFEST, ShardManifest, read_manifest, verified
from icon_dist.shards.parquet_size import MOST_FOOTER, BadParquetError, unpacked
from icon_dist.types import Origin, Skeleton

LEAST_BYTES = 2048  # of a person in a tar: two headers, a block of image and one of json
SHA256 = r"\A[0-9a-f]{64}\z"
LONGEST_KEY = 100
BATCH = 1 << 16  # rows of a column that are unpacked at once
KEY = r"\A[A-Za-z0-9_-]+\z"


class Texts:
    """A column of texts as Arrow has it: a Python object for each of a million rows would take ten times the memory."""

    def __init__(self, column: pa.StringArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: SupportsIndex) -> str:
        return str(self.column[int(row)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.column.to_pylist())


@dataclass(frozen=True)
class ShardSet:
    """The index of a shard directory: one row a person, in shard order."""

    uri: str
    manifest: ShardManifest
    skeleton: Skeleton
    shard_names: tuple[str, ...]
    shard: NDArray[np.int32]  # [n] number of the tar in shard_names
    offset: NDArray[np.int64]  # [n] of the image bytes inside the tar
    size: NDArray[np.int64]  # [n] of the image bytes
    sha256: NDArray[np.uint8]  # [n, 32] digest of the image bytes
    key: Texts  # [n]
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
        return self.manifest["files"][INDEX]["sha256"]

    @property
    def origin(self) -> Origin:
        """What a model that learns from this set says of it."""
        own = self.manifest
        return Origin(dataset=own["dataset"], split=own["split"], people=own["people"], licence=own.get("licence"))

    @property
    def conversion(self) -> Conversion:
        """How the photos that the crops are cut from became pixels."""
        return conversion_of(self.manifest["settings"])

    @property
    def parts(self) -> tuple[ShardSet, ...]:
        """The sets whose rows these are: this one; several of a union."""
        return (self,)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each part."""
        return np.cumsum([0, *map(len, self.parts)])[:-1]

    def shard_uri(self, shard: int) -> str:
        """Where a tar lies, by its number."""
        return storage.join(place_of(self.uri), self.shard_names[shard])

    def to_stored(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Affine ``[n, 2, 3]``: photo px -> px of the stored image. Pixel centers sit on integers in both."""
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


def open_shards(uri: str, *, input_hw: tuple[int, int] | None = None, max_zoom: float | None = None) -> ShardSet:
    """The verified index of ``uri``; no tar is touched.

    ``input_hw`` (H, W) and ``max_zoom`` (largest enlargement of the box by augmentation, 1 + augment.scale) are what a
    run will ask of the crops: more than they were built for is refused, since it would blur or see false black borders.
    """
    uri = storage.absolute(uri)
    place = place_of(uri)
    manifest = read_manifest(place)
    try:
        skeleton = skeleton_from_dict(manifest["skeleton"], source=f"{storage.join(place, MANIFEST)} skeleton")
        names = tuple(manifest["shards"])
        present = storage.sizes(place)
        if missing := sorted(set(names) - set(present)):
            text = f"missing ({len(missing)} of {len(names)} shards); copy again"
            raise DataError(f"{storage.join(place, missing[0])}: {text}")
        room = sum(present[name] for name in names) // LEAST_BYTES
        most = (room + 1) * row_bytes(skeleton.num_joints) + MOST_FOOTER
        columns = read_index(place, verified(place, INDEX, manifest, most=most), skeleton, room=room)
        _check_settings(uri, manifest, input_hw=input_hw, max_zoom=max_zoom)
        return _shard_set(uri, manifest, skeleton, names, columns)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, pa.ArrowException) as error:
        why = shorten(f"{type(error).__name__}: {error}", 200)
        raise DataError(f"{uri}: manifest and index cannot be read ({why}); build the shards again") from None


def read_index(uri: str, raw: bytes, skeleton: Skeleton, *, room: int) -> dict[str, NDArray[Any] | Texts]:
    """Read the columns, whose size is known before they are unpacked: a few kilobytes of parquet can say gigabytes.

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
    index = pq.ParquetFile(pa.BufferReader(raw), read_dictionary=["sha256", "key"])
    texts: dict[str, NDArray[Any] | Texts] = {"sha256": _digests(place, index), "key": Texts(_keys(place, index))}
    pa.default_memory_pool().release_unused()  # what the texts took beside themselves
    numbers = {name: _numbers(place, index, name, width) for name, width in widths.items() if name not in texts}
    pa.default_memory_pool().release_unused()
    return {**texts, **numbers}


def _check_settings(
    uri: str, manifest: ShardManifest, *, input_hw: tuple[int, int] | None, max_zoom: float | None
) -> None:
    settings = manifest["settings"]
    conversion_of(settings)
    if input_hw is not None:
        (height, width), limit = input_hw, settings["max_input"]
        request = f"{uri} data.input={height}x{width}"
        if limit is not None and (height > limit[0] or width > limit[1]):
            fix = "build them again with a larger --max-input"
            raise DataError(f"{request}: the shards are built for inputs up to {limit[0]}x{limit[1]}; {fix}")
        low, high = min(settings["aspects"]), max(settings["aspects"])
        if not low <= width / height <= high:
            fix = f"build them again with --max-input of the shape {height}:{width}"
            raise DataError(f"{request}: the shards have margin for width/height {low:g} to {high:g}; {fix}")
    if max_zoom is not None and max_zoom > settings["zoom"] + 1e-9:
        fix = f"lower data.augment.scale to {settings['zoom'] - 1:.2f}"
        raise DataError(f"{uri} zoom={max_zoom:g}: the shards have margin for {settings['zoom']}; {fix}")


def _shard_set(
    uri: str, manifest: ShardManifest, skeleton: Skeleton, names: Sequence[str], columns: dict[str, Any]
) -> ShardSet:
    place = storage.join(uri, INDEX)
    people = len(columns["key"])
    if people != manifest["people"]:
        raise DataError(f"{place}: {people} rows, but {MANIFEST} counts {manifest['people']}; build the shards again")
    columns["keypoints"] = columns["keypoints"].reshape(people, skeleton.num_joints, 3)
    shards = ShardSet(uri=uri, manifest=manifest, skeleton=skeleton, shard_names=tuple(names), **columns)
    shard, size, stored = shards.shard, shards.size, shards.stored_wh
    ends = np.array([manifest["files"][name]["bytes"] for name in names], dtype=np.int64)
    known = (shard >= 0) & (shard < len(names))
    inside = known & (shards.offset >= 0) & (size > 0) & (size <= MAX_BYTES)
    inside &= shards.offset + size <= ends[np.where(known, shard, 0)]
    inside &= (stored > 0).all(1) & (shards.window[:, 2:] > 0).all(1)
    inside &= stored.astype(np.int64).prod(1) <= MAX_PIXELS
    if not inside.all():
        raise DataError(f"{place} row {np.argmin(inside)}: points outside its shard or the limits; build again")
    ordered = np.sort(shards.instance)
    if (ordered[1:] == ordered[:-1]).any():
        raise DataError(f"{place}: an instance id occurs twice; build the shards again")
    return shards


def _numbers(place: str, index: pq.ParquetFile, name: str, width: int) -> NDArray[Any]:
    """Column ``name`` as an array ``[n]`` or ``[n, width]``; DataError if a value is missing or not finite.

    Some rows at a time: a whole column of lists takes three times the memory and the time.
    """
    kind = index.schema_arrow.field(name).type
    shape, kind = ((), kind) if width == 1 else ((width,), kind.value_type)
    found = np.empty((index.metadata.num_rows, *shape), kind.to_pandas_dtype())
    begin = 0
    for batch in index.iter_batches(BATCH, columns=[name], use_threads=False):
        column = batch.column(0)
        flat = column.flatten() if shape else column
        if column.null_count or flat.null_count or not pc.all(pc.is_finite(flat)).as_py():
            raise DataError(f"{place} {name}: values that are missing or not finite; build the shards again")
        found[begin : begin + len(column)] = np.from_dlpack(flat).reshape(-1, *shape)  # to_numpy would import pandas
        begin += len(column)
    if begin != len(found):
        raise DataError(f"{place} {name}: {begin} of {len(found)} values; build the shards again")
    return found


def _texts(place: str, index: pq.ParquetFile, name: str, *, longest: int) -> pa.StringArray:
    """A column of texts; DataError where one is missing or too long, before a text that many rows have is repeated."""
    column = index.read(columns=[name])[name]
    lengths = [pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in column.chunks]
    if max(lengths, default=0) > longest or column.null_count:
        raise DataError(f"{place} {name}: expected texts of up to {longest} letters; build the shards again")
    return column.cast(pa.string()).combine_chunks()


def _keys(place: str, index: pq.ParquetFile) -> pa.StringArray:
    keys = _texts(place, index, "key", longest=LONGEST_KEY)
    fit = pc.match_substring_regex(keys, KEY)
    if not pc.all(fit).as_py():
        wrong = keys[pc.index(fit, False).as_py()].as_py()
        raise DataError(f"{place} key={wrong!r}: expected letters, digits, '-' and '_'; build the shards again")
    return keys


def _digests(place: str, index: pq.ParquetFile) -> NDArray[np.uint8]:
    """``[n, 32]``: what the hex digits of the column say."""
    texts = _texts(place, index, "sha256", longest=64)
    if not pc.all(pc.match_substring_regex(texts, SHA256)).as_py():
        raise DataError(f"{place} sha256: expected 64 hex digits; build the shards again")
    first, letters = 64 * texts.offset, texts.buffers()[2]
    found = bytes.fromhex(str(letters[first : first + 64 * len(texts)], "ascii"))
    return np.frombuffer(found, np.uint8).reshape(len(texts), 32)
