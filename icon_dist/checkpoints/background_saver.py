"""Commit checkpoints beside the training: the loop waits for a copy of the state, not for hashes and uploads.

How one is written, all or nothing, is ``save`` of ``checkpoint.py``.
When the storage of the run is out of reach, the checkpoint is committed to a folder of this machine instead
(``$XDG_CACHE_HOME/icon_dist/unsent``, by default below ``~/.cache``), and sent with the next one, or when the run
starts there again: that run, which ``run.id`` tells from a later one of the same name. Only what was sent, and is seen
there, is removed here. What must not be sent stays, and it is said where.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.checkpoints import checkpoint, manifest_cache, retention
from icon_dist.checkpoints import manifest as manifests
from icon_dist.errors import CheckpointError, DivergedError, StorageError
from icon_dist.storage import lock

Warn = Callable[[str], None]
ASIDE = "aside-"  # begins the name of a folder that is never sent


class Saver:
    """One checkpoint at a time, in a thread; what goes wrong there is raised by the next call."""

    def __init__(self, run_uri: str, *, keep: int, warn: Warn) -> None:
        self._run_uri, self._keep, self._warn = run_uri, keep, warn
        self._local = ""  # run directory on this machine, for what an outage keeps from the real one
        if storage.is_remote(run_uri) and distributed.rank() == 0:
            own = secrets.token_hex(8).encode()
            first = storage.write_new(storage.join(run_uri, checkpoint.RUN_ID), own)
            self._local = storage.join(unsent_folder(run_uri), _short(own) if first else _identity(run_uri))
        self.attempt = checkpoint.new_attempt()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._owed: dict[str, bytes] = {}  # files that the run does not have yet
        self._unsent = ""  # why the newest checkpoint lies on this machine only, and where
        self._told = ""

    def save(
        self,
        *,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Returns at once unless the checkpoint before is still on its way. The tensors must be the saver's own.

        ``files`` by their place in the run are written before the checkpoint counts.
        """
        self.wait()

        def work() -> None:
            try:
                self.commit(step, tensors, state, manifest, files or {})
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="saver", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong; say once that the storage is out of reach."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._unsent != self._told:
            self._told = self._unsent
            if self._told:
                self._warn(f"warning: {self._told}; the next checkpoint, or the same command, tries again")

    def wait(self) -> None:
        """Until nothing is on its way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """The run is over: all is committed, or it says what is not."""
        if kind is not None:
            if self._thread is not None:
                self._thread.join()  # what was finite stays, whatever ended the run
            return
        self.wait()
        if self._unsent:
            raise StorageError(f"{self._unsent}; the same command on this machine sends it")

    def commit(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        files: Mapping[str, bytes],
    ) -> None:
        """Write one checkpoint, in the thread that calls; DivergedError for weights that are not finite."""
        if not all(t.isfinite().all() for name in ("model", "optimizer") for t in tensors[name].values()):
            raise DivergedError(f"step {step}: the weights are not finite; lower optim.lr")

        self._owed |= files

        def write(run_uri: str, keep: int) -> str:
            """Write the owed files and the checkpoint to a run directory, whose lock must be held; returns its URI."""
            lock.require(run_uri)
            for name, data in self._owed.items():
                storage.write(storage.join(run_uri, name), data)
            return checkpoint.save(
                run_uri,
                step=step,
                attempt=self.attempt,
                tensors=tensors,
                state=state,
                manifest=manifest,
                keep=keep,
                warn=self._warn,
            )

        try:
            if self._unsent:
                _send(self._local, self._run_uri)  # first: they are older, and one may be the best
            write(self._run_uri, self._keep)
        except StorageError as error:
            if not self._local:
                raise
            try:
                kept = write(self._local, 1)
            except StorageError as full:
                raise StorageError(
                    f"step {step} is lost: {error}; nor can it be kept on this machine: {full}"
                ) from None
            self._unsent = f"step {step} is not in {self._run_uri} but in {kept}: {error}"
        else:
            self._unsent, self._owed = "", {}


def unsent_folder(run_uri: str) -> str:
    """On this machine: a folder for each run that had this name and was kept from the real one by an outage."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(cache / "icon_dist" / "unsent" / _short(run_uri.encode()))


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _identity(run_uri: str) -> str:
    """The id of the run that is there now; "none" if none has begun."""
    try:
        return _short(storage.read(storage.join(run_uri, checkpoint.RUN_ID)))
    except FileNotFoundError:
        return "none"


def send_unsent(run_uri: str, *, warn: Warn) -> None:
    """Before a run looks for its checkpoints: commit those that an outage kept on this machine.

    Those of another run of this name are left for it. Those that are damaged, or that this run has overtaken on another
    machine (its steps would be recorded twice), are put aside.
    """
    if not storage.is_remote(run_uri):
        return
    every = unsent_folder(run_uri)
    found = sorted({name.partition("/")[0] for name in storage.listing(every)})
    identity = _identity(run_uri) if found else ""
    for name in found:
        folder = storage.join(every, name)
        if name.startswith(ASIDE):
            continue
        if name != identity:
            fix = "copy them to where they belong, or remove that folder"
            warn(f"{folder}: unsent checkpoints of another run than {run_uri} is now; kept; {fix}")
        elif damaged := _damaged(folder):
            if manifests.newest_step(run_uri) < 0:
                fix = "restore it, or remove the folder to begin anew"
                raise CheckpointError(f"{damaged}: damaged, and {run_uri} has no other checkpoint; {fix}")
            warn(f"{folder}: unsent checkpoints, damaged ({damaged}); {_put_aside(folder)}")
        elif manifests.newest_step(folder) <= manifests.newest_step(run_uri):
            warn(f"{folder}: unsent checkpoints, older than those of {run_uri}; {_put_aside(folder)}")
        else:
            for uri in _send(folder, run_uri):
                warn(f"{uri}: sent; an outage had kept it on this machine")
    with suppress(OSError):  # nothing is left in it, or something is
        Path(every).rmdir()


def _put_aside(folder: str) -> str:
    place = Path(folder).with_name(f"{ASIDE}{Path(folder).name}-{secrets.token_hex(4)}")
    try:
        Path(folder).rename(place)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be moved ({error.strerror}); move it away by hand") from None
    return f"kept in {place}, which can be removed"


def _damaged(folder: str) -> str:
    """The first checkpoint whose files are not what its manifest says, hashes aside; else empty."""
    return next((e.uri for e in manifests.entries(folder) if e.committed and manifests.whole(e) is None), "")


def _send(folder: str, run_uri: str) -> list[str]:
    """Commit what lies in ``folder``, then remove it there. Returns the checkpoints that were sent."""
    names = storage.listing(folder)
    sealing = [name for name in names if name.endswith(manifests.NAME)]
    for name in names:  # of a run: all but what points at or seals a checkpoint
        if name not in sealing and name not in (*retention.POINTERS, manifest_cache.NAME):
            storage.write(storage.join(run_uri, name), Path(folder, name))
    for name in sealing:
        manifest, target = storage.read(storage.join(folder, name)), storage.join(run_uri, name)
        if not storage.write_new(target, manifest) and storage.read(target) != manifest:
            raise StorageError(f"{target}: is another checkpoint than {folder}/{name}; move one of them away")
    sent = [name.rpartition("/")[0] for name in sealing]
    for name in sent:
        checkpoint.require_whole(run_uri, name.rpartition("/")[2], after="sent; check the bucket")
    storage.delete(folder, tree=True)
    return [storage.join(run_uri, name) for name in sent]
