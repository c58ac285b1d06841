"""Encoded images by row: out of tar shards by saved offset, or whole photos; local or ``s3://``.

A reader holds no open handle before its first use, so it can be built once and used after a fork.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import DataError
from icon_dist.images import photo
from icon_dist.images.photo import AS_STORED, Conversion
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Instance, Skeleton

OPEN_FILES = 256  # shards of which a process keeps the descriptor
THREADS = 4  # ranged reads under way at once in one process
GAP = 1 << 16  # bytes between two crops that are read along rather than asked for separately
RUN = 1 << 22  # bytes of a shard after which a new ranged read begins

I64 = NDArray[np.int64]


class ShardReader:
    """Crops of tar shards; from S3 in ranged reads of neighboring crops, by background threads."""

    def __init__(self, shards: ShardSet) -> None:
        self._remote = np.array([storage.is_remote(shards.shard_uri(n)) for n in range(len(shards.shard_names))])
        self.remote = bool(self._remote.any())
        self._shards = shards
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> file descriptor
        self._ahead: dict[int, tuple[Future[bytes], int]] = {}  # row -> a ranged read, and where it starts
        self._threads: ThreadPoolExecutor | None = None

    def image(self, row: int) -> int:
        """Rows with the same number are cut from the same image."""
        return row

    def name(self, row: int) -> str:
        """For messages."""
        return f"{self._shards.shard_uri(int(self._shards.shard[row]))} key={self._shards.key[row]}"

    def read(self, row: int) -> bytes:
        """Return the encoded image of ``row``, checked against the sha256 of the index.

        Raises DataError where the shard is missing, cut or damaged; from S3, what differs is read once more before.
        """
        shard, start, size = int(self._shards.shard[row]), int(self._shards.offset[row]), int(self._shards.size[row])
        try:
            if self._remote[shard]:
                if row not in self._ahead:
                    self.prefetch(np.array([row], dtype=np.int64))
                run, origin = self._ahead.pop(row)
                data = run.result()[start - origin : start - origin + size]
                if not self._intact(row, data):  # a body can arrive corrupted
                    data = storage.read(self._shards.shard_uri(shard), start, size)
            else:
                data = os.pread(self._file(shard), size, start)
        except FileNotFoundError:
            raise DataError(
                f"{self._shards.shard_uri(shard)}: the shard is missing; build or copy the shards again"
            ) from None
        except OSError as error:
            raise DataError(f"{self.name(row)}: {error.strerror}; copy the shards to a disk that can be read") from None
        if len(data) != size:
            raise DataError(
                f"{self.name(row)}: {len(data)} of {size} bytes, the shard is cut; build or copy the shards again"
            )
        if not self._intact(row, data):
            raise DataError(f"{self.name(row)}: sha256 differs from the index; build or copy the shards again")
        return data

    def _intact(self, row: int, data: bytes) -> bool:
        """A flipped bit decodes to other pixels without a word. Hashing is 2 to 3 % of the time that a sample takes."""
        return bool(hashlib.sha256(data).digest() == self._shards.sha256[row].tobytes())

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) == OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(storage.absolute(self._shards.shard_uri(shard)), os.O_RDONLY | os.O_NONBLOCK)
        return self._files[shard]

    def prefetch(self, rows: I64) -> None:
        """Begin to read these; without effect on local files."""
        rows = rows[self._remote[self._shards.shard[rows]]]
        rows = np.array([row for row in rows.tolist() if row not in self._ahead], dtype=np.int64)
        if not len(rows):
            return
        columns = self._shards
        rows = rows[np.lexsort((columns.offset[rows], columns.shard[rows]))]
        shard, start, end = columns.shard[rows], columns.offset[rows], columns.offset[rows] + columns.size[rows]
        apart = (np.diff(shard) != 0) | (start[1:] - end[:-1] > GAP) | (np.diff(start // RUN) != 0)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(apart) + 1):
            first, last = run[0], run[-1]
            begin, size = int(start[first]), int(end[last] - start[first])
            self._ahead.update(dict.fromkeys(rows[run].tolist(), (self._submit(int(shard[first]), begin, size), begin)))

    def _submit(self, shard: int, start: int, size: int) -> Future[bytes]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "shard-read")
            # alone, because it opens the connection: several threads at once would each open one, slowly
            wait([first := self._threads.submit(storage.read, self._shards.shard_uri(shard), start, size)])
            return first
        return self._threads.submit(storage.read, self._shards.shard_uri(shard), start, size)


@dataclass(frozen=True)
class Photos:
    """Boxes on whole photos, such as a detector's: the image that is read is the photo itself."""

    uri: str  # folder of the images
    files: tuple[str, ...]  # [n] relative to it
    skeleton: Skeleton
    instance: I64
    image_id: I64
    box: NDArray[np.float64]
    score: NDArray[np.float64]
    keypoints: NDArray[np.float32]
    stored_wh: NDArray[np.int32]  # 0: known when decoded
    conversion: Conversion

    def __len__(self) -> int:
        return len(self.files)

    def to_stored(self, rows: I64) -> NDArray[np.float64]:
        """Return the transforms [n, 2, 3] from image px to px of the image that is read.

        All are the identity, because whole images are read.
        """
        return np.tile(np.eye(2, 3), (len(rows), 1, 1))


def photo_source(
    uri: str, people: Sequence[Instance], *, skeleton: Skeleton, conversion: Conversion = AS_STORED
) -> Photos:
    """``people``, such as a detector's boxes, on the photos below the folder ``uri``, photo by photo.

    ``conversion`` says what pixels the photos have, as for the shards of the same set.
    """
    people = sorted(people, key=lambda p: (p.image_id, p.id))
    return Photos(
        uri=uri,
        files=tuple(p.file for p in people),
        skeleton=skeleton,
        instance=np.array([p.id for p in people], dtype=np.int64),
        image_id=np.array([p.image_id for p in people], dtype=np.int64),
        box=np.array([p.box for p in people], dtype=np.float64).reshape(-1, 4),
        score=np.array([p.score for p in people], dtype=np.float64),
        keypoints=np.array([p.keypoints for p in people], dtype=np.float32).reshape(-1, skeleton.num_joints, 3),
        stored_wh=np.zeros((len(people), 2), dtype=np.int32),
        conversion=conversion,
    )


class PhotoReader:
    """Whole files."""

    def __init__(self, photos: Photos) -> None:
        self.remote = storage.is_remote(photos.uri)
        self._photos = photos
        numbers: dict[str, int] = {}
        self._image = [numbers.setdefault(file, len(numbers)) for file in photos.files]
        self._ahead: dict[int, Future[bytes]] = {}  # image -> a read under way
        self._threads: ThreadPoolExecutor | None = None

    def image(self, row: int) -> int:
        """Return the number of the image that ``row`` is on; rows with the same number share one image."""
        return self._image[row]

    def name(self, row: int) -> str:
        """Return the path or s3:// URI of the image of ``row``."""
        return storage.join(self._photos.uri, self._photos.files[row])

    def read(self, row: int) -> bytes:
        """Return the bytes of the image file of ``row``; raises DataError if it is missing."""
        under_way = self._ahead.pop(self._image[row], None)
        try:
            return under_way.result() if under_way else photo.read(self.name(row))
        except FileNotFoundError:
            raise DataError(f"{self.name(row)}: no such image; check the images folder") from None

    def prefetch(self, rows: I64) -> None:
        """Begin to read the images of these rows in background threads; without effect on local files."""
        if not self.remote or not len(rows):
            return
        self._threads = self._threads or ThreadPoolExecutor(THREADS, "photo-read")
        for row in map(int, rows):
            if self._image[row] not in self._ahead:
                self._ahead[self._image[row]] = self._threads.submit(photo.read, self.name(row))


People = ShardSet | Photos  # both: skeleton, instance, box, keypoints, stored_wh, to_stored(rows), one row a person


def rows_of(people: People, instance: I64) -> I64:
    """Rows of ``people`` whose ids are ``instance``, one for each."""
    order = np.argsort(people.instance)
    found: I64 = order[np.searchsorted(people.instance, instance, sorter=order)]
    return found


Reader = ShardReader | PhotoReader  # both: remote, read(row), prefetch(rows), image(row), name(row)


def reader_of(people: People) -> Reader:
    """Return the reader of the encoded images that the instances are on: whole image files, or crops in shards."""
    return PhotoReader(people) if isinstance(people, Photos) else ShardReader(people)
