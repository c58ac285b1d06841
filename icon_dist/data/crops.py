"""Rows to pixels: decode the stored image, warp it once to the network input. What cannot be read is named.

Decoding is exact (no fastdct, no fastupsample): into a reused buffer those save 4 to 8 % and cost 1.4 gray levels.
Images are decoded with a fourth, unused channel: OpenCV warps those to the same bits in less than half the time.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from icon_dist.data.crop_cache import cache_of
from icon_dist.errors import DataError
from icon_dist.images import photo
from icon_dist.images.image import decode, many_scans
from icon_dist.images.jpeg import decode_jpeg
from icon_dist.images.photo import Conversion
from icon_dist.shards.reader import People, Photos, reader_of

U8 = NDArray[np.uint8]
Bad = tuple[int, str]  # a place that stays empty, and why


def cut(image: U8, matrix: NDArray[np.float64], *, out: U8) -> None:
    """Fill the input ``out [H, W, C]`` from ``image [h, w, C]``; ``matrix [2, 3]`` maps input px -> image px."""
    cv2.warpAffine(
        image,
        matrix,
        out.shape[1::-1],
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )


class Crops:
    """Cuts network inputs; the state is a scratch image and the cache."""

    def __init__(
        self, people: People, *, input_hw: tuple[int, int], cache_bytes: int = 0, skip_bad: bool = False
    ) -> None:
        """``skip_bad``: instances whose image is bad are returned by ``fill`` instead of raised."""
        self.input_hw = input_hw
        self._skip_bad = skip_bad
        self.reader = reader_of(people)
        self.cache = cache_of(people, cache_bytes) if cache_bytes else None
        self._stored_wh = people.stored_wh
        self._conversion = people.conversion if isinstance(people, Photos) else None
        self._scratch: U8 = np.empty(0, dtype=np.uint8)
        self._four: U8 = np.empty((*input_hw, 4), dtype=np.uint8)  # an input before its last channel is dropped
        self._last: tuple[int, U8] | None = None  # image number and its pixels, for several boxes on one photo
        self.reading = np.full(1, -1, dtype=np.int64)  # the row that is being read, for whoever waits for it

    def fill(
        self, out: U8, *, places: NDArray[np.int64], rows: NDArray[np.int64], sampling: NDArray[np.float64]
    ) -> list[Bad]:
        """Write the input of ``rows[i]`` to ``out[places[i]]``; ``sampling [k, 2, 3]`` maps input px -> stored px."""
        bad: list[Bad] = []
        for place, row, matrix in zip(places.tolist(), rows.tolist(), sampling, strict=True):
            try:
                image = self.image(row)
            except DataError as error:
                if not self._skip_bad:
                    raise
                bad.append((place, str(error)))
                continue
            cut(image, matrix, out=self._four)
            cv2.cvtColor(self._four, cv2.COLOR_RGBA2RGB, dst=out[place])
        return bad

    def uncached(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of ``rows`` that have to be read."""
        cache = self.cache
        return rows if cache is None else np.array([r for r in rows.tolist() if not cache.holds(r)], dtype=np.int64)

    def image(self, row: int) -> U8:
        """The stored image ``[h, w, 4]``, RGB and an unused channel; valid until the next one. DataError where bad."""
        place = None
        if self.cache is not None:
            place = self.cache.place(row)
            if place is not None and self.cache.holds(row):
                return place
        number = self.reader.image(row)
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        self._last = None
        self.reading[0] = row
        pixels = self._photo(row, self._conversion) if self._conversion else self._crop(row, place)
        if place is None:
            self._last = number, pixels
        elif self.cache is not None:
            self.cache.mark(row)
        return pixels

    def _photo(self, row: int, conversion: Conversion) -> U8:
        """A whole photo, as the shards of the set were made from it."""
        name = self.reader.name(row)
        bgr = photo.decode(self.reader.read(row), name=name, conversion=conversion)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA), np.uint8)

    def _crop(self, row: int, place: U8 | None) -> U8:
        data = self.reader.read(row)
        width, height = map(int, self._stored_wh[row])
        pixels = self._space(height, width) if place is None else place
        if not _decode_plain(data, pixels):
            _decode_any(data, pixels, name=self.reader.name(row))
        return pixels

    def _space(self, height: int, width: int) -> U8:
        size = height * width * 4
        if self._scratch.size < size:
            self._scratch = np.empty(size, dtype=np.uint8)
        return self._scratch[:size].reshape(height, width, 4)


def _decode_plain(data: bytes, out: U8) -> bool:
    """A sound RGB JPEG of the size of ``out [h, w, 4]``; False for anything else."""
    if data[:3] != b"\xff\xd8\xff" or many_scans(data):
        return False
    try:
        return decode_jpeg(data, colorspace="RGBX", buffer=out).shape == out.shape
    except ValueError:
        return False


def _decode_any(data: bytes, out: U8, *, name: str) -> None:
    """PNG, JPEGs of other inks, and the reason why a file is of no use."""
    bgr = decode(data, name=name)
    if bgr.shape[:2] != out.shape[:2]:
        found, expected = (f"{shape[1]} x {shape[0]} px" for shape in (bgr.shape, out.shape))
        raise DataError(f"{name}: the image is {found}, the index says {expected}; build the shards again")
    cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA, dst=out)
