"""The size of a photo by its header, for annotation files that do not say it."""

from __future__ import annotations

from pathlib import Path

import simplejpeg

from icon_dist.errors import DataError, StorageError
from icon_dist.storage import local

HEADER = 1 << 16  # bytes that nearly always hold a jpeg's size


def photo_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG; EXIF orientation is ignored, as everywhere."""
    try:
        head = local.read(Path(path), 0, HEADER)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(head)
        except ValueError:  # a long comment or thumbnail in front of the size
            height, width, *_ = simplejpeg.decode_jpeg_header(local.read(Path(path), 0, None))
    except (FileNotFoundError, StorageError, ValueError) as error:
        raise DataError(f"{path}: not a readable jpeg or png ({error})") from None
    return width, height
