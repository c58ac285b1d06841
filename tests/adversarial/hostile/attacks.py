"""How files are made malicious: each takes a sandbox, spoils something in it and gives the line that opens it."""

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
from tests.adversarial.hostile import payload
from tests.adversarial.hostile.sandbox import Sandbox

Prepare = Callable[[Sandbox], list[str]]
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
JPEG = bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1])
DEEP = b"[" * 200_000


def put(place: Path, data: bytes) -> None:
    place.unlink(missing_ok=True)
    place.write_bytes(data)


def sealed(sandbox: Sandbox, name: str, data: bytes) -> None:
    """A checkpoint's file replaced, with a manifest that vouches for it."""
    put(sandbox.checkpoint / name, data)
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sandbox.remanifest(lambda m: m["files"].update({name: facts}))


def link(place: Path, target: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def with_member(sandbox: Sandbox, header: tarfile.TarInfo, data: bytes = b"x") -> list[str]:
    sound = [(payload.member(name), data) for name, _, data in members(sandbox.photo)]
    payload.vouch(sandbox.shards, "shard-00000.tar", payload.tar(*sound, (header, data)))
    return sandbox.verify()


def crop(sandbox: Sandbox, image: bytes) -> None:
    """The first person's image replaced in tar and index, both vouched for."""
    old = sandbox.photo
    table = pq.read_table(sandbox.shards / "index.parquet")
    columns = table.to_pydict()
    rows = [i for i, number in enumerate(columns["shard"]) if number == 0]
    files = [(payload.member(name), data) for name, _, data in members(old)]
    first = f"{columns['key'][rows[0]]}.jpg"
    payload.vouch(
        sandbox.shards,
        "shard-00000.tar",
        tar := payload.tar(*[(header, image if header.name == first else data) for header, data in files]),
    )
    placed = {name: (at, data) for name, at, data in members(tar)}
    for row in rows:
        at, data = placed[f"{columns['key'][row]}.jpg"]
        columns["offset"][row], columns["size"][row] = at, len(data)
        columns["sha256"][row] = hashlib.sha256(data).hexdigest()
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink)
    payload.vouch(sandbox.shards, "index.parquet", sink.getvalue())


def then(*steps: object) -> Any:
    """The value of the last; what comes before has been done."""
    return steps[-1]


def long_texts(sandbox: Sandbox) -> list[str]:
    table = pq.read_table(sandbox.shards / "index.parquet")
    columns = table.to_pydict()
    columns["key"] = ["k" * (1 << 24)] * len(columns["key"])
    sink = io.BytesIO()
    pq.write_table(type(table).from_pydict(columns, schema=table.schema), sink, compression="zstd")
    payload.vouch(sandbox.shards, "index.parquet", sink.getvalue())
    return sandbox.verify()


def bad_weights(sandbox: Sandbox, name: str, data: bytes) -> list[str]:
    return sandbox.train(f"model.pretrained={sandbox.file(name, data)}")


def bad_text(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Prepare:
    def prepare(sandbox: Sandbox) -> list[str]:
        sandbox.reweigh(change)
        return sandbox.evaluate()

    return prepare


def bad_manifest(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(sandbox: Sandbox) -> list[str]:
        sandbox.remanifest(change)
        return sandbox.fetch()

    return prepare


def bad_shards(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(sandbox: Sandbox) -> list[str]:
        sandbox.reshard(change)
        return sandbox.verify()

    return prepare


def name(value: str) -> Prepare:
    return lambda c: c.build({"file_name": value}, JPEG)


def mpii(sandbox: Sandbox) -> list[str]:
    entry = {"image": "1.jpg", "center": [5, 6], "scale": 1.5, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    sandbox.file("images/1.jpg", JPEG)
    file = sandbox.file("valid.json", json.dumps([entry]))
    return ["build", "mpii", "--annotations", file, "--images", f"{sandbox.folder}/images", "--out", "out/x"]


def skeleton(sandbox: Sandbox, text: str) -> list[str]:
    line = sandbox.build({}, JPEG)
    line[1] = "custom"
    return [*line, "--skeleton", sandbox.file("skeleton.yaml", text)]
