"""Crops rounded as their photos were: tables against Pillow's reading of them, pixels against the photo's own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from icon_dist import datasets
from icon_dist.images import photo
from icon_dist.images.encode import Quantization, encode_alike, quantization
from icon_dist.images.image import decode
from icon_dist.images.photo import AS_STORED
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.tar import Settings, crop
from icon_dist.shards.writer import SetInfo, build

Y, X = np.mgrid[:100, :150]
RGB = np.stack([60 + X, 200 - Y, 128 + 40 * np.sin(X / 9) * np.cos(Y / 5)], -1).astype(np.uint8)  # nothing is clipped


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(sink, "JPEG", **options)
    return sink.getvalue()


@pytest.mark.parametrize("quality", [30, 75, 96])
@pytest.mark.parametrize(("subsampling", "sampling"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
@pytest.mark.parametrize("progressive", [False, True])
def test_tables_and_sampling(quality: int, subsampling: int, sampling: tuple[int, int], progressive: bool) -> None:
    data = jpeg(quality=quality, subsampling=subsampling, progressive=progressive)
    said = Image.open(io.BytesIO(data)).quantization  # type: ignore[attr-defined]
    assert quantization(data) == Quantization(tuple(said[0]), tuple(said[1]), sampling)


@pytest.mark.parametrize("quality", [30, 75, 90, 96])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_crop_has_the_photos_own_pixels(quality: int, subsampling: int) -> None:
    """Away from its border, where smoothing reads chroma that the crop has no more."""
    data = jpeg(quality=quality, subsampling=subsampling)
    part = (21, 13, 70, 50)
    image, (x, y, w, h), stored_wh = crop(data, part, part[2:], settings=Settings(), name="x")
    assert (x % 8, y % 8, w % 8, h % 8) == (0, 0, 0, 0)
    assert x <= 21 < x + 16
    assert x + w - 16 < 21 + 70 <= x + w
    assert stored_wh == (w, h)
    whole, found = decode(data, name="photo").astype(int), decode(image, name="crop").astype(int)
    error = np.abs(found - whole[y : y + h, x : x + w])[2:-2, 2:-2]
    assert error.mean() < 0.1
    assert error.max() <= 3


def test_windows_grow_by_less_than_a_block_and_stay_in_the_photo() -> None:
    rounding = Quantization((1,) * 64, (1,) * 64, (2, 1))
    assert rounding.aligned((17, 9, 14, 7), (150, 100)) == (16, 8, 16, 8)
    assert rounding.aligned((16, 8, 16, 8), (150, 100)) == (16, 8, 16, 8)
    assert rounding.aligned((0, 0, 150, 100), (150, 100)) == (0, 0, 150, 100)
    assert rounding.aligned((140, 95, 10, 5), (150, 100)) == (128, 88, 22, 12)


def test_grey_photos_become_color_of_the_same_grey() -> None:
    data = jpeg("L", quality=85)
    image, (x, y, w, h), _ = crop(data, (10, 10, 50, 50), (50, 50), settings=Settings(), name="x")
    found = decode(image, name="x").astype(int)
    assert Image.open(io.BytesIO(image)).mode == "RGB"
    assert np.abs(found - decode(data, name="x")[y : y + h, x : x + w]).max() <= 1


def with_frame(data: bytes, change: dict[int, int]) -> bytes:
    """Other bytes in the frame header: 0 is the precision, 5 the number of inks, then id, sampling, table of each."""
    at = data.index(b"\xff\xc0") + 4
    raw = bytearray(data)
    for place, value in change.items():
        raw[at + place] = value
    return bytes(raw)


ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        jpeg("CMYK"),
        with_frame(jpeg(), {0: 12}),
        with_frame(jpeg(), {6: ord("R"), 9: ord("G"), 12: ord("B")}),
        jpeg()[:2] + ADOBE_RGB + jpeg()[2:],
        with_frame(jpeg(subsampling=2), {7: 0x12}),  # half the chroma rows, all of its columns
        with_frame(jpeg(subsampling=2), {7: 0x41}),
        with_frame(jpeg(), {7: 0x31, 10: 0x21, 13: 0x21}),
        with_frame(jpeg(), {10: 0x00, 13: 0x00}),
        with_frame(jpeg(), {11: 0}),  # another table for each of the two chromas
        with_frame(jpeg(), {8: 3}),
        with_frame(jpeg(), {5: 9}),
        jpeg().replace(b"\xff\xdb", b"\xff\xed"),
    ],
)
def test_what_cannot_be_rounded_alike(data: bytes) -> None:
    assert quantization(data) is None


def test_others_keep_full_chroma() -> None:
    """A PNG has no rounding of its own, and a turned photo another."""
    red_and_blue = np.zeros((64, 64, 3), np.uint8)
    red_and_blue[::2, :, 0] = red_and_blue[1::2, :, 2] = 255
    data = cv2.imencode(".png", red_and_blue)[1].tobytes()
    image, part, _ = crop(data, (3, 3, 50, 50), (50, 50), settings=Settings(), name="x")
    assert part == (3, 3, 50, 50)
    assert np.abs(decode(image, name="x").astype(int) - red_and_blue[3:53, 3:53]).mean() < 6  # 4:2:0 has 85


def test_encoding_is_repeatable() -> None:
    rounding = quantization(jpeg(quality=80))
    assert rounding is not None
    pixels: NDArray[np.uint8] = photo.decode(jpeg(quality=80), name="x", conversion=AS_STORED, smooth=False)
    assert encode_alike(pixels, rounding) == encode_alike(pixels, rounding)


def test_crops_of_coco_are_their_photos(shared: Path, tmp_path: Path) -> None:
    """Inside the boxes, where JPEG 95 is 2.9 gray levels off; and windows are hardly larger than asked for."""
    mini = shared / "coco" / "mini"
    people = datasets.read("coco", mini / "person_keypoints.json", images=mini / "images")
    build(people, str(mini / "images"), str(tmp_path / "out"), SetInfo(dataset="coco", split="mini"))
    shards = open_shards(str(tmp_path / "out"))
    files = {p.id: p.file for p in people.instances}
    errors = []
    for row in np.flatnonzero((shards.stored_wh == shards.window[:, 2:]).all(1)):
        raw = (tmp_path / "out" / shards.shard_names[shards.shard[row]]).read_bytes()
        found = decode(raw[shards.offset[row] : shards.offset[row] + shards.size[row]], name="crop").astype(int)
        whole = decode((mini / "images" / files[int(shards.instance[row])]).read_bytes(), name="photo")
        x, y, w, h = shards.window[row].astype(int)
        bx, by, bw, bh = np.round(shards.box[row]).astype(int)
        inside = slice(by - y, by - y + bh), slice(bx - x, bx - x + bw)
        errors.append(np.abs(found - whole[y : y + h, x : x + w])[inside].mean())
    assert len(errors) == 77
    assert np.mean(errors) < 0.12
    assert np.max(errors) < 0.6
