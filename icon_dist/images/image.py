"""Image files as bytes: what the header says before anything is decoded, and decoding itself."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from numpy.typing import NDArray

from icon_dist.errors import DataError
from icon_dist.images.jpeg import decode_jpeg

MAX_BYTES = 64 << 20  # of one file
MAX_PIXELS = 50_000_000  # of one image
MAX_SCANS = 100  # of a JPEG; cameras and editors write 10, and thousands of them in a small file take minutes to decode
NO_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}  # markers that stand alone, none of which belongs into a header
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}  # frames whose scans can be many and empty
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file is said by us, once


def check_image(data: bytes, *, name: str) -> tuple[int, int]:
    """(width, height) from the header of a JPEG or PNG; anything else, or anything too large, is refused undecoded."""
    wh = jpeg_size(data) or png_size(data)
    if wh is None:
        raise DataError(f"{name}: not a JPEG or PNG image; replace the file")
    check_limits(data, wh, name=name)
    return wh


def check_limits(data: bytes, wh: tuple[int, int], *, name: str) -> None:
    """Refuse what would take too long or too much memory to decode."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: more than {MAX_BYTES} bytes; store it smaller")
    if min(wh) < 1:
        raise DataError(f"{name}: an image of {wh[0]} x {wh[1]} px; replace the file")
    if wh[0] * wh[1] > MAX_PIXELS:
        raise DataError(f"{name}: {wh[0]} x {wh[1]} px, more than {MAX_PIXELS} px; store it smaller")
    if many_scans(data):
        raise DataError(f"{name}: a JPEG of more than {MAX_SCANS} scans; save it again as an ordinary JPEG")


def many_scans(data: bytes) -> bool:
    """True for a progressive JPEG of more scans than anybody needs."""
    progressive = any(marker in PROGRESSIVE for marker, _ in jpeg_segments(data))
    return progressive and data.count(b"\xff\xda") > MAX_SCANS  # in the coded pixels 0xFF is followed by 0


def png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in px as the header of a PNG says; None if it has none."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """(marker, payload) of the header segments up to the first scan; [] if it is no JPEG or its header is broken."""
    segments, at = [], 2
    if data[:2] != b"\xff\xd8":
        return []
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in NO_LENGTH:  # a decoder would go on elsewhere, and could find another size there
            return []
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(data):
            return []
        segments.append((marker, data[at + 4 : at + 2 + length]))
        if marker == 0xDA:
            return segments
        at += 2 + length
    return []


def jpeg_frame(data: bytes) -> bytes | None:
    """The frame header of a JPEG: precision, height, width, number of inks, sampling; None unless there is one."""
    frames = [
        body for marker, body in jpeg_segments(data) if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
    ]
    return frames[0] if len(frames) == 1 and len(frames[0]) >= 6 else None


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in px as the header of a JPEG says; None unless it has exactly one frame header."""
    if (frame := jpeg_frame(data)) is None:
        return None
    height, width = struct.unpack(">HH", frame[1:5])
    return width, height


def decode(data: bytes, *, name: str) -> NDArray[np.uint8]:
    """BGR pixels, EXIF orientation ignored. A cut-off file is refused, where cv2 would fill up with gray."""
    check_image(data, name=name)
    if data[:3] == b"\xff\xd8\xff":
        try:
            return decode_jpeg(data, colorspace="BGR")
        except ValueError as error:
            if "remature end" in str(error):
                raise DataError(f"{name}: the JPEG is cut off; replace the file") from None
    # Gray-ink JPEGs, harmless JPEG warnings, PNG
    photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if photo is None:
        raise DataError(f"{name}: cannot be decoded; replace the file")
    return np.asarray(photo, np.uint8)


def plain_jpeg(data: bytes) -> bool:
    """A baseline color JPEG without EXIF or an Adobe transform: every decoder reads the same pixels from it."""
    segments = dict(jpeg_segments(data))
    return 0xC0 in segments and segments[0xC0][5:6] == b"\x03" and not {0xE1, 0xEE} & segments.keys()
