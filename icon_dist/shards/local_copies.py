"""Copies on this machine of shards that lie elsewhere: their files are read there, and named by where they came from.

A run in this process records, and names its scores by, the place that it was given; the copy may be gone tomorrow.
"""

from __future__ import annotations

from pathlib import Path

_copies: dict[str, str] = {}  # of this process and those it forks: folder by absolute URI


def use_copy(uri: str, folder: Path) -> None:
    """From now on the files of the set ``uri``, absolute, are read in ``folder``."""
    _copies[uri] = str(folder)


def place_of(uri: str) -> str:
    """Where the files of the set ``uri``, absolute, are read: there, unless a copy is used."""
    return _copies.get(uri, uri)
