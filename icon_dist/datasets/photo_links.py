"""Photos of a folder, found by the addresses that a labelling tool gave them, and by names in another spelling."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from icon_dist.datasets.annotation_file import Faults, folders_below, is_file_of, name_fault
from icon_dist.errors import DataError, plural, shown

DEEPEST = 64  # folders of an address that are compared
PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # that Label Studio puts before the name of an uploaded file


class PhotoFolder:
    """The files of a folder and all below it, by name."""

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: no such images folder; give the folder that holds the photos")
        self._folder = folder
        self._files: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_letters: dict[str, list[str]] = {}
        for parent, names in folders_below(folder):
            for name in names:
                file = Path(parent, name).relative_to(folder).as_posix()
                self._files[_plain(file)] = file
                self._by_name.setdefault(_plain(name), []).append(file)
                self._by_letters.setdefault(_letters(name), []).append(file)

    def find(self, address: str) -> str:
        """The file that an address is of: the one with the longest end in common, with or without the tool's prefix.

        Else the one with that name in other capitals. DataError if there is none, or several have the same name.
        """
        parts = _parts(address)[-DEEPEST:]
        tails = ["/".join(parts[at:]) for at in range(len(parts))]
        for tail in tails:
            if (found := self._files.get(tail)) is not None:
                return found
        name = tails[-1] if tails else ""
        words = dict.fromkeys((name, PREFIX.sub("", name), _plain(unquote(name))))
        exact = [self._by_name.get(word, []) for word in words]
        for found_by_name in (*exact, *(self._by_letters.get(_letters(word), []) for word in words)):
            if len(found_by_name) > 1:
                raise DataError(f"{shown(address)}: {' and '.join(found_by_name[:2])} have this name; keep one")
            if found_by_name:
                return found_by_name[0]
        raise DataError(f"{shown(address)}: no {shown(name)} in {self._folder}; correct --images")


def find_by_ends(images: list[Any], folder: str | Path, faults: Faults) -> None:
    """Give ``images`` of a COCO document the files that their names end like, where no name is a file as it is.

    Tools write folders of their own machine. Where some names are files, the others are missing photos.
    """
    named = [entry for entry in images if type(entry) is dict and type(entry.get("file_name")) is str]
    names = [entry["file_name"].replace("\\", "/") for entry in named]
    if not named or not Path(folder).is_dir() or any(is_file_of(folder, name) for name in names):
        return
    files, of = PhotoFolder(folder), dict[str, str]()  # of: the name that each file was found by
    for entry in named:
        name = entry["file_name"]
        try:
            file = files.find(name)
        except DataError:  # named by the check of all file names
            continue
        if of.setdefault(file, name) != name:
            both = f"{shown(of[file])} and {shown(name)} are both {file}"
            raise DataError(f"{faults.source}: {both} in {folder}; give the folder that has both")
        entry["file_name"] = file
    if of:
        faults.note(f"{plural(len(of), 'file name')} with other folders, found by the end ({min(of)} the first)")


def mend_slashes(entries: Iterable[Any], key: str, images: str | Path | None, faults: Faults) -> None:
    """Write ``/`` for ``\\`` in the names of photos, where that is a file in the folder ``images``; with a note."""
    if images is None:
        return
    mended = 0
    for entry in entries:
        name = entry.get(key) if type(entry) is dict else None
        if type(name) is str and "\\" in name and is_file_of(images, other := name.replace("\\", "/")):
            entry[key] = other
            mended += 1
    if mended:
        faults.note(f"{plural(mended, 'file name')} with a backslash; read with '/' between folders")


def mend_letters(entries: Iterable[Any], key: str, images: str | Path | None, faults: Faults) -> None:
    """Give names of photos the capitals of the only such file in the folder ``images``; with a note.

    Some systems do not tell ``IMG_1.JPG`` from ``img_1.jpg``, nor an accent from a letter and its mark.
    """
    named = [entry for entry in entries if type(entry) is dict and type(entry.get(key)) is str]
    if images is None or not Path(images).is_dir():
        return
    folders: dict[str, list[str]] = {}
    there: set[str] = set()
    for parent in {entry[key].rpartition("/")[0] for entry in named}:
        if name_fault(f"{parent}/x".lstrip("/")) is None:
            folders[parent] = _names(Path(images, parent))
            there.update(f"{parent}/{name}".lstrip("/") for name in folders[parent])
    alike: dict[tuple[str, str], list[str]] = {}
    if lost := [entry for entry in named if entry[key] not in there and name_fault(entry[key]) is None]:
        for parent, names in folders.items():
            for name in names:
                alike.setdefault((parent, _letters(name)), []).append(f"{parent}/{name}".lstrip("/"))
    taken, mended = {entry[key] for entry in named}, list[str]()
    for entry in lost:
        parent, _, leaf = entry[key].rpartition("/")
        files = alike.get((parent, _letters(leaf)), [])
        if len(files) == 1 and files[0] not in taken:
            mended.append(entry[key])
            entry[key] = files[0]
            taken.add(files[0])
    if mended:
        what = plural(len(mended), "file name")
        faults.note(f"{what} with other capitals or accents than the file has ({min(mended)} the first)")


def _names(folder: Path) -> list[str]:
    """What is in a folder, if it is one that can be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _letters(name: str) -> str:
    return _plain(name).casefold()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _parts(address: str) -> list[str]:
    """Folders and name of a path, an http(s), s3, gs or azure address, or ``/data/local-files/?d=PATH``."""
    if "://" in address or address.startswith("/data/"):
        split = urlsplit(address)
        local = parse_qs(split.query).get("d", [])
        path = local[0] if local else unquote(split.path)
    else:
        path = address
    return [part for part in _plain(path.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
