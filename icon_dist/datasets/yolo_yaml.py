"""A ``data.yaml`` of Ultralytics: where the photos of each split are, which classes there are, and what joints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from icon_dist.cli import did_you_mean
from icon_dist.datasets.annotation_file import content, folders_below, read_mapping
from icon_dist.datasets.derived_skeleton import Pairs
from icon_dist.datasets.joint_names import flips_of_order
from icon_dist.datasets.skeleton import MAX_JOINTS
from icon_dist.errors import DataError, note, plural, shown

MAX_BYTES = 1 << 20  # of a data.yaml; a thousand names of classes take twenty kilobytes
MAX_LIST = 1 << 28  # of a list of photos
SPLITS = ("train", "val", "test", "minival", "valid", "validation")
PHOTOS = frozenset(  # endings
    (
        *("avif", "bmp", "dng", "gif", "heic", "heif", "jfif", "jpeg"),
        *("jpe", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp"),
    )
)
SHAPE = "expected [joints, 3] (x, y, visibility) or [joints, 2] (x, y)"
CLASSES = "classes.txt"
TEXTS = (CLASSES, "notes.json")  # of Label Studio's export, which has no data.yaml
KEYS = "path, train, val, kpt_shape, flip_idx, names"


@dataclass(frozen=True)
class YoloYaml:
    """What a ``data.yaml`` says."""

    file: Path
    root: str  # of ``path``, "" where there is none
    splits: dict[str, tuple[str, ...]]  # folders and lists of photos, by the name of the split
    classes: dict[int, str]
    joints: int  # 0 where the file has no kpt_shape
    dims: int  # numbers of a joint: x, y and, if it is 3, visibility
    flips: Pairs | None  # None: the file has no flip_idx
    names: tuple[str, ...]  # of the joints; () where the file has none
    bones: Pairs = ()
    notes: tuple[str, ...] = ()

    def choose(self, split: str | None) -> str:
        """The split to read: the one asked for, else train, else the only one. DataError where that is none."""
        known = ", ".join(self.splits)
        if split is None:
            if "train" not in self.splits and len(self.splits) > 1:
                raise DataError(f"{self.file} train: missing; choose one of {known} by --split")
            chosen = "train" if "train" in self.splits else next(iter(self.splits))
            if others := [f"--split {name}" for name in self.splits if name != chosen]:
                note(f"{self.file}: split {chosen} is read; {', '.join(others)} for the other photos")
            return chosen
        if split not in self.splits:
            raise DataError(f"{self.file}: no split {shown(split)}{did_you_mean(split, self.splits)}; it has {known}")
        return split

    def photos(self, split: str, *, root: str | Path | None) -> tuple[list[Path], list[str]]:
        """Photos of a split, each once, and what is wrong with its lists. ``root`` takes the place of ``path``."""
        roots = [*_given(Path(root).absolute(), self.splits[split])] if root is not None else [*self._roots()]
        files: list[Path] = []
        faults: list[str] = []
        for entry in self.splits[split]:
            place = _place(entry, [*roots, self.file.absolute().parent] if entry.lower().endswith(".txt") else roots)
            if place is None:
                places = " and ".join(dict.fromkeys(str(folder) for folder in roots[:3]))
                fix = "correct path, or pass --images with the folder that it is in"
                raise DataError(f"{self.file} {split}={shown(entry)}: no such folder or list in {places}; {fix}")
            if place.is_dir():
                below = (Path(parent, name) for parent, names in folders_below(place) for name in names)
                files += sorted(file for file in below if is_photo(file.name))
            elif place.suffix.lower() == ".txt":
                some, wrong = _in_list(place, roots)
                if wrong and not some:
                    fix = "put the photos there (an export may have left them out), or pass --images with their folder"
                    raise DataError(f"{self.file} {split}: none of {plural(len(wrong), 'photo')}, {wrong[0]}; {fix}")
                files += some
                faults += wrong
            else:
                raise DataError(f"{self.file} {split}={shown(entry)}: expected a folder or a .txt list of photos")
        if not files:
            fix = "give the folder that has them: an export may have left them out"
            raise DataError(f"{self.file} {split}: no photos in {self.splits[split][0]}; {fix}")
        return list(dict.fromkeys(files)), faults

    def _roots(self) -> Iterator[Path]:
        """Folders that ``path`` can mean: absolute, from the file, from here, or from where Ultralytics keeps sets."""
        here = self.file.absolute().parent
        root = self.root.replace("\\", "/") if not os.path.exists(self.root) else self.root
        if root:
            yield Path(os.path.normpath(here / root))
            yield Path(os.path.normpath(Path.cwd() / root))
            for folder in (here, Path.cwd()):
                yield from (Path(os.path.normpath(folder / up / "datasets" / root)) for up in (".", ".."))
        yield here  # the file lies in the set, and ``path`` is of another machine


def read_yolo_yaml(path: str | Path, *, shape: tuple[int, int] | None = None) -> YoloYaml:
    """Read and check a ``data.yaml``, or that of a folder; DataError with the key that is wrong.

    ``shape`` takes the place of a ``kpt_shape`` that is missing. A folder with ``classes.txt`` alone, as Label Studio
    exports it, has its photos in ``images``.
    """
    path, fields, notes = _fields(Path(path))
    joints, dims = shape or _shape(fields, path)
    classes = _classes(fields, path)
    names, differ = _joint_names(fields, joints, path) if joints else ((), ())
    order = fields.get("flip_idx")
    root = fields.get("path")
    if root is not None and type(root) is not str:
        raise DataError(f"{path} path={shown(root)}: expected a folder")
    return YoloYaml(
        file=path,
        root=root or "",
        splits=_splits(fields, path),
        classes=classes,
        joints=joints,
        dims=dims,
        flips=None if order in (None, []) or not joints else flips_of_order(order, joints, source=f"{path} flip_idx"),
        names=names,
        bones=_bones(fields.get("skeleton"), joints),
        notes=(*notes, *differ),
    )


def _fields(path: Path) -> tuple[Path, dict[Any, Any], list[str]]:
    """The file that says what is in a set, its content, and what is unusual about it."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (file := _yaml_in(folder)) is not None:
        path = file
    elif path.is_dir() or path.name in TEXTS:
        path = folder / CLASSES
        if not path.is_file():
            raise DataError(f"{folder}: no data.yaml and no {CLASSES} in this folder; give the path of a data.yaml")
        names = content(path, most=MAX_BYTES, what="a list of classes").decode("utf-8-sig", "replace").splitlines()
        fields = {"train": "images", "names": [name.strip() for name in names if name.strip()]}
        fix = "Label Studio's JSON export has their names (icon-dist shards build labelstudio)"
        return path, fields, [f"no data.yaml, so joints are numbered in the order of the columns; {fix}"]
    return path, read_mapping(path, most=MAX_BYTES, what="a data.yaml of YOLO pose labels", keys=KEYS), []


def _yaml_in(folder: Path) -> Path | None:
    """``data.yaml`` of a folder, else its only yaml."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".yaml", ".yml"))
    named = [file for file in files if file.stem.lower() in ("data", "dataset")]
    if len(named or files) > 1:
        raise DataError(f"{folder}: {' and '.join(file.name for file in files[:3])} in it; give the path of one")
    return next(iter(named or files), None)


def _shape(fields: dict[Any, Any], path: str | Path) -> tuple[int, int]:
    shape = fields.get("kpt_shape")
    if shape is None:
        return 0, 0
    if type(shape) is not list or len(shape) != 2 or any(type(n) is not int for n in shape) or shape[1] not in (2, 3):
        raise DataError(f"{path} kpt_shape={shown(shape)}: {SHAPE}")
    if not 1 <= shape[0] <= MAX_JOINTS:
        raise DataError(f"{path} kpt_shape={shown(shape)}: {shape[0]} joints, expected 1 to {MAX_JOINTS}")
    return shape[0], shape[1]


def _classes(fields: dict[Any, Any], path: str | Path) -> dict[int, str]:
    """Names of classes by their number: a list, a mapping, or only how many (``nc``) there are."""
    names, count = fields.get("names"), fields.get("nc")
    form = "expected a list of names, or a mapping of numbers from 0 to names"
    if count is not None and (type(count) is not int or count < 1):
        raise DataError(f"{path} nc={shown(count)}: expected how many classes there are")
    if names is None:
        if count is None:
            raise DataError(f"{path} names: missing; {form}")
        return {number: f"class_{number}" for number in range(count)}
    found = dict(enumerate(names)) if type(names) is list else names
    if type(found) is dict:
        found = {int(key) if _is_count(key) else key: name for key, name in found.items()}
    if type(found) is not dict or not found or not all(type(key) is int and 0 <= key < 1 << 31 for key in found):
        raise DataError(f"{path} names={shown(names)}: {form}")
    if wrong := [name for name in found.values() if type(name) not in (str, int) or not str(name).strip()]:
        raise DataError(f"{path} names: {shown(wrong[0])} is no name; put quotes around it")
    if count is not None and len(found) != count:
        raise DataError(f"{path} names: {plural(len(found), 'name')}, but nc={count}; correct one of them")
    return {key: str(name) for key, name in found.items()}


def _is_count(key: object) -> bool:
    return type(key) is str and re.fullmatch(r"\d{1,9}", key) is not None


def _joint_names(fields: dict[Any, Any], joints: int, path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``kpt_names``: a list, or one for each class. Where classes differ, the first counts, with a note.

    sleap-io calls it ``node_names``.
    """
    given = fields.get("kpt_names", fields.get("node_names"))
    if given in (None, [], {}):
        return (), ()
    if type(given) is dict and not any(type(one) is list for one in given.values()):
        given = list(given.values())  # a name for each number of a joint
    lists = list(given.values()) if type(given) is dict else [given]
    if type(given) is list and all(type(one) is list for one in given):
        lists = given
    for names in lists:
        flat = type(names) is list and all(type(name) in (str, int) and str(name).strip() for name in names)
        if not flat:
            raise DataError(
                f"{path} kpt_names={shown(given)}: expected the names of the joints, or such a list a class"
            )
        if len(names) != joints:
            raise DataError(f"{path} kpt_names: {plural(len(names), 'name')}, but kpt_shape has {joints} joints")
        if len({str(name).strip() for name in names}) != joints:
            raise DataError(f"{path} kpt_names={shown(names)}: the same name twice")
    differ = any(a != b for a, b in pairwise(lists))
    notes = ("kpt_names differ between classes, which have the same joints; those of the first are used",)
    return tuple(str(name).strip() for name in lists[0]), notes if differ else ()


def _bones(links: object, joints: int) -> Pairs:
    """Pairs of joints, numbered from 0 as ``flip_idx`` is, that sleap-io writes; () for anything else."""
    if type(links) is not list or not all(type(link) is list and len(link) == 2 for link in links):
        return ()
    if not all(type(end) is int and 0 <= end < joints for link in links for end in link):
        return ()
    return tuple(dict.fromkeys((min(a, b), max(a, b)) for a, b in links if a != b))


def _splits(fields: dict[Any, Any], path: str | Path) -> dict[str, tuple[str, ...]]:
    found = {}
    by_name = {key.lower(): value for key, value in fields.items() if type(key) is str}  # CVAT: Train
    for split in SPLITS:
        given = by_name.get(split)
        entries = [given] if type(given) is str else given
        if entries in (None, [], [""]):
            continue
        if type(entries) is not list or not all(type(entry) is str and entry.strip() for entry in entries):
            raise DataError(
                f"{path} {split}={shown(given)}: expected a folder, a .txt list of photos, or a list of these"
            )
        found[split] = tuple(entry.strip() for entry in entries)
    if not found:
        raise DataError(f"{path}: no train, val or test; expected the folder of the photos of each")
    return found


def _given(root: Path, entries: tuple[str, ...]) -> Iterator[Path]:
    """The folder that ``--images`` names, and the one above where it is already the first folder of an entry."""
    yield root
    if any(entry.replace("\\", "/").removeprefix("./").partition("/")[0] == root.name for entry in entries):
        yield root.parent


def _place(entry: str, roots: list[Path], *, ends: bool = False) -> Path | None:
    """The folder, list or photo that an entry means, from the first root that has it.

    ``..`` at its beginning is as Roboflow writes it, for a folder beside the file. The end of an absolute path is
    looked for too: it may be of another machine. ``ends``: so is that of any other, as CVAT's ``data/images/a.jpg``.
    """
    plain = entry.replace("\\", "/")
    below = re.sub(r"^[A-Za-z]:", "", plain).lstrip("/").split("/")
    forms = [entry, plain, re.sub(r"^(\.\./)+", "", plain)]
    if ends or plain.startswith("/") or re.match(r"[A-Za-z]:/", plain):
        forms += ["/".join(below[at:]) for at in range(len(below))]
    for form in forms:
        for root in roots:
            if os.path.exists(place := os.path.normpath(root / form)):  # False, where Path's raises, of endless names
                return Path(place)
    return None


def is_photo(name: str) -> bool:
    """Whether a file has the ending of a photo, and is not hidden, as copies by macOS are (``._a.jpg``)."""
    return name.rpartition(".")[2].lower() in PHOTOS and not name.startswith(".")


def _in_list(file: Path, roots: list[Path]) -> tuple[list[Path], list[str]]:
    """Photos of a list, a line each, from the list's folder or a root; and a text for every one that is not there."""
    try:
        lines = content(file, most=MAX_LIST, what="a list of photos").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8; save it as UTF-8") from None
    files: dict[Path, str] = {}  # with the line that each is from
    faults = []
    for number, line in enumerate(lines, 1):
        if name := line.strip():
            place = _place(name, [file.parent, *roots], ends=True)
            if place is None or not place.is_file():
                faults.append(f"{file.name}:{number} {shown(name)}: no such photo")
            elif not _same(files.setdefault(place, name), name):
                faults.append(f"{file.name}:{number} {shown(name)}: {place}, as {shown(files[place])} is; keep one")
    return list(files), faults


def _same(a: str, b: str) -> bool:
    """Whether two lines name one photo: one path is the end of the other."""
    a, b = (f"/{os.path.normpath(name.replace(chr(92), '/'))}" for name in (a, b))
    return a.endswith(b) or b.endswith(a)
