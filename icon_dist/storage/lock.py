"""One writer at a time: a run, a shard folder and a study belong to the process whose lock lies in them.

The lock, :data:`icon_dist.storage.LOCK`, says who its owner is. Its heartbeat: the owner writes it again every BEAT_S.
An owner of this machine that is gone is followed at once; any other when its lock has not changed for PATIENCE_S, as
seen by the one who waits: clocks are never compared. A process that stood still for so long finds at its next beat, and
before whatever it asks :func:`require` for, that the place is somebody else's now.

On a disk no two processes can get one lock (``flock`` guards its changes, where the file system has it). On ``s3://``
a new lock is a conditional put; where that is ignored, or where two follow a dead owner in the same second, the last
to write has it and the other learns so from its first beat, FIRST_BEAT_S after.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from icon_dist import storage
from icon_dist.errors import StorageError, TakenError, TooLargeError, tell
from icon_dist.storage import local
from icon_dist.storage.lock_owner import described, parsed, state, this_process

BEAT_S = 15.0
FIRST_BEAT_S = 1.0
PATIENCE_S = 60.0  # without a sign of life
LOOK_EVERY_S = 0.5
SETTLE_S = 1.0  # on s3://, after a lock that was not new there: somebody else may have followed the same owner
MOST_BYTES = 1 << 16  # of a lock that is read

_quiet = threading.Lock()  # held by a beat and by a fork: a child must not get locks of boto3's that nobody opens
os.register_at_fork(before=_quiet.acquire, after_in_parent=_quiet.release, after_in_child=_quiet.release)
_held: dict[str, Lock] = {}  # by their places: this process writes there
_tokens: dict[str, str] = {}  # by their places: of the owner for whom this process works, often itself


class Lock:
    """This process is the only writer at ``uri``, from :func:`take` to ``release``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.token = secrets.token_hex(8)
        self.lost_to: bytes | None = None
        self._at = storage.join(uri, storage.LOCK)
        self.began = time.time()
        self._about = {"token": self.token, "since": int(self.began), **this_process()}
        self._made: list[Path] = []  # folders that were not there before
        self._beats = 0
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)

    def take(self, *, fix: str, say: Callable[[str], None]) -> None:
        """Wait for signs of life of an owner that nobody here can see; TakenError if there is a living one."""
        first: bytes | None = None
        announced, began = False, time.monotonic()
        if not storage.is_remote(self.uri):
            self._made = [folder for folder in (Path(self.uri), *Path(self.uri).parents) if not folder.exists()]
        while True:
            with self._guarded():
                raw = _read(self._at)
                if raw is None and storage.write_new(self._at, self._record()):
                    break
                if raw is None and Path(self._at).is_symlink():
                    raise StorageError(f"{self._at}: is a link that leads nowhere; remove it")
                if raw is not None:
                    first = first or raw
                    found = state(parsed(raw))
                    if found != "gone" and (raw != first or found == "lives"):
                        raise TakenError(
                            f"{self.uri}: is being written by {described(raw)}; wait for its end, or {fix}"
                        )
                    if found == "gone" or time.monotonic() - began > PATIENCE_S:
                        storage.write(self._at, self._record())
                        break
            if raw is not None and not announced:
                announced = True
                say(f"{self.uri}: {described(raw)} may still write it; looking {PATIENCE_S:.0f} s for a sign of life")
            time.sleep(LOOK_EVERY_S)
        if raw is not None and storage.is_remote(self.uri):
            time.sleep(SETTLE_S)
        if (now := _read(self._at)) is not None and not self._is_mine(now):
            raise TakenError(f"{self.uri}: is being written by {described(now)}; wait for its end, or {fix}")
        _held[self.uri], _tokens[self.uri] = self, self.token
        self._heart.start()

    def release(self) -> None:
        """Others may write; a lock that was lost stays its new owner's."""
        self._end.set()
        self._heart.join()
        del _held[self.uri], _tokens[self.uri]
        with contextlib.suppress(StorageError, OSError), self._guarded():  # if not, it is followed like a killed one's
            if self._is_mine(_read(self._at)):
                storage.delete(self._at)
                with contextlib.suppress(OSError):  # not empty
                    for folder in self._made:
                        folder.rmdir()

    def check(self) -> None:
        """TakenError if a beat has found it lost; nothing is read."""
        if self.lost_to is not None:
            raise _lost(self.uri, self.lost_to)

    def _record(self) -> bytes:
        return json.dumps(self._about | {"beat": self._beats}).encode() + b"\n"

    def _is_mine(self, raw: bytes | None) -> bool:
        return raw is not None and parsed(raw).get("token") == self.token

    def _beat(self) -> None:
        wait = FIRST_BEAT_S
        while self.lost_to is None and not self._end.wait(wait):
            wait = BEAT_S
            with contextlib.suppress(StorageError, OSError), _quiet, self._guarded():  # an outage is no loss
                raw = _read(self._at)
                self._beats += 1
                if raw is None:  # removed by hand
                    storage.write_new(self._at, self._record())
                elif self._is_mine(raw):
                    storage.write(self._at, self._record())
                else:
                    self.lost_to = raw

    def _guarded(self) -> AbstractContextManager[None]:
        """On a disk nobody else changes the lock meanwhile."""
        return nullcontext() if storage.is_remote(self.uri) else local.alone_in(Path(self.uri))


def take(uri: str, *, fix: str, say: Callable[[str], None] = tell) -> Lock:
    """The lock of the folder ``uri`` (path or s3://). A TakenError names the owner, and in ``fix`` what else to do."""
    lock = Lock(storage.absolute(uri))
    if lock.uri in _held:
        raise TakenError(f"{lock.uri}: is being written by this process already; {fix}")
    lock.take(fix=fix, say=say)
    return lock


@contextlib.contextmanager
def hold(uri: str, *, fix: str) -> Iterator[None]:
    """:func:`take` for a block. A block of the same folder within it changes nothing."""
    if storage.absolute(uri) in _held:
        yield
        return
    lock = take(uri, fix=fix)
    try:
        yield
        lock.check()
    finally:
        lock.release()


def owner(uri: str) -> str:
    """Who seems to write at ``uri``, for a message; empty if nobody does."""
    raw = _read(storage.join(uri, storage.LOCK))
    return "" if raw is None or state(parsed(raw)) == "gone" else described(raw)


def tidy(uri: str, *, over: bool = False) -> None:
    """Remove what killed writers left half-written in a folder that is known to be ours.

    That is what is older than the lock, or, once all that wrote for this process is ``over``, everything.
    """
    if not storage.is_remote(uri):
        for path in local.partials(Path(uri), before=math.inf if over else _held[uri].began, tree=True):
            with contextlib.suppress(OSError):  # of another user
                path.unlink()


def tokens() -> dict[str, str]:
    """What workers must :func:`adopt` who write for this process."""
    return dict(_tokens)


def adopt(given: Mapping[str, str]) -> None:
    """From now on this process writes for the owner of these."""
    _tokens.clear()
    _tokens.update(given)


def require(uri: str) -> None:
    """Before something is written at ``uri``: TakenError if the place, or one above it, is another owner's by now."""
    for place, token in _tokens.items():
        if uri == place or uri.startswith(place + "/"):
            raw = _read(storage.join(place, storage.LOCK))
            if raw is not None and parsed(raw).get("token") != token:
                raise _lost(place, raw)


def lost() -> bool:
    """Whether a beat has found that a lock of this process is another's by now; nothing is read."""
    return any(lock.lost_to is not None for lock in _held.values())


def check() -> None:
    """TakenError if one is lost."""
    for lock in _held.values():
        lock.check()


def _lost(uri: str, to: bytes) -> TakenError:
    return TakenError(f"{uri}: is being written by {described(to)} now, because this process stood still; it ends here")


def _read(uri: str) -> bytes | None:
    """The whole of a lock, so that S3's checksum holds for it; no bytes of one that is too large to be one."""
    try:
        return storage.read(uri, most=MOST_BYTES, sound=lambda raw: bool(parsed(raw)))
    except FileNotFoundError:
        return None
    except TooLargeError:
        return b""
