"""Temporary folders that say whose they are, so that those of killed processes can be told from living ones.

A folder of one process has its number in its name. One that many share is locked by each as long as it lives, so that
the last to end removes it, or the next to come if that was killed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

CLOCK_SLACK_S = 2.0
_shared: dict[Path, int] = {}  # folders that this process shares with others, and the descriptors that lock them


def folder(kind: str) -> tempfile.TemporaryDirectory[str]:
    """``icon-KIND-PID-HOST-...`` below TMPDIR: a folder that several hosts may share."""
    prefix = f"icon-{kind}-{os.getpid()}-{socket.gethostname()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def shared(kind: str, name: str) -> Path:
    """``icon-KIND-UID/NAME`` below TMPDIR, for all processes of a user that ask for it.

    Others of the kind that nobody uses any more are removed.
    """
    place = Path(tempfile.gettempdir()) / f"icon-{kind}-{os.getuid()}" / name
    while place not in _shared:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDONLY)
        with suppress(OSError):  # no locks on this file system: then nobody gets to remove anything
            fcntl.flock(handle, fcntl.LOCK_SH)
        if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
            _shared[place] = handle
        else:  # the one who removed it was quicker
            os.close(handle)
    _remove_unused(place.parent)
    return place


@atexit.register
def leave() -> None:
    """Give up what this process shares; what nobody else uses is removed."""
    roots = {place.parent for place in _shared}
    while _shared:
        os.close(_shared.popitem()[1])
    for root in roots:
        _remove_unused(root)


def _remove_unused(root: Path) -> None:
    for place in root.iterdir():
        if (handle := _alone(place)) is not None:
            shutil.rmtree(place, ignore_errors=True)
            os.close(handle)


def _alone(place: Path) -> int | None:
    """A descriptor that lets nobody begin to share ``place`` before it is closed; None while a living process does."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone by now, or none of ours
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def leftovers(root: Path) -> list[Path]:
    """Those of this host whose process is gone, and those of this user that nobody shares any more."""
    own = re.compile(rf"icon-[a-z]+-(\d+)-{re.escape(socket.gethostname())}-\w+")
    found = []
    for place in sorted(root.glob("icon-*")):
        match = own.fullmatch(place.name)
        if match and place.is_dir() and not place.is_symlink() and not _lives(int(match[1]), place):
            found.append(place)
    for place in sorted(root.glob(f"icon-*-{os.getuid()}/*")):
        if (handle := _alone(place)) is not None:
            found.append(place)
            os.close(handle)
    return found


def _lives(pid: int, place: Path) -> bool:
    """Whether ``pid`` still is the process that made ``place``: numbers are used again."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except FileNotFoundError:
        return not Path("/proc/stat").exists()  # without /proc nobody can tell
    began = int(boot.split()[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return began <= place.stat().st_ctime + CLOCK_SLACK_S
