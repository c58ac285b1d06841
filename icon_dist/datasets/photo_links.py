"""Photos of a folder, found by the addresses that a labelling tool gave them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from icon_dist.datasets.annotation_file import folders_below
from icon_dist.errors import DataError, shown

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
        parts = _parts(address)
        tails = ["/".join(parts[at:]) for at in range(len(parts))]
        for tail in tails:
            if (found := self._files.get(tail)) is not None:
                return found
        name = tails[-1] if tails else ""
        for word in dict.fromkeys((name, PREFIX.sub("", name))):
            found_by_name = self._by_name.get(word, [])
            if len(found_by_name) > 1:
                raise DataError(f"{shown(address)}: {' and '.join(found_by_name[:2])} have this name; keep one")
            if found_by_name:
                return found_by_name[0]
        raise DataError(f"{shown(address)}: no {shown(name)} in {self._folder}; correct --images")


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
