"""Pixels of every kind of image file, against Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from icon_dist.data.crops import Crops
from icon_dist.datasets import load_skeleton
from icon_dist.errors import DataError
from icon_dist.images.photo import AS_STORED, Conversion
from icon_dist.shards.reader import Photos, photo_source
from icon_dist.types import Instance

WIDTH, HEIGHT = 40, 30


def smooth() -> NDArray[np.uint8]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([6 * x, 8 * y, 120 + 0 * x], -1).astype(np.uint8)


def encoded(mode: str, kind: str, exif: int = 1) -> bytes:
    sink = io.BytesIO()
    meta = Image.Exif()
    meta[0x0112] = exif
    Image.fromarray(smooth()).convert(mode).save(sink, kind, exif=meta, **({"quality": 98} if kind == "JPEG" else {}))
    return sink.getvalue()


def one_photo(folder: Path, conversion: Conversion = AS_STORED) -> Photos:
    skeleton = load_skeleton("coco")
    keypoints = np.zeros((skeleton.num_joints, 3), np.float32)
    return photo_source(
        str(folder),
        [Instance(0, 0, "one", (1, 1), (0.0, 0.0, 1.0, 1.0), 1.0, keypoints)],
        skeleton=skeleton,
        conversion=conversion,
    )


def as_read(folder: Path, data: bytes, conversion: Conversion = AS_STORED) -> NDArray[np.uint8]:
    """The whole image through the reader, the decoder and a warp that changes nothing."""
    (folder / "one").write_bytes(data)
    source = one_photo(folder, conversion)
    hw = (WIDTH, HEIGHT) if conversion.exif == "apply" else (HEIGHT, WIDTH)
    out = np.full((1, *hw, 3), 77, np.uint8)
    zero = np.zeros(1, np.int64)
    Crops(source, input_hw=hw).fill(out, places=zero, rows=zero, sampling=np.eye(2, 3)[None])
    return out[0]


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("P", "PNG")]
)
def test_all_kinds_become_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    data = encoded(mode, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(as_read(tmp_path, data) - expected).max() <= (0 if kind == "PNG" else 4)


def test_orientation_is_ignored(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        as_read(tmp_path, encoded("RGB", "JPEG", 6)), as_read(tmp_path, encoded("RGB", "JPEG"))
    )


def test_orientation_is_applied_where_the_shards_say_so(tmp_path: Path) -> None:
    """``evaluate --images`` sees the pixels that the shards of the set were cut from."""
    data = encoded("RGB", "PNG", 6)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(as_read(tmp_path, data, Conversion("apply", 1)), upright)


@pytest.mark.parametrize("data", [b"", b"GIF89a....", encoded("RGB", "JPEG")[:300], encoded("RGB", "PNG")[:60]])
def test_what_is_no_image_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"one: ") as error:
        as_read(tmp_path, data)
    assert "\n" not in str(error.value)


def test_outside_is_black(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(encoded("RGB", "PNG"))
    source = one_photo(tmp_path)
    out = np.full((1, HEIGHT, WIDTH, 3), 77, np.uint8)
    zero = np.zeros(1, np.int64)
    shift = np.array([[[1.0, 0, 10], [0, 1, -5]]])
    Crops(source, input_hw=(HEIGHT, WIDTH)).fill(out, places=zero, rows=zero, sampling=shift)
    np.testing.assert_array_equal(out[0, 5:, :-10], smooth()[:-5, 10:])
    assert not out[0, :5].any()
    assert not out[0, :, -10:].any()


def test_inputs_are_those_of_three_channels(tmp_path: Path) -> None:
    """A fourth channel changes no bit: of noise turned, zoomed and mirrored, far outside too."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "one", "PNG")
    turn, zoom = rng.uniform(-np.pi, np.pi, 300), rng.uniform(0.05, 2, (300, 1, 1))
    linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    linear[::3, :, 0] *= -1
    sampling = np.concatenate([linear, rng.uniform(-20, 40, (300, 2, 1))], 2)
    out = np.empty((300, 64, 48, 3), np.uint8)
    crops = Crops(one_photo(tmp_path), input_hw=(64, 48))
    crops.fill(out, places=np.arange(300), rows=np.zeros(300, np.int64), sampling=sampling)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    np.testing.assert_array_equal(out, [cv2.warpAffine(noise, matrix, (48, 64), flags=flags) for matrix in sampling])
    assert (out > 0).mean() > 0.1
