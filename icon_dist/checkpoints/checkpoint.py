"""Save and find checkpoints: folders of safetensors and JSON under ``<run>/checkpoints``.

A checkpoint exists once its manifest does, and is used only if every hash in it holds. ``last.json`` and
``best.json`` are for people: only where a listing lags behind the writes are they used, to look where they point.
Nothing is unpickled.
Whether a run may go on from one is in ``training/resume.py``; the weights of a model alone are in ``weights.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.manifest import OTHER, DamagedError, Entry, Manifest, Progress
from icon_dist.checkpoints.not_a_run import not_a_run
from icon_dist.checkpoints.retention import POINTERS, by_score, keep_newest_and_best
from icon_dist.errors import CheckpointError, StorageError, TooLargeError, shorten, tell
from icon_dist.storage import hashed_json, lock

RUN_ID = "run.id"  # in the directory of a run that is not on this machine: random, written once


def new_attempt() -> str:
    """A name for this start of the run; later ones sort later. Overlapping writers never share a folder."""
    return f"{int(time.time() * 1000):013d}-{secrets.token_hex(3)}"


@dataclass
class Checkpoint:
    """A verified checkpoint. Its bytes were hashed when they were read, and those bytes are what is parsed."""

    uri: str
    step: int
    manifest: Manifest
    _verified: dict[str, bytes] = field(repr=False, default_factory=dict)

    def has(self, name: str) -> bool:
        """Return whether the checkpoint holds the tensors that were saved as ``tensors[name]``."""
        return f"{name}.safetensors" in self.manifest["files"]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What was saved as ``tensors[name]``, on the CPU."""
        try:
            return safetensors.torch.load(self._take(f"{name}.safetensors"))
        except (SafetensorError, ValueError) as error:
            why = shorten(str(error))
            raise CheckpointError(f"{self.uri}: {name}.safetensors is no safetensors file ({why}); {OTHER}") from None

    def state(self) -> Mapping[str, Any]:
        """Return what was saved as ``state``, the JSON object of ``state.json``.

        Raises CheckpointError where the file is missing, damaged or no JSON object.
        """
        try:
            value = json.loads(self._take("state.json"))
        except (ValueError, RecursionError):
            value = None
        if type(value) is not dict:
            raise CheckpointError(f"{self.uri}: state.json is no JSON object; {OTHER}")
        return value

    def _take(self, file: str) -> bytes:
        """Hand the bytes out once, so that they do not stay in memory; a second call reads and verifies again."""
        if file not in self.manifest["files"]:
            raise CheckpointError(f"{self.uri}: has no {file}; it holds {', '.join(sorted(self.manifest['files']))}")
        if file in self._verified:
            return self._verified.pop(file)
        try:
            return manifests.read_file(self.uri, file, self.manifest)
        except DamagedError as error:
            raise CheckpointError(f"{self.uri}: damaged since it was found: {error}; start again") from None


def weights_files(manifest: Manifest) -> list[str]:
    """Names of the tensors that are evaluated, later ones over earlier ones."""
    return ["model", "ema"] if manifest.get("evaluated") == "ema" else ["model"]


# --------------------------------------------------------------------------------------------------------- save


def save(
    run_uri: str,
    *,
    step: int,
    attempt: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    manifest: Mapping[str, Any],
    keep: int,
    warn: Callable[[str], None] = tell,
) -> str:
    """Commit a checkpoint, then forget old ones; returns its URI. Call it on one rank.

    What is committed stays so: that old ones cannot be forgotten is but a warning.

    ``tensors[name]`` becomes ``name.safetensors``. ``manifest`` says what this is (config, skeleton, metrics, score,
    versions, world_size, ``evaluated``: model | ema ...); format, step, attempt and hashes are added. Kept are the
    ``keep`` newest and the one with the highest score (:mod:`icon_dist.checkpoints.retention`).
    """
    assert keep >= 1
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", attempt), attempt
    run_uri = storage.absolute(run_uri)
    own = {"format", "step", "attempt", "files", "sha256"} & set(manifest)
    assert not own, f"the manifest's own fields: {own}"
    attempt = _free(run_uri, step, attempt)
    uri = storage.join(run_uri, manifests.FOLDER, manifests.folder_name(step, attempt))
    files: dict[str, dict[str, str | int]] = {}

    def write(name: str, data: bytes) -> None:
        storage.write(storage.join(uri, name), data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for name, group in tensors.items():
        packed = {key: value.detach().cpu().contiguous() for key, value in group.items()}
        write(f"{name}.safetensors", safetensors.torch.save(packed))
    write("state.json", json.dumps(state, sort_keys=True).encode())
    whole = {**manifest, "format": manifests.FORMAT, "step": step, "attempt": attempt, "files": files}
    lock.require(run_uri)  # files may have taken minutes
    if not storage.write_new(storage.join(uri, manifests.NAME), hashed_json.sealed(whole)):
        raise CheckpointError(f"{uri}: another writer committed the same attempt; start the run only once")
    saved = require_whole(run_uri, manifests.folder_name(step, attempt), after="written; check the disk or bucket")
    try:
        keep_newest_and_best(run_uri, saved, keep=keep)
    except StorageError as error:
        warn(f"warning: {uri} is saved, but what is older could not be tidied up: {error}")
    return uri


def _free(run_uri: str, step: int, attempt: str) -> str:
    """``attempt``, or ``attempt.1`` ... if this attempt came by this step before: nothing is ever overwritten."""
    name, again = attempt, 0
    while storage.exists(storage.join(run_uri, manifests.FOLDER, manifests.folder_name(step, name))):
        again += 1
        name = f"{attempt}.{again}"
    return name


def require_whole(run_uri: str, folder: str, *, after: str) -> Entry:
    """The checkpoint in ``folder`` with its files as they are in storage; StorageError where one is missing.

    ``after`` ends the message: what was just done to it, and what to check.
    """
    found = manifests.unlisted(run_uri, folder)
    if found is None or manifests.whole(found) is None:
        uri = storage.join(run_uri, manifests.FOLDER, folder)
        raise StorageError(f"{uri}: incomplete right after it was {after}")
    return found


# --------------------------------------------------------------------------------------------------------- find


def find(
    run_uri: str,
    *,
    which: str | int = "last",
    warn: Callable[[str], None],
    missing_ok: bool = False,
    weights_only: bool = False,
    progress: Progress | None = None,
    parts: Path | None = None,
    score_of: Callable[[Manifest], float | None] = manifests.score,
) -> Checkpoint | None:
    """The newest (``last``), best by ``score_of`` (``best``) or numbered checkpoint whose every hash holds.

    Damaged ones are passed over with one ``warn`` line each. None if the run never committed one and ``missing_ok``;
    every other failure is a CheckpointError. ``weights_only`` reads and verifies just what is evaluated. In the folder
    ``parts`` an interrupted download leaves what it had, and goes on from it.
    """
    run_uri = storage.absolute(run_uri)
    pointers = POINTERS[: 1 if which == "last" else None]
    found = entries(run_uri, pointers=pointers)
    if not any(entry.committed for entry in found):
        _refuse_lost(run_uri, found, missing_ok=missing_ok, warn=warn)
        return None
    looked: list[Entry] = []
    while found != looked:  # a run that goes on meanwhile saves new ones, and deletes those that were just found
        for entry in _in_order(run_uri, found, which, warn, score_of):
            try:
                manifest = manifests.read(entry)
                _require_sizes(entry, manifest)
                weights = [f"{name}.safetensors" for name in weights_files(manifest)]
                verified = {
                    name: manifests.read_file(entry.uri, name, manifest, progress=progress, parts=parts)
                    for name in (weights if weights_only else manifest["files"])
                }
                return Checkpoint(entry.uri, entry.step, manifest, verified)
            except DamagedError as error:
                warn(f"{entry.uri}: skipped: {error}")
        looked, found = found, entries(run_uri, pointers=pointers)
    raise CheckpointError(f"{run_uri}: no intact checkpoint ({which}); restore one, or use another run.name")


def entries(run_uri: str, *, pointers: Sequence[str] = POINTERS) -> list[Entry]:
    """All checkpoint folders that are listed, oldest first, and what the ``pointers`` name besides."""
    found = manifests.entries(run_uri)
    if storage.is_remote(run_uri):
        committed = {entry.uri for entry in found if entry.committed}
        for folder in _pointed(run_uri, pointers):
            uri = storage.join(run_uri, manifests.FOLDER, folder)
            if uri not in committed and (entry := manifests.unlisted(run_uri, folder)) is not None:
                found = sorted([*(other for other in found if other != entry), entry])
    return found


def _pointed(run_uri: str, pointers: Sequence[str]) -> set[str]:
    """Names of the folders that the pointers name; damaged pointers point nowhere."""
    folders = set()
    for name in pointers:
        with suppress(
            FileNotFoundError, TooLargeError, ValueError, KeyError, TypeError, AttributeError, RecursionError
        ):
            place = json.loads(storage.read(storage.join(run_uri, name), most=1 << 16))["checkpoint"]
            folders.add(place.removeprefix(f"{manifests.FOLDER}/"))
    return {folder for folder in folders if re.fullmatch(r"[\w.-]+", folder)}


def _require_sizes(entry: Entry, manifest: Manifest) -> None:
    """DamagedError before anything is read that is not of its size. A listing of S3 may lack what is new."""
    for name, file in manifest["files"].items():
        if (size := entry.files.get(name, file["bytes"])) != file["bytes"]:
            raise DamagedError(f"{name} has {size} bytes, expected {file['bytes']}")


def newest_for_all(run_uri: str, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint, as rank 0 has chosen, read and verified it; None at a first start."""
    return distributed.from_first(lambda: find(run_uri, warn=warn, missing_ok=True))


def _in_order(
    run_uri: str,
    found: Sequence[Entry],
    which: str | int,
    warn: Callable[[str], None],
    score_of: Callable[[Manifest], float | None],
) -> list[Entry]:
    """What to try, most wanted first."""
    if which == "last":
        return sorted(found, reverse=True)
    if which == "best":
        readable = {}
        for entry in found:
            try:
                readable[entry] = manifests.read(entry)
            except DamagedError as error:
                warn(f"{entry.uri}: skipped: {error}")
        scores = {entry: (manifests.scored_since(read), score_of(read)) for entry, read in readable.items()}
        if not (scored := by_score(scores)):
            raise CheckpointError(f"{run_uri}: no checkpoint has a score; ask for the last one, or set data.val")
        return scored
    assert isinstance(which, int), which
    if not (same := [entry for entry in sorted(found, reverse=True) if entry.step == which]):
        steps = ", ".join(str(step) for step in sorted({entry.step for entry in found}))
        raise CheckpointError(f"{run_uri}: has no checkpoint of step {which}; it has {steps}")
    return same


def _refuse_lost(run_uri: str, partial: Sequence[Entry], *, missing_ok: bool, warn: Callable[[str], None]) -> None:
    """Not one manifest: a run that never saved may start afresh, a run that lost its manifests may not."""
    for name in POINTERS:
        if storage.exists(storage.join(run_uri, name)):
            raise CheckpointError(
                f"{run_uri}: {name} tells of checkpoints, and none is left; restore one, or use another run.name"
            )
    if not missing_ok and not partial and storage.exists(run_uri):
        raise CheckpointError(f"{run_uri}: {not_a_run(run_uri)}")
    if not missing_ok:
        raise CheckpointError(f"{run_uri}: no checkpoint is there; check the name (a run is run.dir/run.name)")
    if storage.is_remote(run_uri) and storage.exists(storage.join(run_uri, RUN_ID)):
        warn(f"{run_uri}: a run began here ({RUN_ID}), and no checkpoint of it can be seen; it begins anew")
    for entry in partial:
        warn(f"{entry.uri}: skipped: half-written (no {manifests.NAME}), and no other checkpoint was ever saved")
