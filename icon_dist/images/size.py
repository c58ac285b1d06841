"""The size of a photo, for annotation files that do not say it."""

from __future__ import annotations

from pathlib import Path

from icon_dist.errors import DataError, StorageError
from icon_dist.images import photo
from icon_dist.images.image import MAX_BYTES
from icon_dist.storage import local

HEADER = 1 << 16  # bytes that nearly always hold a jpeg's size


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
