"""Every kind of damage to a shard directory is found and named."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from icon_dist.errors import DataError
from icon_dist.shards.bytes_check import members, verify
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json

Members = list[tuple[str, bytes]]


def findings(folder: Path) -> str:
    lines = list(verify(open_shards(str(folder))))
    assert all("\n" not in line for line in lines)
    return "\n".join(lines)


def rewrite(folder: Path, change: Callable[[Members], Members]) -> None:
    """Another first shard that the manifest vouches for."""
    place = folder / "shard-00000.tar"
    place.write_bytes(packed(change([(name, data) for name, _, data in members(place.read_bytes())])))
    vouch(folder)


def packed(files: Members) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return sink.getvalue()


def vouch(folder: Path) -> None:
    raw = (folder / "shard-00000.tar").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["shard-00000.tar"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "manifest.json").write_bytes(hashed_json.sealed(manifest))


def test_sound(made: Path) -> None:
    assert findings(made) == ""


def test_members_are_those_of_tarfile(made: Path) -> None:
    raw = (made / "shard-00001.tar").read_bytes()
    with tarfile.open(made / "shard-00001.tar") as tar:
        listed = [(m.name, m.offset_data, m.size) for m in tar]
    assert [(name, offset, len(data)) for name, offset, data in members(raw)] == listed


def test_cut_at_every_block(made: Path) -> None:
    """webdataset and tarfile lose samples in silence here."""
    raw = (made / "shard-00000.tar").read_bytes()
    end = -(-len(raw.rstrip(b"\0")) // 512) * 512 + 1024  # of the last member and the end mark
    for length in range(0, end, 512):
        with pytest.raises(DataError, match="cut off"):
            list(members(raw[:length]))
    assert len(list(members(raw[:end]))) == 6


def test_a_cut_shard_names_what_is_lost(copy: Path) -> None:
    place = copy / "shard-00000.tar"
    raw = place.read_bytes()
    place.write_bytes(raw[: len(raw) // 2])
    found = findings(copy)
    assert f"shard-00000.tar: {len(raw) // 2} bytes, manifest.json says {len(raw)}" in found
    assert "is cut off" in found
    assert open_shards(str(copy)).key[2] in found


@pytest.mark.parametrize("place", ["image", "json", "header"])
def test_any_flipped_bit(copy: Path, place: str) -> None:
    shards = open_shards(str(copy))
    tar = copy / "shard-00000.tar"
    raw = bytearray(tar.read_bytes())
    offset, size = int(shards.offset[1]), int(shards.size[1])
    at = {"image": offset + size // 2, "json": offset + -(-size // 512) * 512 + 520, "header": offset - 500}[place]
    raw[at] ^= 16
    tar.write_bytes(raw)
    found = findings(copy)
    assert "shard-00000.tar: sha256 differs from manifest.json" in found
    assert shards.key[1] in found
    assert shards.key[0] not in found


def test_pairs_and_duplicates(copy: Path) -> None:
    keys = open_shards(str(copy)).key
    rewrite(copy, lambda files: [*files[:1], *files[2:], files[2], ("other.jpg", b"")])
    found = findings(copy)
    assert f"{keys[0]}: expected one image and one json, found {keys[0]}.jpg" in found
    assert f"{keys[1]}.jpg: occurs twice" in found
    assert "other: not in the index" in found


@pytest.mark.parametrize("name", ["a.pkl", "a.pyd", "../../x.jpg", "/x.jpg", "a/b.jpg", ".jpg", "a b.json"])
def test_forbidden_members(copy: Path, name: str) -> None:
    rewrite(copy, lambda files: [*files, (name, b"x")])
    assert f"member {name!r} is no plain KEY.jpg, KEY.png or KEY.json" in findings(copy)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE])
def test_links_and_folders(copy: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.type, header.linkname = kind, "/etc/passwd"
    place = copy / "shard-00000.tar"
    place.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + place.read_bytes())
    vouch(copy)
    assert "byte 0: member 'a.jpg' is no plain" in findings(copy)


def test_bytes_after_the_end(copy: Path) -> None:
    place = copy / "shard-00000.tar"
    place.write_bytes(place.read_bytes() + b"#!/bin/sh".ljust(512, b"\0"))
    vouch(copy)
    assert "something follows it" in findings(copy)


def test_an_image_that_is_none(copy: Path) -> None:
    rewrite(copy, lambda files: [(files[0][0], b"<html>" + files[0][1][6:]), *files[1:]])
    found = findings(copy)
    assert "sha256 of the image differs from the index" in found
    assert "not a JPEG or PNG image" in found


def test_an_image_of_another_size(copy: Path) -> None:
    pixels: NDArray[np.uint8] = np.zeros((30, 40, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    rewrite(copy, lambda files: [(files[0][0], jpeg.ljust(len(files[0][1]), b"\0")), *files[1:]])
    assert "the image has 40 x 30 px, the index says" in findings(copy)


def test_labels_that_differ_from_the_index(copy: Path) -> None:
    def change(files: Members) -> Members:
        fields = json.loads(files[1][1])
        fields["keypoints"][3][0] += 0.5
        fields["box"][2] += 1
        return [files[0], (files[1][0], json.dumps(fields).encode()), *files[2:3], (files[3][0], b"{}"), *files[4:]]

    rewrite(copy, change)
    assert "json: box, keypoints not as in the index" in findings(copy)
    assert "json: not of this format" in findings(copy)


def test_files_that_nobody_listed(copy: Path) -> None:
    (copy / "shard-00009.tar").write_bytes(b"")
    assert findings(copy) == "shard-00009.tar: not listed in manifest.json; remove it"


def test_truth(copy: Path) -> None:
    (copy / "truth.json.gz").write_bytes(b"")
    assert findings(copy).startswith("truth.json.gz: sha256 differs from manifest.json; ")
    (copy / "truth.json.gz").unlink()
    assert findings(copy).startswith("truth.json.gz: missing; ")
