"""Label files of YOLO pose, a text file for each photo, as people with boxes and joints in pixels."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icon_dist.datasets.annotation_file import Entry, Faults, content
from icon_dist.datasets.yolo_yaml import YoloYaml, is_photo
from icon_dist.errors import DataError, plural, shorten, shown

MAX_BYTES = 1 << 24  # of a label file
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
SLACK = 0.01  # of the image: boxes may reach out of it so far by rounding, as Ultralytics allows
FAR = 1.0  # joints may be outside the image by as much as it is large
OTHER_TEXTS = ("classes.txt", "readme.txt", "notes.txt")  # that labelling tools leave beside label files


class RowError(Exception):
    """What is wrong with a line of a label file."""


@dataclass
class LabelFiles:
    """The label files beside photos: of ``images/a.jpg`` it is ``labels/a.txt``, else the one in the same folder.

    Of photos below ``apart`` it may also be in ``home/labels``, with the split as a folder or without.
    """

    home: Path = Path()
    split: str = ""
    apart: Path | None = None
    folders: dict[Path, dict[str, str]] = field(default_factory=dict)  # names of label files by stem
    photo_folders: dict[Path, set[Path]] = field(default_factory=dict)  # of the folders in which labels were found
    absent: list[str] = field(default_factory=list)  # photos without one
    kinds: Counter[str] = field(default_factory=Counter)  # what was unusual
    firsts: dict[str, str] = field(default_factory=dict)  # and where first

    def people(self, photo: Path, wh: tuple[int, int], said: YoloYaml, faults: Faults) -> Iterator[tuple[str, Any]]:
        """Where each person of a photo of ``wh`` px is written, and the fields of a COCO annotation in pixels."""
        file = self._file(photo)
        if file is None:
            self.absent.append(str(photo))
            return
        short = f"{file.parent.name}/{file.name}"
        try:
            lines = _lines(file)
        except UnicodeDecodeError:
            faults.add(f"{short}: not UTF-8; save it as UTF-8")
            return
        except DataError as error:
            faults.add(str(error))
            return
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            words = line.split()
            where = f"{short}:{number}"
            if not words:
                continue
            if (key := " ".join(words)) in seen:
                self._count("line given twice in a file, read once|lines given twice in a file, read once", where)
                continue
            seen.add(key)
            try:
                yield where, self._person(words, where, wh, said)
            except RowError as error:
                faults.add(f"{where} {error}")

    def shape(self, photos: list[Path]) -> tuple[int, int] | None:
        """Joints, and 3 numbers of each, where all lines of poses have as many columns and a v of 0, 1 or 2."""
        found: set[int] = set()
        for file in filter(None, map(self._file, photos)):
            try:
                rows = [line.split()[5:] for line in _lines(file)]
            except (UnicodeDecodeError, DataError):
                return None
            for row in filter(None, rows):
                if len(row) % 3 or not all(NUMBER.fullmatch(v) and float(v) in (0, 1, 2) for v in row[2::3]):
                    return None
                found.add(len(row) // 3)
        return (found.pop(), 3) if len(found) == 1 else None

    def notes(self) -> list[str]:
        """What is unusual about all label files so far, a line each."""
        found = [
            f"{plural(count, *kind.split('|'))} ({self.firsts[kind]} the first)" for kind, count in self.kinds.items()
        ]
        if self.absent:
            first = Path(self.absent[0]).name
            what = f"{plural(len(self.absent), 'photo')} without a label file, read as without people"
            found.append(f"{what} ({first} the first)")
        if alone := self._without_photo():
            found.append(f"{plural(len(alone), 'label file')} without a photo, left out ({alone[0]} the first)")
        return found

    def expected(self, photo: Path) -> str:
        """Where the label file of a photo is looked for."""
        return f"that of {photo.name} would be {_labels_folder(photo.parent) / photo.stem}.txt"

    def _without_photo(self) -> list[str]:
        """Label files in whose photo folders nothing has their name."""
        alone = []
        for folder, photos in self.photo_folders.items():
            stems = {_stem(name) for place in photos for name in os.listdir(place) if is_photo(name)}
            alone += [name for stem, name in self.folders[folder].items() if stem not in stems]
        return sorted(name for name in alone if name.lower() not in OTHER_TEXTS)

    def _file(self, photo: Path) -> Path | None:
        for folder in dict.fromkeys((_labels_folder(photo.parent), photo.parent, *self._apart(photo.parent))):
            name = self._names(folder).get(_stem(photo.name))
            if name is not None:
                self.photo_folders.setdefault(folder, set()).add(photo.parent)
                return folder / name
        return None

    def _apart(self, folder: Path) -> Iterator[Path]:
        if self.apart is not None and folder.is_relative_to(self.apart):
            below = folder.relative_to(self.apart)
            parts = below.parts[1:] if below.parts[:1] == ("images",) else below.parts
            yield self.home / "labels" / Path(*parts)
            yield self.home / "labels" / self.split / Path(*parts)

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self.folders:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            texts = (name for name in names if name.lower().endswith(".txt"))
            self.folders[folder] = {_stem(name): name for name in texts}
        return self.folders[folder]

    def _count(self, kind: str, where: str) -> None:
        self.kinds[kind] += 1
        self.firsts.setdefault(kind, where)

    def _person(self, words: list[str], where: str, wh: tuple[int, int], said: YoloYaml) -> Entry:
        values = _numbers(words)
        number = _class(values[0], said)
        columns = 5 + said.joints * said.dims
        width, height = wh
        if len(values) == columns:
            _require_fractions(values[1:5])
            box, points = values[1:5], self._points(values[5:], said, where)
        elif len(values) == 5:
            box, points = values[1:5], []
            self._count("line without joints, a box only|lines without joints, boxes only", where)
        elif _is_outline(values):
            box, points = _around(values[1:]), []
            kind = "outline of a segmentation set, read as a box|outlines of a segmentation set, read as boxes"
            self._count(kind, where)
        else:
            raise RowError(_columns(len(values), said))
        _require_fractions(box)
        x, y, w, h = box
        scales = [width, height, 1] * (len(points) // 3)
        return {
            "category_id": number,
            "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height],
            "keypoints": [value * scale for value, scale in zip(points, scales, strict=True)],
        }

    def _points(self, values: list[float], said: YoloYaml, where: str) -> list[float]:
        """K x (x, y, v), unlabelled joints all 0. Without visibility, (0, 0) and what is below 0 is not labelled."""
        points: list[float] = []
        for j in range(said.joints):
            x, y, *v = values[said.dims * j : said.dims * (j + 1)]
            labelled = v[0] if v else 2.0 * (x >= 0 and y >= 0 and (x, y) != (0, 0))
            if labelled not in (0, 1, 2):
                raise RowError(f"visibility {labelled:g} of joint {j}: expected 0, 1 or 2 (a confidence is no label)")
            if labelled and not (-FAR <= x <= 1 + FAR and -FAR <= y <= 1 + FAR):
                raise RowError(f"joint {j} at {x:g} {y:g}: {_no_fractions(x, y)}")
            if not v and not labelled:
                kind = "joint at 0 0 or below, read as not labelled|joints at 0 0 or below, read as not labelled"
                self._count(kind, where)
            points += [x, y, labelled] if labelled else [0, 0, 0]
        return points


def _lines(file: Path) -> list[str]:
    return content(file, most=MAX_BYTES, what="a label file").decode("utf-8-sig").splitlines()


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", name.rpartition(".")[0])


def _labels_folder(folder: Path) -> Path:
    """The same with the last ``images`` of its parts as ``labels``."""
    parts = list(folder.parts)
    for at in reversed(range(len(parts))):
        if parts[at].lower() == "images":
            same_case = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
            parts[at] = same_case.get(parts[at], "labels")
            return Path(*parts)
    return folder


def _numbers(words: list[str]) -> list[float]:
    for at, word in enumerate(words):
        if NUMBER.fullmatch(word) is None:
            kind = "separate numbers by blanks" if word.count(",") > 1 or at == 0 else "write decimals with a point"
            hint = kind if "," in word or ";" in word else "expected numbers"
            raise RowError(f"column {at + 1}: {shown(shorten(word, 40))} is not a number; {hint}")
    values = [float(word) for word in words]
    if len(values) < 5:
        raise RowError(f"{plural(len(values), 'column')}, expected a class, a box of 4 numbers and the joints")
    return values


def _class(value: float, said: YoloYaml) -> int:
    if value not in said.classes:
        known = ", ".join(map(str, sorted(said.classes)[:5])) + (" ..." if len(said.classes) > 5 else "")
        raise RowError(f"class {value:g}: not in names ({known}); the first column is the number of the class, from 0")
    return int(value)


def _columns(found: int, said: YoloYaml) -> str:
    expected = 5 + said.joints * said.dims
    shape = f"kpt_shape: [{said.joints}, {said.dims}]"
    if found in (expected + 1, 6):
        fix = "leave out the confidence at the end, which predictions have"
        return f"{found} columns, expected {expected} for {shape}, or 5 of a box alone; {fix}"
    fits = [f"[{(found - 5) // dims}, {dims}]" for dims in (2, 3) if found > 5 and (found - 5) % dims == 0]
    fix = f"; they would fit kpt_shape: {' or '.join(fits)}" if fits else "; correct the line or kpt_shape"
    return f"{found} columns, expected {expected} for {shape}{fix}"


def _is_outline(values: list[float]) -> bool:
    """Whether a line is a class and an outline x1 y1 x2 y2 ...: all in the image, and no box with points inside it."""
    if len(values) < 7 or len(values) % 2 == 0 or not all(-SLACK <= value <= 1 + SLACK for value in values[1:]):
        return False
    x, y, w, h = values[1:5]
    inside = [abs(px - x) <= w / 2 and abs(py - y) <= h / 2 for px, py in zip(values[5::2], values[6::2], strict=True)]
    return sum(inside) <= len(inside) / 2


def _around(outline: list[float]) -> list[float]:
    xs, ys = outline[::2], outline[1::2]
    return [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]


def _require_fractions(box: list[float]) -> None:
    if not all(-SLACK <= value <= 1 + SLACK for value in box):
        raise RowError(f"box {' '.join(f'{value:g}' for value in box)}: {_no_fractions(*box)}")
    if min(box[2:]) < 0:
        raise RowError(f"box {' '.join(f'{value:g}' for value in box)}: width or height below 0")


def _no_fractions(*values: float) -> str:
    form = "expected fractions of the image, 0 to 1"
    return f"{form}; divide x by the width and y by the height of the photo" if max(values) > 2 else form
