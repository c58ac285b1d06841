"""Photos of a folder, found by the addresses that a labelling tool gave them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from icon_dist.datasets.annotation_file import Faults, folders_below, is_file_of
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
        for parent, names in folders_below(folder):
            for name in names:
                file = Path(parent, name).relative_to(folder).as_posix()
                self._files[_plain(file)] = file
                self._by_name.setdefault(_plain(name), []).append(file)

    def find(self, address: str) -> str:
        """The file that an address is of: the one with the longest end in common, with or without the tool's prefix.

        DataError if there is none, or several have the same name.
        """
        parts = _parts(address)[-DEEPEST:]
        tails = ["/".join(parts[at:]) for at in range(len(parts))]
        for tail in tails:
            if (found := self._files.get(tail)) is not None:
                return found
        name = tails[-1] if tails else ""
        for word in dict.fromkeys((name, PREFIX.sub("", name), _plain(unquote(name)))):
            found_by_name = self._by_name.get(word, [])
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
