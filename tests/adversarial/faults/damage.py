"""Nine kinds of damage to a checkpoint, each of which its finder must notice and name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

MANIFEST = "MANIFEST.json"


def _bytes(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Path], None]:
    return lambda rng, file: file.write_bytes(change(rng, file.read_bytes()))  # type: ignore[func-returns-value]


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _swap(rng: random.Random, file: Path) -> None:
    other = rng.choice([f for f in sorted(file.parent.iterdir()) if f != file and f.name != MANIFEST])
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


def _directory(_: random.Random, file: Path) -> None:
    file.unlink()
    file.mkdir()


def _number(_: random.Random, file: Path) -> None:
    """Of the manifest: another step, in sound JSON."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 10**6}))


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "cut": _bytes(lambda rng, data: data[: rng.randrange(len(data))]),
    "flipped": _bytes(_flip),
    "emptied": _bytes(lambda _, __: b""),
    "garbage": _bytes(lambda rng, data: rng.randbytes(len(data))),
    "longer": _bytes(lambda rng, data: data + rng.randbytes(1 + rng.randrange(100))),
    "deleted": lambda _, file: file.unlink(),
    "swapped": _swap,
    "a folder": _directory,
    "renumbered": _number,
}


def damage(rng: random.Random, folder: Path, kind: str) -> str:
    """Do it to a file of the checkpoint in ``folder``; returns what was done."""
    files = [f for f in sorted(folder.iterdir()) if f.name != MANIFEST or kind != "swapped"]
    file = folder / MANIFEST if kind == "renumbered" else rng.choice(files)
    KINDS[kind](rng, file)
    return f"{folder.name}/{file.name} {kind}"
