"""Temporary folders that say whose they are, so that those of killed processes can be told from living ones.

Each is locked by every process that uses it, as long as it lives: one that nobody locks is left over. All are folders
of this user that nobody else can enter; a link, or what belongs to somebody else, is never followed, used or removed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from icon_dist.errors import StorageError
from icon_dist.storage import lock_owner

ANY = re.compile(".+")
KINDS = ("board", "columns", "people", "predict", "ray", "study", "tune")  # of folders that one process makes
SHARED = ("shards",)  # ... and that several share
NO_LINK = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_shared: dict[Path, int] = {}  # folders that this process shares with others, and the descriptors that lock them


def root() -> Path:
    """The folder that TMPDIR names, or the system's; StorageError where none can be written."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageError(f"TMPDIR: {error.strerror}; set it to a folder with free space") from None


class Folder(tempfile.TemporaryDirectory[str]):
    """``icon-KIND-PID-HOST-...`` below TMPDIR, which several hosts may share: a folder of this process."""

    def __init__(self, kind: str) -> None:
        assert kind in KINDS, kind
        self._lock: int | None = None
        prefix = f"icon-{kind}-{os.getpid()}-{socket.gethostname()}-"
        try:
            while self._lock is None:  # the doctor may have found it before it was locked
                super().__init__(prefix=prefix, ignore_cleanup_errors=True)
                self._lock = _locked(Path(self.name))
                if self._lock is None:
                    self._finalizer.detach()  # type: ignore[attr-defined]
        except OSError as error:
            raise StorageError(f"TMPDIR: {error.strerror or error}; set it to a folder with free space") from None

    def cleanup(self) -> None:
        """Remove the folder with all that is in it, and release its lock; a second call does nothing."""
        super().cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def shared(kind: str, name: str) -> Path:
    """``icon-KIND-UID/NAME`` below TMPDIR, for all processes of a user that ask for it.

    Others of the kind that nobody uses any more are removed.
    """
    assert kind in SHARED, kind
    folder = root() / f"icon-{kind}-{os.getuid()}"
    place = folder / name
    while place not in _shared:
        for one in (folder, place):
            _make(one)
        if (handle := _locked(place)) is not None:
            _shared[place] = handle
    _remove_unused(folder)
    return place


def reached_from_here() -> tuple[str, str, int, int]:
    """Equal in processes of one host that see the same TMPDIR: containers may not, and two hosts may have one name."""
    there = os.stat(root())
    return socket.gethostname(), lock_owner.machine(), there.st_dev, there.st_ino


@atexit.register
def leave() -> None:
    """Give up what this process shares; what nobody else uses is removed."""
    folders = {place.parent for place in _shared}
    while _shared:
        os.close(_shared.popitem()[1])
    for folder in folders:
        _remove_unused(folder)


def leftovers(below: Path, *, remove: bool = False) -> Iterator[Path]:
    """Those of this host and user in the folder ``below`` that nobody uses any more, as they are found or removed."""
    own = re.compile(rf"icon-({'|'.join(KINDS)})-\d+-{re.escape(socket.gethostname())}-\w+")
    yield from _unused(below, os.open(below, os.O_RDONLY), names=own, remove=remove)
    for several in sorted(below / f"icon-{kind}-{os.getuid()}" for kind in SHARED):
        yield from _unused(several, _open(several), remove=remove)


def _make(place: Path) -> None:
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    if (handle := _open(place)) is not None:
        os.fchmod(handle, 0o700)
        os.close(handle)
    elif os.path.lexists(place):  # else it was just removed, and is made again
        raise StorageError(f"{place}: is a link, a file or another user's folder; remove it, or set TMPDIR")


def _open(place: str | Path, *, within: int | None = None) -> int | None:
    """A descriptor of a folder of this user; None for a link, a file, what is somebody else's, or gone."""
    try:
        handle = os.open(place, NO_LINK, dir_fd=within)
    except OSError:
        return None
    if os.fstat(handle).st_uid == os.geteuid():
        return handle
    os.close(handle)
    return None


def _locked(place: Path) -> int | None:
    """A descriptor that says that this process uses ``place``; None if it has just been removed."""
    try:
        handle = os.open(place, NO_LINK)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # no locks on this file system: then nobody gets to remove anything
        fcntl.flock(handle, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), os.lstat(place)):
            return handle
    os.close(handle)
    return None


def _remove_unused(below: Path) -> None:
    for _ in _unused(below, _open(below), remove=True):
        pass


def _unused(below: Path, within: int | None, *, names: re.Pattern[str] = ANY, remove: bool) -> Iterator[Path]:
    """Folders of this user in ``below``, which ``within`` is a descriptor of, that nobody has locked."""
    if within is None:
        return
    try:
        for name in sorted(filter(names.fullmatch, os.listdir(within))):
            if (handle := _alone(name, within)) is not None:
                if remove:  # relative to the descriptor: nothing on the way can be exchanged for a link
                    shutil.rmtree(name, ignore_errors=True, dir_fd=within)
                os.close(handle)
                yield below / name
    finally:
        os.close(within)


def _alone(name: str, within: int) -> int | None:
    """A descriptor that lets nobody begin to use a folder before it is closed; None while a living process does."""
    if (handle := _open(name, within=within)) is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
