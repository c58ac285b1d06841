"""Photo files of every kind, against Pillow: pixels, orientation, depth, and what is refused before it is decoded."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from icon_dist.errors import DataError, StorageError
from icon_dist.images import photo
from icon_dist.images.photo import AS_STORED, Conversion

WIDTH, HEIGHT = 40, 30
Y, X = np.mgrid[:HEIGHT, :WIDTH]
PIXELS = np.stack([6 * X, 8 * Y, 120 + 0 * X], -1).astype(np.uint8)


def encoded(kind: str, mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    sink = io.BytesIO()
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(PIXELS).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def by_pillow(data: bytes, *, upright: bool = False) -> NDArray[np.int64]:
    image = Image.open(io.BytesIO(data))
    rgb = (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    return np.asarray(rgb)[..., ::-1].astype(int)


def decoded(data: bytes, conversion: Conversion = AS_STORED) -> NDArray[np.int64]:
    return photo.decode(data, name="x", conversion=conversion).astype(int)


KINDS: list[tuple[str, str, dict[str, Any]]] = [
    *(("JPEG", mode, {"quality": 95}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"quality": 95, "progressive": True}),
    *(("PNG", mode, {}) for mode in ("RGB", "L", "P", "1", "LA", "RGBA")),
    *(("WEBP", mode, {"lossless": True}) for mode in ("RGB", "RGBA")),
    ("WEBP", "RGB", {"quality": 90}),
    *(("BMP", mode, {}) for mode in ("RGB", "L", "P")),
    *(("TIFF", mode, {}) for mode in ("RGB", "L", "CMYK")),
    *(("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
]


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
def test_kinds(kind: str, mode: str, options: dict[str, Any]) -> None:
    data = encoded(kind, mode, **options)
    header = photo.header(data, name="x")
    assert (header.kind.upper(), header.stored_wh, header.orientation) == (kind, (WIDTH, HEIGHT), 1)
    lossy = kind in ("JPEG", "WEBP") or options.get("compression") == "jpeg"
    assert np.abs(decoded(data) - by_pillow(data)).max() <= (4 if lossy else 0)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_transparency_is_dropped(kind: str, options: dict[str, Any]) -> None:
    """The colors are those of the file, even where nothing of them would be seen."""
    image, sink = Image.fromarray(PIXELS), io.BytesIO()
    image.putalpha(Image.fromarray((X * 6).astype(np.uint8)))
    image.save(sink, kind, **options)
    np.testing.assert_array_equal(decoded(sink.getvalue()), PIXELS[..., ::-1])


def test_a_png_whose_color_profile_is_of_another_kind_is_read_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded("PNG", "L", icc_profile=profile)
    np.testing.assert_array_equal(decoded(data), decoded(encoded("PNG", "L")))
    assert capfd.readouterr().err == ""


def test_a_tiff_with_a_smaller_copy_is_one_photo() -> None:
    sink = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(sink, new=True) as writer:
        Image.fromarray(PIXELS).save(writer, "TIFF")
        writer.newFrame()
        Image.fromarray(PIXELS[::2, ::2]).save(writer, "TIFF", tiffinfo={254: 1})
    np.testing.assert_array_equal(decoded(sink.getvalue()), PIXELS[..., ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_orientation(kind: str, orientation: int, options: dict[str, Any]) -> None:
    data, plain = encoded(kind, orientation=orientation, **options), encoded(kind, **options)
    assert photo.header(data, name="x").orientation == orientation
    np.testing.assert_array_equal(decoded(data), decoded(plain))
    upright = decoded(data, Conversion("apply"))
    assert np.abs(upright - by_pillow(data, upright=True)).max() <= (4 if kind == "JPEG" else 0)
    assert photo.header(data, name="x").wh("apply") == upright.shape[1::-1]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [0, 3, 8, 9, 65535])
def test_orientation_in_both_byte_orders_and_beyond_its_values(order: str, value: int) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif = b"Exif\0\0" + mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    data = encoded("JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert photo.header(data, name="x").orientation == (value if 1 <= value <= 8 else 1)
    for end in range(len(exif)):  # a damaged block says nothing, and is no reason to fail
        cut = encoded("JPEG")[:2] + b"\xff\xe1" + struct.pack(">H", end + 2) + exif[:end] + encoded("JPEG")[2:]
        assert photo.header(cut, name="x").orientation in (1, value)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_depth(suffix: str, bits: int) -> None:
    """The upper 8 of the bits that are used; for 16 what every reader does with a PNG."""
    deep = PIXELS.astype(np.uint16) * 257 >> (16 - bits)
    data = cv2.imencode(suffix, deep)[1].tobytes()
    assert photo.highest(data, photo.header(data, name="x"), name="x") == deep.max()
    np.testing.assert_array_equal(decoded(data, Conversion(bits=bits)), PIXELS)
    if bits == 16 and suffix == ".png":
        np.testing.assert_array_equal(decoded(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_a_tiff_may_say_that_white_is_0() -> None:
    """As scanners write gray; of 16 bits OpenCV gives the values as stored, so that they were negatives."""
    for depth in (np.uint8, np.uint16):
        gray = PIXELS[..., 0].astype(depth) * (257 if depth == np.uint16 else 1)
        data = cv2.imencode(".tiff", ~gray)[1].tobytes()
        black_is_0, white_is_0 = (struct.pack("<HHIH", 262, 3, 1, value) for value in (1, 0))
        assert data.count(black_is_0) == 1
        data = data.replace(black_is_0, white_is_0)
        np.testing.assert_array_equal(decoded(data), PIXELS[..., [0, 0, 0]])


def progressive(scans: int) -> bytes:
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]


def noisy() -> bytes:
    """A JPEG that is long enough to be damaged in the middle."""
    sink = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


ANIMATION = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}
BAD = [
    (b"", "an empty file"),
    (bytes(5000), "only zeros"),
    (b"  <html>404</html>", "a web page or text, not an image"),
    (b'{"error": 1}', "a web page or text, not an image"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run git lfs pull"),
    (encoded("GIF"), "a GIF; save the frame"),
    (encoded("GIF", **ANIMATION), "a GIF; save the frame"),
    (encoded("WEBP", **ANIMATION), "an animation; save the frame"),
    (encoded("PNG", **ANIMATION), "an animation; save the frame"),
    (encoded("AVIF"), "an AVIF image; convert it"),
    (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC image; convert it"),
    (b"\0\0\0\x18ftypisom" + bytes(100), "a video"),
    (b"%PDF-1.7" + bytes(100), "not an image of a kind that is read"),
    (encoded("JPEG")[:100], "the header of the JPEG is cut off or damaged"),
    (encoded("JPEG")[:-30], "the JPEG is cut off"),
    (noisy()[:2000] + noisy()[2500:], "the JPEG is damaged"),
    (noisy()[:2000] + bytes(len(noisy()) - 2000), "the JPEG is cut off"),  # a download that was given its size first
    (progressive(5), "the JPEG is damaged"),
    (progressive(20000), "a JPEG of more than 100 scans"),
    (encoded("PNG")[:-30], "the PNG is cut off"),
    (flipped(encoded("PNG")), "the PNG is damaged"),
    (encoded("WEBP")[:-30], "the WebP is cut off"),
    (encoded("WEBP")[:24], "the WebP is cut off"),
    (encoded("BMP")[:-30], "the BMP is cut off"),
    (encoded("BMP")[:28], "the BMP is cut off"),
    (encoded("TIFF")[:-30], "the TIFF is cut off"),
    (b"II*\0\x08\0\0\0", "the TIFF is cut off"),
    (encoded("TIFF", compression="tiff_lzw")[:200], "the TIFF is cut off"),  # what it says of itself comes last
    (encoded("TIFF", big_tiff=True), "a BigTIFF"),
    (encoded("TIFF", **ANIMATION), "a TIFF of several pages; save the one"),
    (encoded("TIFF", tiffinfo={254: 1}), "its first image is a preview, as in a camera's RAW files"),
    (cv2.imencode(".tiff", PIXELS.astype(np.float32))[1].tobytes(), "a TIFF of 32 bits a channel"),
    (b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -60000) + bytes(60), "60000 x 60000 px, more than"),
    (b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2, "65536 x 65536 px, more than"),
]


@pytest.mark.parametrize(("data", "text"), BAD, ids=[text for _, text in BAD])
def test_what_is_no_photo_is_named(data: bytes, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=f"^x: .*{text}") as error:
        photo.highest(data, photo.header(data, name="x"), name="x")
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == "", "a library talks on stderr"


def test_harmless_bytes_before_the_end_are_no_damage() -> None:
    data = noisy()
    np.testing.assert_array_equal(decoded(data[:-2] + b"\0\0" + data[-2:]), decoded(data))


def test_a_progressive_jpeg_that_ends_between_two_scans_is_cut_off() -> None:
    sink = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(sink, "JPEG", progressive=True)
    data, at, cuts = sink.getvalue(), 0, 0
    while (at := data.find(b"\xff\xc4", at + 1)) > 0:  # a table of the next scan
        for end in range(at + 2, at + 30, 3):
            cuts += 1
            with pytest.raises(DataError, match=r"cut off|damaged|cannot be decoded"):
                photo.highest(data[:end], photo.header(data, name="x"), name="x")
    assert cuts >= 50


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name, kind in (("pipe.jpg", "pipe"), ("endless.jpg", "device")):
        with pytest.raises(StorageError, match=rf"{name}: is a {kind}, not a file"):
            photo.read(str(tmp_path / name))
    (tmp_path / "huge.jpg").touch()
    os.truncate(tmp_path / "huge.jpg", 1 << 40)
    assert len(photo.read(str(tmp_path / "huge.jpg"))) == (64 << 20) + 1
