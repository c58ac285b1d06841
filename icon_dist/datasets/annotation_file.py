"""Reading annotation files that others wrote: json or json.gz, file names, and one line for whatever is wrong.

Bad entries name the file, the entry and the field.
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from icon_dist.config.safe_yaml import read_plain
from icon_dist.datasets import not_json
from icon_dist.errors import DataError, StorageError, note, plain, plural, shorten, shown
from icon_dist.storage import local

Entry = dict[str, Any]  # of a file, as JSON has it
NUMBER = frozenset((int, float))  # exact types: bool is an int, and no coordinate
MAX_BYTES = 1 << 29  # of an unpacked file; COCO's largest has half of it
LARGEST_ID = 2**53  # exact in every reader of json
LARGEST = 1e9  # coordinate, px; far from the limits of float32
LONGEST_NAME = 255  # bytes of a file name on every file system in use
LONGEST_PATH = 3000  # bytes of a file name with its folders
PYTHON_BYTES = {b"{": 256, b"[": 72, b",": 40, b'"': 30}  # a mark of json in memory: object, list, number, half a text
MAX_MEMORY = 4 << 30  # of the values of one file; COCO's largest takes three quarters of it


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
    return parse(content(path, most=MAX_BYTES, what="an annotation file"), source=path)


def content(path: str | Path, *, most: int, what: str) -> bytes:
    """Bytes of a file of at most ``most``; DataError, at once, for whatever is no such file."""
    try:
        return local.read(Path(path), 0, None, most=most)
    except FileNotFoundError:
        kind = "is a folder" if Path(path).is_dir() else "no such file"
        raise DataError(f"{path}: {kind}; give the path of {what}") from None
    except StorageError as error:
        raise DataError(str(error)) from None


def read_mapping(path: str | Path, *, most: int, what: str, keys: str) -> dict[Any, Any]:
    """Content of a YAML file of at most ``most`` bytes that holds a mapping; ``keys`` says which are expected."""
    try:
        fields = read_plain(content(path, most=most, what=what).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {shorten(str(error), 200)}") from None
    except ValueError as error:  # a number or a date that is none
        raise DataError(f"{path}: not YAML: {shorten(str(error))}; put quotes around text") from None
    if type(fields) is not dict:
        raise DataError(f"{path}: expected a mapping with {keys}")
    return fields


def parse(raw: bytes, *, source: str | Path) -> Any:
    """Content of a json file whose bytes are ``raw``, compressed or not."""
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = unzip(raw, source=source)
        except (OSError, EOFError, zlib.error):
            raise DataError(f"{source}: truncated or damaged gzip file; download it again") from None
    else:
        _require_room(_room(raw), source=source)
    if not raw or raw.isspace():
        raise DataError(f"{source}: empty file; download it again")
    if (other := not_json.what_else(raw)) is not None:
        raise DataError(f"{source}: {other}")
    try:
        with collector_off():
            return json.loads(raw)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{source}: {not_json.what_is_wrong(error)}") from None
    except RecursionError:
        raise DataError(f"{source}: nested too deeply for an annotation file; get it again") from None
    except ValueError:
        raise DataError(f"{source}: a number of thousands of digits in it; get it again") from None


def _room(raw: bytes) -> int:
    """Bytes of memory that the values in a json text take, about."""
    return sum(raw.count(mark) * size for mark, size in PYTHON_BYTES.items())


def _require_room(room: int, *, source: str | Path) -> None:
    """DataError for a file of which every few bytes become an object: known before any is made."""
    if room > MAX_MEMORY:
        text = f"its values take more than {MAX_MEMORY >> 30} GiB of memory"
        raise DataError(f"{source}: {text}; no annotation file is so large")


def unzip(data: bytes, *, source: str | Path) -> bytes:
    """What gzip ``data`` holds; more than ``MAX_BYTES``, or than values have room, is refused as soon as it is seen."""
    raw, room = bytearray(), 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while chunk := file.read(1 << 20):
            raw += chunk
            room += _room(chunk)
            _require_room(room, source=source)
            if len(raw) > MAX_BYTES:
                text = f"unpacks to more than {MAX_BYTES >> 20} MiB; no annotation file is so large"
                raise DataError(f"{source}: {text}")
    return bytes(raw)


class Faults:
    """Bad entries of one file: the first is raised, or ``drop`` counts them all for one warning.

    ``notes`` hold what was unusual and how it was read.
    """

    def __init__(self, source: str | Path, *, drop: bool) -> None:
        self.source = source
        self.drop = drop
        self.texts: list[str] = []
        self.notes: list[str] = []
        self.places: dict[int, str] = {}  # where an annotation stands, by its id, in a format without ids

    def entry(self, number: int) -> str:
        """The annotation with the id ``number``, as a message names it."""
        return self.places.get(number, f"ann id={number}")

    def add(self, text: str) -> None:
        """``text`` starts with the entry: ``ann id=17 keypoints: 50 values, expected 51``."""
        if not self.drop:
            raise DataError(f"{self.source}#{text}; fix the file or pass --drop-invalid")
        self.texts.append(text)

    def note(self, *texts: str) -> None:
        """Notes go into shards: of the file only its name, without folders."""
        self.notes += [plain(f"{Path(self.source).name}: {text}") for text in texts]

    def warn(self) -> None:
        """Print one note on stderr with the number of dropped entries and the first; nothing if none was dropped."""
        if self.texts:
            note(f"{self.source}: {self._dropped()}")

    def _dropped(self) -> str:
        return f"dropped {plural(len(self.texts), 'invalid entry', 'invalid entries')}; the first: {self.texts[0]}"

    def nobody(self, *, people: int, crowds: int, unlabelled: int, placed: int = 0) -> DataError:
        """Why nobody is left of ``people`` annotations; ``placed`` joints have coordinates, but v = 0."""
        facts = [plural(people, "annotation")]
        facts += [plural(crowds, "crowd")] if crowds else []
        facts += [f"{unlabelled} without joints"] if unlabelled else []
        facts += [f"{placed} joints have coordinates and v=0; write v=2, or 1 if hidden"] if placed else []
        facts += [self._dropped()] if self.texts else []
        text = f"no person with a labelled joint; nothing to train on or to score ({', '.join(facts)})"
        return DataError(f"{self.source}: {text}")


def are_numbers(values: Iterable[object]) -> bool:
    """Whether all are numbers, finite, and of a size that a coordinate can have."""
    return all(type(v) in NUMBER and abs(v) < LARGEST for v in values)  # type: ignore[arg-type]


def is_vector(values: object, length: int) -> bool:
    """Whether ``values`` is a list of so many such numbers."""
    return type(values) is list and len(values) == length and are_numbers(values)


def is_id(value: object) -> bool:
    """Return whether ``value`` can be the id of an image or an annotation: an int from 0 to below 2**53, no bool."""
    return type(value) is int and 0 <= value < LARGEST_ID


def id_fault(key: str, value: object) -> str:
    """Why the ``value`` of a field is none that :func:`is_id` takes."""
    below = " and below 2**53" if type(value) is int and value > 0 else ""
    return f"{key}={shown(value)}: expected an integer >= 0{below}"


def mend_wholes(entries: object, *keys: str) -> None:
    """Make integers of whole numbers such as ``17.0`` in these fields: tables write so if any in the column is missing.

    What is no list of objects is left for checks.
    """
    for entry in entries if type(entries) is list else ():
        for key in keys if type(entry) is dict else ():
            if type(value := entry.get(key)) is float and value.is_integer():
                entry[key] = int(value)


def name_fault(name: object) -> str | None:
    """Why ``name`` is no relative path inside the images folder."""
    if type(name) is not str or not name.strip():
        return f"{shown(name)}: expected the name of an image"
    if not name.isprintable():
        return f"{name!r}: holds control characters, expected a plain name"
    if "://" in name:
        return f"{shown(name)}: is an address, expected the name of a file in the images folder"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        return f"{shown(name)}: is an absolute Windows path, expected one relative to the images folder"
    if name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name):
        return f"{shown(name)}: leaves the images folder, expected a relative path without '..'"
    if "\\" in name:
        return f"{shown(name)}: holds a backslash, expected '/' between folders; no such file is in the images folder"
    try:
        written = name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return f"{shown(name)}: no file can have this name"
    if len(written) > LONGEST_PATH or max(map(len, written.split(b"/"))) > LONGEST_NAME:
        return f"{shown(name)}: too long, a file name has at most {LONGEST_NAME} bytes, {LONGEST_PATH} with its folders"
    return None


def is_file_of(folder: str | Path, name: str) -> bool:
    """Whether ``name`` is a relative path to a file in ``folder``."""
    return name_fault(name) is None and (Path(folder) / name).is_file()


def folders_below(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and all below it, each once whatever links lead to it, with the names of its files."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield parent, sorted(names)


def missing_files(names: Collection[str], folder: str | Path) -> set[str]:
    """Those of ``names`` that are not in ``folder``; each directory is listed once, no file is touched."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such images folder; give the folder that holds the photos")
    present: dict[str, set[str]] = {}
    missing = set()
    for name in names:
        parent, _, leaf = name.rpartition("/")
        if parent not in present:
            try:
                present[parent] = set(os.listdir(root / parent)) if (root / parent).is_dir() else set()
            except OSError as error:
                raise DataError(f"{root / parent}: {error.strerror}; make the images folder readable") from None
        if leaf not in present[parent]:
            missing.add(name)
    if len(missing) == len(set(names)) > 1:
        first = min(missing)
        parent, _, leaf = first.rpartition("/")
        near = sorted(one for one in present[parent] if Path(one).stem in (leaf, Path(leaf).stem))
        there = f" (but {near[0]} is)" if near else ""
        photos = plural(len(missing), "photo")
        raise DataError(f"{folder}: none of {photos} is there, such as {first}{there}; give theirs")
    return missing
