"""Ways to store the pixels of a crop: error against the photo inside the boxes, bytes, time to decode; printed only.

``pytest -m slow -s tests/benchmarks/test_crop_fidelity.py``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from icon_dist import datasets
from icon_dist.datasets.joined import first
from icon_dist.images import photo
from icon_dist.images.encode import Window, encode, encode_alike, quantization
from icon_dist.images.photo import AS_STORED
from icon_dist.shards.crop_window import ASPECTS, window
from icon_dist.types import Instance, Skeleton

pytestmark = pytest.mark.slow
U8 = NDArray[np.uint8]
Way = Callable[[bytes, U8, Window], tuple[bytes, Window]]  # file, its pixels, window -> JPEG and its window


def quality_95(_: bytes, pixels: U8, part: Window) -> tuple[bytes, Window]:
    return cv2.imencode(".jpg", cut(pixels, part), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(), part


def full_chroma(quality: int) -> Way:
    return lambda _, pixels, part: (encode(cut(pixels, part), quality), part)


def alike(data: bytes, pixels: U8, part: Window) -> tuple[bytes, Window]:
    rounding = quantization(data)
    assert rounding is not None
    part = rounding.aligned(part, (pixels.shape[1], pixels.shape[0]))
    blocky = photo.decode(data, name="photo", conversion=AS_STORED, smooth=False)
    return encode_alike(cut(blocky, part), rounding), part


WAYS: dict[str, Way] = {
    "JPEG 95, 4:2:0": quality_95,
    "JPEG 95, 4:4:4": full_chroma(95),
    "JPEG 98, 4:4:4": full_chroma(98),
    "the photo's tables and grid": alike,
}


def cut(pixels: U8, part: Window) -> U8:
    x, y, w, h = part
    return pixels[y : y + h, x : x + w]


def decode_ms(data: bytes, out: U8) -> float:
    times = []
    for _ in range(7):
        start = time.perf_counter()
        simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def row(way: Way, data: bytes, part: Window, person: Instance) -> list[float]:
    """Mean absolute and mean squared error inside the box, KiB, thousand px, ms to decode."""
    pixels = photo.decode(data, name="photo", conversion=AS_STORED)
    encoded, (x, y, w, h) = way(data, pixels, part)
    found = photo.decode(encoded, name="crop", conversion=AS_STORED).astype(int)
    bx, by, bw, bh = (round(value) for value in person.box)
    inside = slice(by - y, by - y + bh), slice(bx - x, bx - x + bw)
    error = (found - cut(pixels, (x, y, w, h)))[inside]
    return [
        np.abs(error).mean(),
        (error**2).mean(),
        len(encoded) / 1024,
        w * h / 1e3,
        decode_ms(encoded, pixels.copy()),
    ]


@pytest.mark.parametrize("name", ["coco", "lsp"])
def test_ways_to_store_a_crop(shared: Path, name: str) -> None:
    if name == "coco":
        images = shared / "coco" / "mini" / "images"
        people = datasets.read("coco", shared / "coco" / "mini" / "person_keypoints.json", images=images)
    else:
        images = shared / "lsp" / "images"
        people = datasets.read("custom", shared / "lsp" / "lspet_full14.json", images=images, skeleton="lsp")
    skeleton: Skeleton = people.skeleton
    print(f"\n{name}{'':<27}mean error   rms     KiB   px, k   decode ms")
    kept = [
        (person, part)
        for person in first(people, 300).instances
        for part, stored in [window(person, skeleton, aspects=ASPECTS, max_input=(384, 288))]
        if stored == part[2:]
    ]
    for label, way in WAYS.items():
        rows = [row(way, (images / person.file).read_bytes(), part, person) for person, part in kept]
        mean, square, size, area, decode = np.mean(rows, axis=0)
        print(f"{label:<30} {mean:8.2f} {square**0.5:8.2f} {size:7.1f} {area:7.1f} {decode:8.2f}")
    assert len(kept) > 50
