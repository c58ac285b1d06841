"""A log in segments of bounded size, so that what is added or cut off rewrites the last one alone.

``metrics.jsonl`` goes on in ``metrics/000001.jsonl``, ``metrics/000002.jsonl`` ...; in this order they are one file, on
a disk and on ``s3://`` alike. A segment is replaced whole: whatever is killed meanwhile, it has its old lines or the
new ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

from icon_dist import storage

SEGMENT = 1 << 20  # bytes after which a line begins the next segment

Keep = Callable[[bytes], bool | None]  # of a line, its end included: whether to keep it; None = it is damaged


def places(uri: str) -> list[str]:
    """Return the segments of the log ``uri`` in their order; the first is ``uri`` itself, whether it is there or not.

    Listings of some stores are seconds behind the writes, so the one after the last that is listed is looked for.
    """
    folder, _, ending = uri.rpartition(".")
    listed = (re.fullmatch(rf"(\d{{6,}})\.{ending}", name) for name in storage.sizes(folder))
    last = max((int(match[1]) for match in listed if match), default=0)
    while storage.exists(_place(uri, last + 1)):
        last += 1
    return [_place(uri, number) for number in range(last + 1)]


def read(uri: str) -> bytes:
    """Return all lines of the log ``uri``; FileNotFoundError if there is no segment of it.

    A segment that does not end with a line, and is not the last, gets an end: what is damaged stays one line.
    """
    found = []
    for place in places(uri):
        with suppress(FileNotFoundError):
            found.append(storage.read(place))
    if not found:
        raise FileNotFoundError(f"{uri}: no such file")
    whole = [data if data.endswith(b"\n") or not data else data + b"\n" for data in found[:-1]]
    return b"".join([*whole, found[-1]])


class AppendLog:
    """The end of a log: what is added is in memory until it is flushed, and so is the last segment."""

    def __init__(self, uri: str, keep: Keep) -> None:
        """Go on with the log ``uri`` after its last line that ``keep`` wants; what is behind it is left out.

        Only the last segment is read: all before a line that is kept is taken to be kept as well.
        """
        self.lines = self.damaged = 0  # of those that were read at the end: how many, and how many of them are damaged
        self._uri, self._keep = uri, keep
        self._pending: list[list[bytes]] = [[]]  # lines of the segments from ``_number`` on
        found = places(uri)
        self._number = len(found) - 1
        while not self._resume(found[self._number]) and self._number:
            storage.delete(found[self._number])
            self._number -= 1
        self._size = sum(map(len, self._pending[0]))

    def _resume(self, place: str) -> bool:
        """Go on with the segment ``place``; returns False if no line of it is kept."""
        try:
            lines = storage.read(place).splitlines(keepends=True)
        except FileNotFoundError:
            lines = []
        verdicts = [self._keep(line) for line in lines]
        self.lines += len(lines)
        self.damaged += verdicts.count(None)
        kept = [line for line, keep in zip(lines, verdicts, strict=True) if keep]
        self._changed = kept != lines or not lines
        self._pending = [kept]
        return bool(kept)

    def add(self, line: bytes) -> None:
        """Append a line, its end included. It is written by the next flush."""
        if self._size >= SEGMENT:
            self._pending.append([])
            self._size = 0
            if not self._changed:
                self._next()
        self._pending[-1].append(line)
        self._size += len(line)
        self._changed = True

    def flush(self) -> None:
        """Write what is not written yet; StorageError where that fails, and then it is kept for the next flush."""
        while self._changed:
            storage.write(_place(self._uri, self._number), b"".join(self._pending[0]))
            self._changed = len(self._pending) > 1
            if self._changed:
                self._next()

    def _next(self) -> None:
        del self._pending[0]
        self._number += 1


def _place(uri: str, number: int) -> str:
    folder, _, ending = uri.rpartition(".")
    return f"{folder}/{number:06d}.{ending}" if number else uri
