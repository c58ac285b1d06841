"""The JPEG of a crop, as near to its photo as a JPEG can be.

A JPEG photo is rounded once, by the tables in its header. Cut on the grid of its blocks and divided by the same tables,
its coefficients are whole numbers again: encoding rounds nothing that was not round, and takes the bytes that the photo
took. What is left of an error comes from colors that were clipped on the way.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icon_dist.images.image import jpeg_frame, jpeg_segments

Window = tuple[int, int, int, int]  # x0, y0, w, h
BLOCK = 8  # px
SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}  # luma samples per chroma sample across, down: Pillow's number
# Where the numbers of a table stand: JPEG writes them along the diagonals, to and fro.
DIAGONAL = sorted(range(BLOCK**2), key=lambda k: (k // 8 + k % 8, k // 8 if (k // 8 + k % 8) % 2 else k % 8))


@dataclass(frozen=True)
class Quantization:
    """How the blocks of a photo were rounded."""

    luma: tuple[int, ...]  # 64 numbers, row by row
    chroma: tuple[int, ...]
    sampling: tuple[int, int]  # luma samples per chroma sample, across and down

    def aligned(self, part: Window, wh: tuple[int, int]) -> Window:
        """The smallest window around ``part`` in a photo of size ``wh`` that begins and ends between blocks."""
        (x, y, w, h), (across, down) = part, self.sampling
        x0, y0 = x - x % (BLOCK * across), y - y % (BLOCK * down)
        x1 = min(-(-(x + w) // (BLOCK * across)) * BLOCK * across, wh[0])
        y1 = min(-(-(y + h) // (BLOCK * down)) * BLOCK * down, wh[1])
        return x0, y0, x1 - x0, y1 - y0


def quantization(photo: bytes) -> Quantization | None:
    """Of a gray or YCbCr JPEG; None of anything else, or of a layout that cannot be written again."""
    frame, tables = jpeg_frame(photo), _tables(photo)
    if frame is None or frame[0] != 8 or len(frame) < 6 + 3 * frame[5] or not _known_colors(photo, frame):
        return None
    inks = [frame[at : at + 3] for at in range(6, 6 + 3 * frame[5], 3)]  # each: id, sampling, table
    luma, *chroma = [(ink[1] >> 4, ink[1] & 15, tables.get(ink[2])) for ink in inks]
    if not chroma:  # becomes a color JPEG, which every reader takes
        return Quantization(luma[2], luma[2], (1, 1)) if luma[2] else None
    if chroma[0] != chroma[1] or 0 in chroma[0][:2] or luma[0] % chroma[0][0] or luma[1] % chroma[0][1]:
        return None
    sampling = luma[0] // chroma[0][0], luma[1] // chroma[0][1]
    if sampling not in SUBSAMPLING or luma[2] is None or chroma[0][2] is None:
        return None
    return Quantization(luma[2], chroma[0][2], sampling)


def _known_colors(photo: bytes, frame: bytes) -> bool:
    """Gray or YCbCr. Three inks are RGB if Adobe's marker says that nothing was transformed, or their names do."""
    adobe = next((body for marker, body in jpeg_segments(photo) if marker == 0xEE and body[:5] == b"Adobe"), b"")
    names = bytes(frame[6:15:3])
    return frame[5] == 1 or (frame[5] == 3 and names != b"RGB" and (len(adobe) < 12 or adobe[11] == 1))


def _tables(photo: bytes) -> dict[int, tuple[int, ...]]:
    """Tables of a header by number, those that a baseline JPEG can hold."""
    found = {}
    for body in [body for marker, body in jpeg_segments(photo) if marker == 0xDB]:
        at = 0
        while at < len(body):
            size = 2 if body[at] >> 4 else 1
            numbers = np.frombuffer(body[at + 1 : at + 1 + 64 * size].ljust(64 * size, b"\0"), f">u{size}")
            if numbers.min() >= 1 and numbers.max() <= 255:
                found[body[at] & 15] = tuple(numbers[np.argsort(DIAGONAL)].tolist())
            at += 1 + 64 * size
    return found


def encode_alike(bgr: NDArray[np.uint8], rounding: Quantization) -> bytes:
    """``bgr [h, w, 3]`` rounded as its photo was. Its chroma must be that of the photo's blocks, not smoothed."""
    sink = io.BytesIO()
    tables = [list(rounding.luma), list(rounding.chroma)]
    image = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
    image.save(sink, "JPEG", qtables=tables, subsampling=SUBSAMPLING[rounding.sampling])
    return sink.getvalue()


def encode(bgr: NDArray[np.uint8], quality: int) -> bytes:
    """``bgr [h, w, 3]`` of which no JPEG is known, with chroma at full resolution."""
    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    done, encoded = cv2.imencode(".jpg", bgr, settings)
    assert done
    return bytes(encoded.tobytes())
