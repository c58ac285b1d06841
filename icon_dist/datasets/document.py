"""Reading annotation files that others wrote: json or json.gz, file names, and one line for whatever is wrong.

Bad entries name the file, the entry and the field, as RELIABILITY asks.
"""

from __future__ import annotations

import gc
import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icon_dist.errors import DataError

log = logging.getLogger(__name__)

NUMBER = frozenset((int, float))  # exact types: bool is an int, and no coordinate
LARGEST_ID = 2**53  # exact in every reader of json


@contextmanager
def collector_off() -> Iterator[None]:
    """Millions of small lists and no cycles: the garbage collector would take half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def load(path: str | Path) -> Any:
    """Content of a ``.json`` or ``.json.gz`` file."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of an annotation file") from None
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error):
            raise DataError(f"{path}: truncated or damaged gzip file; download it again") from None
    if not raw.strip():
        raise DataError(f"{path}: empty file; download it again")
    if raw.lstrip()[:1] == b"<":
        raise DataError(f"{path}: HTML or XML, not json; the download was probably an error page, get it again")
    try:
        with collector_off():
            return json.loads(raw)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path}: not json, or truncated, at {where}: {error.msg}; download it again") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for an annotation file") from None


class Faults:
    """Bad entries of one file: the first is raised, or ``drop`` counts them all for one warning."""

    def __init__(self, source: str | Path, *, drop: bool) -> None:
        self.source = source
        self.drop = drop
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """``text`` starts with the entry: ``ann id=17 keypoints: 50 values, expected 51``."""
        if not self.drop:
            raise DataError(f"{self.source}#{text}; fix the file or pass --drop-invalid")
        self.texts.append(text)

    def warn(self) -> None:
        if self.texts:
            log.warning("%s: dropped %d invalid entries; the first: %s", self.source, len(self.texts), self.texts[0])


def is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_ID


def name_fault(name: object) -> str | None:
    """Why ``name`` is no relative path inside the images folder."""
    if type(name) is not str or not name.strip():
        return f"{name!r}: expected the name of an image"
    if name.startswith(("/", "~")) or "\\" in name or ":" in name or "\0" in name or ".." in name.split("/"):
        return f"{name!r}: leaves the images folder, expected a relative path without '..'"
    return None


def missing_files(names: Iterable[str], folder: str | Path) -> set[str]:
    """Those of ``names`` that are not in ``folder``; each directory is listed once, no file is touched."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such images folder; give the folder that holds the photos")
    present: dict[str, set[str]] = {}
    missing = set()
    for name in names:
        parent, _, leaf = name.rpartition("/")
        if parent not in present:
            present[parent] = set(os.listdir(root / parent)) if (root / parent).is_dir() else set()
        if leaf not in present[parent]:
            missing.add(name)
    return missing
