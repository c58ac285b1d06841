"""Opening shards: what is refused, in one line, and the arithmetic of the index."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from icon_dist.datasets import load_skeleton
from icon_dist.errors import DataError
from icon_dist.images.image import check_image
from icon_dist.shards import shard_set
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_bytes(hashed_json.sealed(manifest))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another index that the manifest vouches for."""
    table = pq.read_table(folder / "index.parquet")
    columns = table.to_pydict()
    change(columns)
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), folder / "index.parquet")
    digest = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    edit_manifest(folder, lambda m: m["files"]["index.parquet"].update(sha256=digest))


def refused(uri: Path, text: str, *, input_hw: tuple[int, int] | None = None, max_zoom: float | None = None) -> None:
    with pytest.raises(DataError, match=text) as caught:
        open_shards(str(uri), input_hw=input_hw, max_zoom=max_zoom)
    assert "\n" not in str(caught.value)
    assert str(uri) in str(caught.value)


def test_columns(made: Path) -> None:
    shards = open_shards(str(made), input_hw=(64, 48), max_zoom=1.35)
    assert len(shards) == 9
    assert shards.skeleton == load_skeleton("coco")
    assert shards.shard.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert shards.keypoints.shape == (9, 17, 3)
    assert shards.keypoints.flags.writeable, "torch.from_numpy would warn"
    assert (shards.photo_wh == (200, 300)).all()
    assert (shards.score == 1).all()
    assert len(read_truth(str(made))["images"]) == 9


def test_to_stored_maps_corners_to_corners(made: Path) -> None:
    """The outer edges of the window's corner pixels become those of the stored image's."""
    shards = open_shards(str(made))
    rows = np.array([4, 0, 7])
    assert (shards.stored_wh[rows] < shards.window[rows, 2:]).all(), "not scaled down"
    for matrix, window, stored in zip(shards.to_stored(rows), shards.window[rows], shards.stored_wh[rows], strict=True):
        low, high = window[:2] - 0.5, window[:2] + window[2:] - 0.5
        np.testing.assert_allclose(matrix @ [*low, 1], [-0.5, -0.5], atol=1e-9)
        np.testing.assert_allclose(matrix @ [*high, 1], stored - 0.5, atol=1e-9)


def test_nothing_there_says_how_to_build(tmp_path: Path) -> None:
    refused(tmp_path / "none", r"no shards here .*; build them: icon-dist shards build .* --out .*none")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "no shards here, it is a file; give the folder that icon-dist shards build wrote")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "manifest.json: is not JSON"),
        (b"[]", "manifest.json: has no seal"),
        (b'{"format": 1}', r"manifest.json: has no seal \(sha256\); copy it again, or delete the folder and build"),
        (b'{"sha256": "0"}', "manifest.json: was altered: its seal"),
        (b"\0\xff", "manifest.json: is not JSON"),
        (hashed_json.sealed({"format": 1}), "not a shard manifest"),
        (hashed_json.sealed({"format": math.inf}), "not a shard manifest"),
        (hashed_json.sealed({"format": 2}), r"format=2: newer than this version reads \(1\); upgrade"),
    ],
)
def test_bad_manifests(copy: Path, content: bytes, text: str) -> None:
    (copy / "manifest.json").write_bytes(content)
    refused(copy, text)


def test_every_digit_of_a_manifest_counts(copy: Path) -> None:
    """A sigma of the skeleton with one digit changed is sound JSON of a sound skeleton."""
    place = copy / "manifest.json"
    raw = place.read_bytes()
    digits = [m.start() for m in re.finditer(rb"\d", raw)]
    for at in random.Random(0).sample(digits, 200):
        place.write_bytes(raw[:at] + str((int(raw[at : at + 1]) + 1) % 10).encode() + raw[at + 1 :])
        refused(copy, r"seal|is not JSON")
    place.write_bytes(raw)
    open_shards(str(copy))


def test_shard_names_stay_in_the_folder(copy: Path) -> None:
    def escape(manifest: dict[str, Any]) -> None:
        manifest["shards"][0] = "../shard-00000.tar"
        manifest["files"]["../shard-00000.tar"] = manifest["files"].pop("shard-00000.tar")

    edit_manifest(copy, escape)
    refused(copy, "not a shard manifest")


def test_index_missing_flipped_or_of_another_set(copy: Path) -> None:
    raw = bytearray((copy / "index.parquet").read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / "index.parquet").write_bytes(raw)
    refused(copy, r"index\.parquet: sha256 differs from manifest\.json")
    (copy / "index.parquet").unlink()
    refused(copy, r"index\.parquet: missing")


def test_shard_missing(copy: Path) -> None:
    (copy / "shard-00001.tar").unlink()
    refused(copy, r"shard-00001\.tar: missing \(1 of 3 shards\)")


def test_counts_differ(copy: Path) -> None:
    edit_manifest(copy, lambda m: m.update(people=8))
    refused(copy, r"index\.parquet: 9 rows, but manifest\.json counts 8")


def test_other_joints_than_the_skeleton(copy: Path) -> None:
    lsp = json.loads(
        json.dumps(__import__("icon_dist.datasets", fromlist=["x"]).skeleton_to_dict(load_skeleton("lsp")))
    )
    edit_manifest(copy, lambda m: m.update(skeleton=lsp))
    refused(copy, "columns differ from the format of 14 joints")


@pytest.mark.parametrize(
    ("column", "value"), [("offset", 1 << 40), ("offset", -1), ("size", 0), ("shard", 3), ("stored_wh", [60000, 60000])]
)
def test_rows_that_point_elsewhere(copy: Path, column: str, value: object) -> None:
    edit_index(copy, lambda columns: columns[column].__setitem__(5, value))
    refused(copy, r"index\.parquet row 5: points outside its shard or the limits")


def test_the_same_person_twice(copy: Path) -> None:
    edit_index(copy, lambda columns: columns["instance"].__setitem__(5, columns["instance"][4]))
    refused(copy, "an instance id occurs twice")


def test_a_run_that_asks_for_more_than_is_stored(made: Path) -> None:
    refused(
        made,
        r"data\.input=256x192: the shards are built for inputs up to 64x48; .*larger --max-input",
        input_hw=(256, 192),
    )
    refused(made, r"data\.input=60x20: the shards have margin for width/height 0\.75 to 1", input_hw=(60, 20))
    refused(made, r"zoom=1\.5: the shards have margin for 1\.35; lower data\.augment\.scale to 0\.35", max_zoom=1.5)


def test_flipped_truth(copy: Path) -> None:
    raw = bytearray((copy / "truth.json.gz").read_bytes())
    raw[-1] ^= 1
    (copy / "truth.json.gz").write_bytes(raw)
    with pytest.raises(DataError, match=r"truth\.json\.gz: sha256 differs"):
        read_truth(str(copy))


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))


def test_images_are_judged_by_their_header() -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for data in (jpeg, progressive, cv2.imencode(".png", pixels)[1].tobytes()):
        assert check_image(data, name="x") == (40, 30)
    at = jpeg.index(b"\xff\xc0") + 5
    bomb = jpeg[:at] + struct.pack(">HH", 60000, 60000) + jpeg[at + 4 :]
    for data, text in [
        (b"", "x: not a JPEG or PNG"),
        (b"GIF89a", "x: not a JPEG or PNG"),
        (jpeg[:20], "x: not a JPEG or PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "x: not a JPEG or PNG"),
        (png(10000, 10000), "x: 10000 x 10000 px, more than"),
        (png(0, 5), "x: an image of 0 x 5 px"),
        (
            progressive[:-2] + progressive[progressive.rindex(b"\xff\xda") : -2] * 200,
            "x: a JPEG of more than 100 scans",
        ),
        (bomb, "x: 60000 x 60000 px, more than"),
        (jpeg + bytes(64 << 20), "x: more than 67108864 bytes"),
    ]:
        with pytest.raises(DataError, match=text):
            check_image(data, name="x")


@pytest.mark.parametrize("rows", [1, 2, 9, 100])
def test_columns_in_parts(made: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are unpacked at once, the columns are those that pyarrow reads in one piece."""
    monkeypatch.setattr(shard_set, "BATCH", rows)
    shards, table = open_shards(str(made)), pq.read_table(made / "index.parquet").to_pydict()
    for name in ("shard", "offset", "size", "instance", "image_id", "box", "area", "score", "window", "stored_wh"):
        assert getattr(shards, name).tolist() == table[name], name
    assert shards.keypoints.reshape(9, -1).tolist() == table["keypoints"]
    assert [digest.tobytes().hex() for digest in shards.sha256] == table["sha256"]
    assert [*shards.key] == [shards.key[row] for row in range(9)] == table["key"]


def test_a_row_has_no_python_objects(made: Path) -> None:
    """Every column is an array, so that a million rows take what their values take, and travel to other ranks so."""
    shards = open_shards(str(made))
    columns = [value for value in vars(shards).values() if hasattr(value, "__len__") and len(value) == 9]
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    others = [type(column).__name__ for column in columns if not isinstance(column, np.ndarray)]
    assert others == ["Texts"]
    assert sum(array.nbytes for array in arrays) == 9 * (4 + 5 * 8 + 32 + 2 * 32 + 8 + 12 * 17 + 2 * 8)
    assert [*pickle.loads(pickle.dumps(shards)).key] == [*shards.key]


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 62 + "  ", "g" * 64, "é" + "0" * 62])
def test_a_hash_that_is_none(copy: Path, text: str) -> None:
    edit_index(copy, lambda columns: columns["sha256"].__setitem__(4, text))
    refused(copy, "sha256: expected 64 hex digits")
