"""Photo files as people have them: what the header says, and 8-bit upright or stored pixels.

JPEG, PNG, WebP, BMP and TIFF are read. Sizes and kinds are judged by the header before anything is decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import DataError, needed_for
from icon_dist.images.image import MAX_BYTES, check_limits, jpeg_frame, jpeg_segments, jpeg_size
from icon_dist.images.no_photo import what_else

ORIENTATION, WIDTH, HEIGHT, BITS, COLORS, ALPHA, SUBFILE = 274, 256, 257, 258, 262, 338, 254  # tags of TIFF and EXIF
WHITE_IS_0 = 0  # of COLORS
PART = 1 | 4  # what a page of a TIFF is for another one: a smaller copy or a mask
PADDING = 16  # stray bytes behind the last scan of a JPEG whose pixels are complete, as some cameras leave them
FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras write into photos of 16 bits a channel
Exif = Literal["ignore", "apply"]


@dataclass(frozen=True)
class Conversion:
    """How the photos of a set become 8-bit pixels: one rule for all, kept in the manifest."""

    exif: Exif = "ignore"  # apply: pixels are turned as EXIF asks; ignore: pixels as they are stored
    turned: int = 0  # photos for which that makes a difference
    bits: int = 16  # of the values in photos of 16 bits a channel; the upper 8 of them are used


AS_STORED = Conversion()


def conversion_of(settings: Mapping[str, Any]) -> Conversion:
    """What the ``settings`` of a manifest say of the photos; ValueError or TypeError if that is no sense."""
    found = Conversion(**settings.get("photos", {}))
    if found.exif not in ("ignore", "apply") or not 8 <= found.bits <= 16:
        raise ValueError(f"photos={found}")
    return found


@dataclass(frozen=True)
class Header:
    """What the header of an image file says: kind, size (width, height) in px as stored, and EXIF orientation."""

    kind: str  # JPEG | PNG | WebP | BMP | TIFF
    stored_wh: tuple[int, int]
    orientation: int  # of EXIF, 1 .. 8; 1 = as stored

    def wh(self, exif: Exif) -> tuple[int, int]:
        """Size of the pixels that :func:`decode` returns."""
        width, height = self.stored_wh
        return (height, width) if exif == "apply" and self.orientation >= 5 else (width, height)


def read(place: str) -> bytes:
    """The bytes of a photo, or a few too many of a file that is too large for one."""
    return storage.read(place, 0, MAX_BYTES + 1)


def is_photo(head: bytes) -> bool:
    """Whether a file begins like one that :func:`header` knows."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
    return head.startswith(starts) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def header(data: bytes, *, name: str) -> Header:
    """What a photo says of itself. What is no photo, or too large, is refused undecoded, with the likely cause."""
    if data[:3] == b"\xff\xd8\xff":
        if (wh := jpeg_size(data)) is None:
            raise DataError(f"{name}: the header of the JPEG is cut off or damaged; replace the file")
        marked = (body for marker, body in jpeg_segments(data) if marker == 0xE1 and body[:6] == b"Exif\0\0")
        found = Header("JPEG", wh, _exif(next(marked, b"")[6:]))
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        found = _png(data, name=name)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = _webp(data, name=name)
    elif data[:2] == b"BM" and len(data) >= 26:
        found = Header("BMP", _bmp_size(data), 1)
    elif tags := _tags(data):
        wh = tags.get(WIDTH, (0, 0))[0], tags.get(HEIGHT, (0, 0))[0]
        found = Header("TIFF", wh, _orientation(tags))
        if tags.get(BITS, (1, 0))[0] > 16:
            raise DataError(f"{name}: a TIFF of {tags[BITS][0]} bits a channel; save it with 8")
        if tags.get(SUBFILE, (0, 0))[0] & 1:
            raise DataError(
                f"{name}: its first image is a preview, as in a camera's RAW files; convert it to PNG or JPEG"
            )
        if (second := _tags(data, 1)) and not second.get(SUBFILE, (0, 0))[0] & PART:
            raise DataError(f"{name}: a TIFF of several pages; save the one that you need as PNG or JPEG")
    else:
        raise DataError(f"{name}: {what_else(data)}")
    check_limits(data, found.stored_wh, name=name)
    return found


def decode(data: bytes, *, name: str, conversion: Conversion, smooth: bool = True) -> NDArray[np.uint8]:
    """BGR pixels. A cut-off or damaged file is refused, where decoders would fill up with gray. Alpha is dropped.

    ``smooth``: the chroma of a JPEG that has fewer samples of it is smoothed; otherwise its samples become squares.
    """
    found = header(data, name=name)
    pixels = _jpeg(data, name=name, smooth=smooth) if found.kind == "JPEG" else _other(data, found, name=name)
    if pixels.dtype == np.uint16:
        pixels = np.minimum(pixels >> (conversion.bits - 8), 255)
    if pixels.shape[1::-1] != found.stored_wh:
        raise DataError(f"{name}: decodes to another size than its header says; save it again")
    return upright(np.asarray(pixels, np.uint8), found.orientation if conversion.exif == "apply" else 1)


def highest(data: bytes, found: Header, *, name: str) -> int:
    """Largest value of a photo of more than 8 bits a channel, else 0; the cheapest look that finds damage."""
    if found.kind == "JPEG":
        _jpeg(data, name=name, look_only=True)
        return 0
    pixels = _other(data, found, name=name)
    return int(pixels.max()) if pixels.dtype == np.uint16 else 0


def depth(highest: int) -> int:
    """How many bits the values of photos of 16 bits a channel have, by the largest of these values."""
    return next(bits for bits in DEPTHS if highest < 1 << bits)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels ``[h, w, 3]`` turned and mirrored as EXIF's ``orientation`` asks."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _jpeg(data: bytes, *, name: str, smooth: bool = True, look_only: bool = False) -> NDArray[Any]:
    with needed_for("photos", "simplejpeg"):
        import simplejpeg  # only here: training reads what is packed by other means
    frame = jpeg_frame(data)
    four_inks = frame is not None and frame[5] == 4  # checked here, converted by OpenCV
    factor = {"min_factor": 8, "min_height": 1, "min_width": 1} if look_only else {}
    color = "CMYK" if four_inks else "GRAY" if look_only else "BGR"
    said = "cut off, damaged or of a rare kind"
    try:
        pixels = np.asarray(simplejpeg.decode_jpeg(data, colorspace=color, fastupsample=not smooth, **factor))
        if not four_inks:
            return pixels
    except ValueError as error:
        said = str(error)
        if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):  # no end after the last scan that has begun
            raise DataError(f"{name}: the JPEG is cut off; replace the file") from None
        _refuse_damage(said, name=name)
    with suppress(ValueError):
        if not four_inks:
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR", fastupsample=not smooth, strict=False))
    return _by_opencv(data, name=name, why=said)


def _refuse_damage(said: str, *, name: str) -> None:
    """A DataError if what libjpeg ``said`` means that pixels are lost."""
    if "remature end of JPEG" in said:
        raise DataError(f"{name}: the JPEG is cut off; replace the file")
    stray = re.search(r"(\d+) extraneous bytes before marker 0xd9", said)
    harmless = stray and int(stray[1]) <= PADDING
    if said.startswith(("Corrupt", "Invalid", "Inconsistent")) and not harmless:
        raise DataError(f"{name}: the JPEG is damaged ({said}); replace the file")


def _other(data: bytes, found: Header, *, name: str) -> NDArray[Any]:
    tags = _tags(data)  # {} of all but TIFF
    if found.kind == "TIFF":
        if found.orientation != 1:  # OpenCV would turn it whatever it is asked
            data = _with_tag(data, tags[ORIENTATION][1], 1)
        if ALPHA in tags:  # and multiply the colors by their alpha, unless the file says that they are
            data = _with_tag(data, tags[ALPHA][1], 1)
    if found.kind == "PNG":  # libpng would tell on stderr what it thinks of color profiles and the like
        data = data[:8] + b"".join(chunk for kind, chunk in _chunks(data, name=name) if kind[:1].isupper())
    pixels = _by_opencv(data, name=name, why=f"the {found.kind} is cut off, damaged or of a rare kind")
    if pixels.dtype == np.uint16 and COLORS in tags and tags[COLORS][0] == WHITE_IS_0:
        return ~pixels  # OpenCV sees to those of 8 bits
    return pixels


def _by_opencv(data: bytes, *, name: str, why: str) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name}: cannot be decoded ({why}); replace the file")
    return pixels


def _png(data: bytes, *, name: str) -> Header:
    """From the chunks of a PNG. The checksums of those that make up the pixels are verified: decoders do not care."""
    chunks: dict[bytes, bytes] = {}
    for kind, chunk in _chunks(data, name=name):
        if kind[:1].isupper() and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise DataError(f"{name}: the PNG is damaged (a checksum is wrong); replace the file")
        chunks.setdefault(kind, chunk[8:-4])
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise DataError(f"{name}: the PNG is damaged (it has no header); replace the file")
    if int.from_bytes(chunks.get(b"acTL", b"")[:4], "big") > 1:
        raise DataError(f"{name}: an animation; save the frame that you need as PNG or JPEG")
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return Header("PNG", (width, height), _exif(chunks.get(b"eXIf", b"").removeprefix(b"Exif\0\0")))


def _chunks(data: bytes, *, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Kinds of the chunks of a PNG and the chunks themselves, with their length and checksum, up to the last."""
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if at + 12 + size > len(data):
            raise DataError(f"{name}: the PNG is cut off; replace the file")
        yield kind, data[at : at + 12 + size]
        at += 12 + size


def _webp(data: bytes, *, name: str) -> Header:
    form, body = data[12:16], data[20:30]
    exif = b""
    if form == b"VP8X" and len(body) == 10:
        if body[0] & 2:
            raise DataError(f"{name}: an animation; save the frame that you need as PNG or JPEG")
        wh = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        exif = _riff_exif(data)
    elif form == b"VP8L" and len(body) == 10:
        bits = int.from_bytes(body[1:5], "little")
        wh = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif form == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", body[6:10])
        wh = width & 0x3FFF, height & 0x3FFF
    else:
        raise DataError(f"{name}: the WebP is cut off or damaged; replace the file")
    return Header("WebP", wh, _exif(exif))


def _riff_exif(data: bytes) -> bytes:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
        at += 8 + size + size % 2
    return b""


def _bmp_size(data: bytes) -> tuple[int, int]:
    """A negative height says that the first row is the upper one."""
    old = int.from_bytes(data[14:18], "little") == 12
    width, height = struct.unpack("<HH", data[18:22]) if old else struct.unpack("<ii", data[18:26])
    return width, abs(height)


def _tags(tiff: bytes, page: int = 0) -> dict[int, tuple[int, int]]:
    """First numbers of the tags of a page, and where they stand; {} if it is no TIFF or EXIF, or has no such page."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    found: dict[int, tuple[int, int]] = {}
    if order is None:
        return found
    try:
        start, count = 4, 0
        for _ in range(page + 1):
            start = struct.unpack_from(f"{order}I", tiff, start + 12 * count)[0]
            if not start:
                return found
            count = struct.unpack_from(f"{order}H", tiff, start)[0]
            start += 2
        for at in range(start, start + 12 * count, 12):
            tag, kind, numbers = struct.unpack_from(f"{order}HHI", tiff, at)
            if kind in (3, 4):  # 16 or 32 bits; more than fit into the tag stand elsewhere
                form = f"{order}{'H' if kind == 3 else 'I'}"
                fits = numbers * struct.calcsize(form) <= 4
                place = at + 8 if fits else struct.unpack_from(f"{order}I", tiff, at + 8)[0]
                found.setdefault(tag, (struct.unpack_from(form, tiff, place)[0], place))
    except struct.error:  # cut: what stands before is enough
        pass
    return found


def _with_tag(tiff: bytes, place: int, value: int) -> bytes:
    """The same TIFF with another number of 16 bits at ``place``."""
    number = struct.pack("<H" if tiff[:2] == b"II" else ">H", value)
    return tiff[:place] + number + tiff[place + 2 :]


def _orientation(tags: Mapping[int, tuple[int, int]]) -> int:
    value = tags.get(ORIENTATION, (1, 0))[0]
    return value if 1 <= value <= 8 else 1


def _exif(tiff: bytes) -> int:
    return _orientation(_tags(tiff))
