"""How files are made malicious: each takes a cell, spoils something in it and gives the line that opens it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from icon_dist.shards.bytes_check import members
from tests.adversarial.hostile import weapons
from tests.adversarial.hostile.cell import Cell

Prepare = Callable[[Cell], list[str]]
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
JPEG = bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1])
DEEP = b"[" * 200_000


def put(place: Path, data: bytes) -> None:
    place.unlink(missing_ok=True)
    place.write_bytes(data)


def sealed(cell: Cell, name: str, data: bytes) -> None:
    """A checkpoint's file replaced, with a manifest that vouches for it."""
    put(cell.checkpoint / name, data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    cell.remanifest(lambda m: m["files"].update({name: facts}))


def link(place: Path, target: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def with_member(cell: Cell, header: tarfile.TarInfo, data: bytes = b"x") -> list[str]:
    sound = [(weapons.member(name), data) for name, _, data in members(cell.photo)]
    weapons.vouch(cell.shards, "shard-00000.tar", weapons.tar(*sound, (header, data)))
    return cell.verify()


def crop(cell: Cell, image: bytes) -> None:
    """The first person's image replaced in tar and index, both vouched for."""
    old = cell.photo
    table = pq.read_table(cell.shards / "index.parquet")
    columns = table.to_pydict()
    rows = [i for i, number in enumerate(columns["shard"]) if number == 0]
    files = [(weapons.member(name), data) for name, _, data in members(old)]
    first = f"{columns['key'][rows[0]]}.jpg"
    weapons.vouch(
        cell.shards,
        "shard-00000.tar",
        tar := weapons.tar(*[(header, image if header.name == first else data) for header, data in files]),
    )
    placed = {name: (at, data) for name, at, data in members(tar)}
    for row in rows:
        at, data = placed[f"{columns['key'][row]}.jpg"]
        columns["offset"][row], columns["size"][row] = at, len(data)
        columns["sha256"][row] = hashlib.sha256(data).hexdigest()
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink)
    weapons.vouch(cell.shards, "index.parquet", sink.getvalue())


def then(*steps: object) -> Any:
    """The value of the last; what comes before has been done."""
    return steps[-1]


def long_texts(cell: Cell) -> list[str]:
    table = pq.read_table(cell.shards / "index.parquet")
    columns = table.to_pydict()
    columns["key"] = ["k" * (1 << 24)] * len(columns["key"])
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink, compression="zstd")
    weapons.vouch(cell.shards, "index.parquet", sink.getvalue())
    return cell.verify()


def bad_weights(cell: Cell, name: str, data: bytes) -> list[str]:
    return cell.train(f"model.pretrained={cell.file(name, data)}")


def bad_text(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.reweigh(change)
        return cell.evaluate()

    return prepare


def bad_manifest(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.remanifest(change)
        return cell.fetch()

    return prepare


def bad_shards(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(cell: Cell) -> list[str]:
        cell.reshard(change)
        return cell.verify()

    return prepare


def name(value: str) -> Prepare:
    return lambda c: c.build({"file_name": value}, JPEG)


def mpii(cell: Cell) -> list[str]:
    entry = {"image": "1.jpg", "center": [5, 6], "scale": 1.5, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    cell.file("images/1.jpg", JPEG)
    file = cell.file("valid.json", json.dumps([entry]))
    return ["build", "mpii", "--annotations", file, "--images", f"{cell.folder}/images", "--out", "out/x"]


def skeleton(cell: Cell, text: str) -> list[str]:
    line = cell.build({}, JPEG)
    line[1] = "custom"
    return [*line, "--skeleton", cell.file("skeleton.yaml", text)]
