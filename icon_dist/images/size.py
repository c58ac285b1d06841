"""The size of a photo, for annotation files that do not say it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from icon_dist.errors import DataError, StorageError
from icon_dist.images import photo
from icon_dist.images.image import MAX_BYTES, jpeg_size, png_size
from icon_dist.storage import local

HEADER = 1 << 16  # bytes that nearly always hold a jpeg's size


def photo_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the pixels as they are stored: EXIF orientation is ignored."""
    try:
        head = local.read(Path(path), 0, HEADER)
        return png_size(head) or jpeg_size(head) or _decoded_size(local.read(Path(path), 0, None))
    except (FileNotFoundError, StorageError, ValueError, cv2.error) as error:
        raise DataError(f"{path}: not a readable photo ({error})") from None


def size_as_read(path: str | Path, exif: photo.Exif) -> tuple[int, int]:
    """(width, height) of a photo of any kind that is read, upright as EXIF says if that is to be applied."""
    try:
        for most in (HEADER, MAX_BYTES + 1):
            data = local.read(Path(path), 0, most)
            try:
                return photo.header(data, name=str(path)).wh(exif)
            except DataError:  # the header goes on behind what was read, or there is none
                if len(data) < most or most > HEADER:
                    raise
    except (FileNotFoundError, StorageError) as error:
        raise DataError(f"{path}: not a readable photo ({error})") from None
    raise AssertionError("the second look raises or returns")


def _decoded_size(data: bytes) -> tuple[int, int]:
    """Of a file of another kind, or one whose header is longer than :data:`HEADER`: a thumbnail, a long comment."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("cannot be decoded")
    return pixels.shape[1], pixels.shape[0]
