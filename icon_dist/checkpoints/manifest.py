"""MANIFEST.json: what makes a folder of files a checkpoint, and how one is told from a damaged one.

It is written last, holds the sha256 of every other file, and seals itself the same way.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icon_dist import storage
from icon_dist.errors import CheckpointError, TooLargeError, shown
from icon_dist.storage import hashed_json

FORMAT = 1  # of the folder; the seal is the same in every format, so that damage never looks like the future
NAME = "MANIFEST.json"
FOLDER = "checkpoints"  # inside the run
OTHER = "remove this checkpoint to go on from the one before it, or use another run.name"
LARGEST = 1e18  # of an epoch or a share

Manifest = dict[str, Any]
Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all


class DamagedError(Exception):
    """Why a checkpoint cannot be used; its finder goes on to the next one."""


@dataclass(frozen=True, order=True)
class Entry:
    """One checkpoint folder, whole or not. Entries sort by age: step, then attempt."""

    step: int
    attempt: str
    uri: str
    files: dict[str, int] = field(compare=False)  # name -> bytes, as listed

    @property
    def committed(self) -> bool:
        """Whether the folder has a manifest, without which it is a checkpoint that was not written to its end."""
        return NAME in self.files


def entries(run_uri: str) -> list[Entry]:
    """All checkpoint folders of a run, oldest first; a listing, nothing is read."""
    folders: dict[str, dict[str, int]] = {}
    for name, size in storage.sizes(storage.join(run_uri, FOLDER)).items():
        folder, _, file = name.partition("/")
        folders.setdefault(folder, {})[file] = size
    found = []
    for folder, files in folders.items():
        if (entry := _entry(run_uri, folder, files)) is not None:
            found.append(entry)
    return sorted(found)


def _entry(run_uri: str, folder: str, files: dict[str, int]) -> Entry | None:
    match = re.fullmatch(r"step-(\d{8,})-([A-Za-z0-9][A-Za-z0-9.-]*)", folder)
    return Entry(int(match[1]), match[2], storage.join(run_uri, FOLDER, folder), files) if match else None


def unlisted(run_uri: str, folder: str) -> Entry | None:
    """The committed checkpoint in ``folder``, found by name: on some stores a listing is seconds behind the writes."""
    entry = _entry(run_uri, folder, {NAME: 0})
    if entry is None:
        return None
    try:
        manifest = read(entry)
    except DamagedError:
        return None
    for name in manifest["files"]:
        with suppress(FileNotFoundError):
            entry.files[name] = storage.size(storage.join(entry.uri, name))
    return entry


def newest_whole(run_uri: str) -> tuple[Entry, Manifest] | None:
    """The newest checkpoint that looks whole, see :func:`whole`, and its manifest; None without one."""
    wholes = ((entry, whole(entry)) for entry in reversed(entries(run_uri)))
    return next(((entry, manifest) for entry, manifest in wholes if manifest is not None), None)


def newest_step(run_uri: str) -> int:
    """Of the newest committed checkpoint, intact or not; -1 without one."""
    return max((entry.step for entry in entries(run_uri) if entry.committed), default=-1)


def folder_name(step: int, attempt: str) -> str:
    """Return the name of a checkpoint's folder, ``step-00001200-ATTEMPT``, which sorts by step."""
    return f"step-{step:08d}-{attempt}"


def read(entry: Entry) -> Manifest:
    """The manifest of a checkpoint, or DamagedError; a newer format is a CheckpointError."""
    if not entry.committed:
        raise DamagedError(f"half-written (no {NAME})")
    try:
        data = storage.read(storage.join(entry.uri, NAME), most=hashed_json.MOST, sound=hashed_json.holds)
    except FileNotFoundError:
        raise DamagedError(f"{NAME} is missing") from None
    except TooLargeError:
        raise DamagedError(f"{NAME} is larger than {hashed_json.MOST >> 20} MiB") from None
    try:
        manifest: Manifest = hashed_json.unsealed(data)
    except hashed_json.BrokenSealError as error:
        raise DamagedError(f"{NAME} {error}") from None
    if type(manifest.get("format")) is not int:
        raise DamagedError(f"{NAME} is of no checkpoint")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{entry.uri}: format {manifest['format']} is newer than this icon_dist reads ({FORMAT}); upgrade it"
        )
    if fault := _fault(manifest) or fault_of(manifest):
        raise DamagedError(f"{NAME} {fault}")
    if (manifest["step"], manifest["attempt"]) != (entry.step, entry.attempt):
        raise DamagedError(f"{NAME} is of step {manifest['step']}, attempt {shown(manifest['attempt'])}")
    return manifest


def _fault(manifest: Manifest) -> str:
    """Which of the fields that make a checkpoint is not what ``save`` writes: anybody can seal a manifest."""
    kinds = {"step": int, "attempt": str, "files": dict}
    if not all(type(manifest.get(key)) is kind for key, kind in kinds.items()):
        return "is of no checkpoint"
    files = all(
        re.fullmatch(r"\w[\w.-]*", name)
        and type(file) is dict
        and (type(file.get("bytes")), type(file.get("sha256"))) == (int, str)
        for name, file in manifest["files"].items()
    )
    return "" if files else "is of no checkpoint, or names files outside it"


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)


def _is_score(value: object) -> bool:
    return value is None or _is_number(value)


def _are_scores(value: object) -> bool:
    return type(value) is dict and all(map(_is_score, value.values()))


def _is_position(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value < LARGEST


def _is_split(value: object) -> bool:
    return value is None or (
        type(value) is dict and _is_position(value.get("share")) and type(value.get("seed")) is int
    )


def _is_text(value: object) -> bool:
    return type(value) is str and value.isprintable()


def _is_skeleton(value: object) -> bool:
    names = value.get("joints") if type(value) is dict else None
    return type(names) is list and all(type(name) is str for name in names)


SAID: dict[str, tuple[Callable[[object], bool], str]] = {  # what a checkpoint says of itself, where it does
    "config": (lambda value: type(value) is dict, "the sections of a config"),
    "skeleton": (_is_skeleton, "a skeleton with its joints"),
    "epoch": (_is_position, "a number, 0 or more"),
    "conditions": (lambda value: value is None or _is_text(value), "one line of text"),
    "data": (lambda value: value is None or type(value) is dict, "dataset, split, people and licence"),
    "metrics": (lambda value: value is None or _are_scores(value), "numbers by name"),
    "score": (_is_score, "a number, or null"),
    "headline": (lambda value: value is None or _is_text(value), "the name of the score"),
    "changed": (lambda value: type(value) is list and all(map(_is_text, value)), "lines of text"),
    "net": (lambda value: value in (1, 2), "1 or 2"),
    "evaluated": (lambda value: value in (None, "model", "ema"), "model or ema"),
    "channel_order": (lambda value: value in (None, "rgb", "bgr"), "rgb or bgr"),
    "split": (_is_split, "a share and a seed, or null"),
    "index": (lambda value: value is None or _is_text(value), "a sha256"),
    "teacher": (lambda value: value is None or _is_text(value), "a sha256"),
    "pretrained": (lambda value: value is None or type(value) is dict, "kind, uri and sha256"),
    "versions": (lambda value: value is None or type(value) is dict, "versions by package"),
}


def fault_of(said: Mapping[str, Any]) -> str:
    """The first field that is of another kind than a run writes, and what is expected there; nothing if all are."""
    for name, (check, expected) in SAID.items():
        if name in said and not check(said[name]):
            return f"{name}={shown(said[name])}: expected {expected}"
    return ""


def read_file(
    uri: str, name: str, manifest: Manifest, *, progress: Progress | None = None, parts: Path | None = None
) -> bytes:
    """One file of a checkpoint, verified, or DamagedError. What is verified is what is returned.

    In the folder ``parts`` an interrupted download leaves what it had, and goes on from it.
    """
    expected = manifest["files"].get(name)
    if expected is None:
        raise DamagedError(f"has no {name}, which {NAME} says is evaluated; it holds {', '.join(manifest['files'])}")
    follow = None if progress is None else (lambda done: progress(name, done, expected["bytes"]))
    place, sha256 = storage.join(uri, name), str(expected["sha256"])

    def holds(data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == sha256

    try:
        if parts is None:
            data = storage.read(place, sound=holds, progress=follow)
        else:
            part = parts / f".{name}.{sha256[:16]}.partial"
            data = storage.read_resumed(place, part, sha256=sha256, progress=follow)
    except FileNotFoundError:
        raise DamagedError(f"{name} is missing") from None
    if len(data) != expected["bytes"]:
        raise DamagedError(f"{name} has {len(data)} bytes, expected {expected['bytes']}")
    if not holds(data):
        raise DamagedError(f"{name} has another sha256 than its manifest says")
    return data


def score(manifest: Manifest) -> float | None:
    """Validation score, higher is better; None if this checkpoint was not evaluated."""
    value = manifest.get("score")
    return float(value) if value is not None and math.isfinite(value) else None


def scored_since(manifest: Manifest) -> int:
    """The step from which on the run is scored as it was here: on the same people, read in the same way."""
    value = manifest.get("scored_since", 0)
    return value if type(value) is int else 0


def whole(entry: Entry) -> Manifest | None:
    """The manifest if every file was listed in its full size (hashes are not read), else None."""
    try:
        manifest = read(entry)
    except DamagedError:
        return None
    expected = {name: file["bytes"] for name, file in manifest["files"].items()}
    return manifest if expected.items() <= entry.files.items() else None
