"""Commit checkpoints beside the training: the loop waits for a copy of the state, not for hashes and uploads.

When the storage of the run is out of reach, the checkpoint is committed to a folder of this machine instead
(``$XDG_CACHE_HOME/icon_dist/unsent``, by default below ``~/.cache``), and sent when the run starts there again: that
run, which ``run.id`` tells from a later one of the same name.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.engine import checkpoint
from icon_dist.engine import manifest as manifests
from icon_dist.errors import DivergedError, StorageError
from icon_dist.storage import lock

Warn = Callable[[str], None]
ID = "run.id"  # in the directory of a run that is not on this machine: random, written once


class Saver:
    """One checkpoint at a time, in a thread; what goes wrong there is raised by the next call."""

    def __init__(self, run_uri: str, *, keep: int, warn: Warn) -> None:
        self._run_uri, self._keep, self._warn = run_uri, keep, warn
        self._local = ""  # run directory on this machine, for what an outage keeps from the real one
        if storage.is_remote(run_uri) and distributed.rank() == 0:
            storage.write_new(storage.join(run_uri, ID), secrets.token_hex(8).encode())
            self._local = storage.join(unsent_folder(run_uri), _identity(run_uri))
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
                self._commit(step, tensors, state, manifest, files or {})
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
                self._warn(f"warning: {self._told}; the next checkpoint tries again")

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

    def _commit(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        manifest: Mapping[str, Any],
        files: Mapping[str, bytes],
    ) -> None:
        if not all(t.isfinite().all() for name in ("model", "optimizer") for t in tensors[name].values()):
            raise DivergedError(f"step {step}: the weights are not finite; lower optim.lr")

        self._owed |= files

        def commit(run_uri: str, keep: int) -> str:
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
            )

        try:
            commit(self._run_uri, self._keep)
        except StorageError as error:
            if not self._local:
                raise
            kept = commit(self._local, 1)
            self._unsent = f"step {step} is not in {self._run_uri} but in {kept}: {error}"
        else:
            self._unsent, self._owed = "", {}
            if self._local:
                storage.delete(self._local, tree=True)  # older than what was sent


def unsent_folder(run_uri: str) -> str:
    """On this machine: a folder for each run that had this name and was kept from the real one by an outage."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(cache / "icon_dist" / "unsent" / _short(run_uri.encode()))


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _identity(run_uri: str) -> str:
    """Of the run that is there now; empty if none has begun."""
    try:
        return _short(storage.read(storage.join(run_uri, ID)))
    except FileNotFoundError:
        return ""


def send_unsent(run_uri: str, *, warn: Warn) -> None:
    """Before a run looks for its checkpoints: commit those that an outage kept on this machine."""
    if not storage.is_remote(run_uri):
        return
    every = unsent_folder(run_uri)
    runs = sorted({name.partition("/")[0] for name in storage.listing(every)})
    mine = _identity(run_uri) if runs else ""
    for run in runs:
        folder = storage.join(every, run)
        if run != mine:
            warn(f"{folder}: unsent checkpoints of a run that {run_uri} no longer is; removed")
        elif manifests.newest_step(folder) <= manifests.newest_step(run_uri):  # it went on elsewhere, from an older one
            warn(f"{folder}: unsent checkpoints older than those of {run_uri}; removed")
        else:
            _send(folder, run_uri, warn=warn)
    storage.delete(every, tree=True)


def _send(folder: str, run_uri: str, *, warn: Warn) -> None:
    names = storage.listing(folder)
    for name in names:  # of a run: all but what points at or seals a checkpoint
        if not name.endswith(manifests.NAME) and name not in checkpoint.POINTERS:
            storage.write(storage.join(run_uri, name), Path(folder, name))
    for name in names:
        if name.endswith(manifests.NAME):
            storage.write_new(storage.join(run_uri, name), Path(folder, name).read_bytes())
            warn(f"{storage.join(run_uri, name.rpartition('/')[0])}: sent; an outage had kept it on this machine")
