"""The cache of decoded crops (``data.cache_mb``) in memory that all loader processes of a rank share.

Decoded crops in the memory of a GPU are in ``gpu_cache.py``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet

U8 = NDArray[np.uint8]


def cached_ends(stored_wh: NDArray[np.int32], *, budget: int) -> NDArray[np.int64]:
    """Where decoded images of the first rows end one after the other, bytes: of as many as fit."""
    end = np.cumsum(stored_wh.astype(np.int64).prod(1) * 4)
    return end[end <= budget]


class CropCache:
    """Decoded images of the first rows, as many as fit; memory that forked loader processes share.

    The builder has shuffled people over shards, so the first rows are any rows. No lock: whoever comes first writes,
    two writers write the same bytes, and an image is used only after its flag is up.
    """

    def __init__(self, stored_wh: NDArray[np.int32], *, budget: int) -> None:
        self._end = cached_ends(stored_wh, budget=budget)
        self._start = np.append(0, self._end)
        self._wh = stored_wh
        # An anonymous map takes memory page by page when touched, and is not subject to the size of /dev/shm.
        self._pixels: U8 = np.frombuffer(mmap.mmap(-1, max(1, int(self._end[-1]) if len(self) else 0)), np.uint8)
        self._filled: U8 = np.frombuffer(mmap.mmap(-1, max(1, len(self))), np.uint8)

    def __len__(self) -> int:
        return len(self._end)

    def holds(self, row: int) -> bool:
        """Whether the image of this row is here, decoded."""
        return row < len(self) and bool(self._filled[row])

    def place(self, row: int) -> U8 | None:
        """Where the image of this row belongs, ``[h, w, 4]``."""
        if row >= len(self):
            return None
        width, height = self._wh[row]
        return self._pixels[self._start[row] : self._end[row]].reshape(height, width, 4)

    def mark(self, row: int) -> None:
        """Say that the image of this row is written whole; nothing happens where it has no place."""
        if row < len(self):
            self._filled[row] = 1


class SharedCache:
    """The cache of the last shard set, for runs of one process that follow each other: the trials of a sweep."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str, int], CropCache] | None = None

    def of(self, shards: ShardSet, budget: int) -> CropCache:
        """The cache of these shards, filled as far as earlier runs have filled it."""
        key = (shards.uri, shards.index_sha256, budget)
        if self._last is None or self._last[0] != key:
            self._last = None  # before the next one takes its memory
            self._last = key, CropCache(shards.stored_wh, budget=budget)
        return self._last[1]


_shared: ContextVar[SharedCache | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(cache: SharedCache) -> Iterator[None]:
    """Runs within the block take their caches from ``cache``."""
    token = _shared.set(cache)
    try:
        yield
    finally:
        _shared.reset(token)


def cache_of(people: People, budget: int) -> CropCache:
    """The cache of this run, or within :func:`sharing` the one that was filled before."""
    shared = _shared.get()
    if shared is None or not isinstance(people, ShardSet):
        return CropCache(people.stored_wh, budget=budget)
    return shared.of(people, budget)
