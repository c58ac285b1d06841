"""JPEG to pixels: by simplejpeg, or where that is not installed by OpenCV, more slowly and with the same bits."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ModuleNotFoundError:  # a bare machine
    simplejpeg = None

U8 = NDArray[np.uint8]


def decode_jpeg(data: bytes, *, colorspace: Literal["BGR", "RGBX"], buffer: U8 | None = None) -> U8:
    """The pixels ``[h, w, 3]`` or ``[h, w, 4]``, in ``buffer`` if it is given. ValueError for a broken or cut file."""
    if simplejpeg is None:
        return _by_opencv(data, colorspace=colorspace, buffer=buffer)
    return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace, buffer=buffer), np.uint8)


def _by_opencv(data: bytes, *, colorspace: str, buffer: U8 | None) -> U8:
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):  # no end after the last scan: OpenCV would fill up with gray
        raise ValueError("Premature end of JPEG file")
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None or (buffer is not None and found.shape[:2] != buffer.shape[:2]):
        raise ValueError("not a JPEG, or of another size")
    pixels = np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGBA) if colorspace == "RGBX" else found, np.uint8)
    if buffer is None:
        return pixels
    buffer[:] = pixels
    return buffer
