"""Photos that two sets share, also if they were cut, scaled or encoded again: what leaks from one split to another.

Coarse pictures of all people find who is worth a look (:func:`similar`); two pictures are of one photo if their fine
structure is the same in some place and at some scale (:func:`likeness`). In Leeds Sports Pose extended, twins have .86
to .97 of it, all others less than .69.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import DataError, plural
from icon_dist.images.image import decode
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import ShardSet

SIDE = 64  # px of the longer side of a picture in which structure is compared
COARSE = 8  # px of the sides of a coarse picture
NEAREST, SIMILAR = 3, 0.75  # so many people of the other set are looked at, whose coarse pictures correlate so much
SAME = 0.74  # likeness of one photo
INNER = 6  # the middle of a picture without a sixth at each side is searched in the other
SCALES = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.17, 1.25, 1.33)
SMALLEST = 12  # px of a picture that can be searched
FLAT = 1.0  # gray levels; a picture with less structure shows nothing
TOGETHER = 128  # people that are compared with all others at once

Picture = UInt8[np.ndarray, "_ _"]  # gray levels, of any height and width


def near_twins(shards: ShardSet, other: ShardSet) -> Iterator[str]:
    """A line for each two photos that are the same one, in ``shards`` and in ``other``."""
    mine, theirs = _pictures(shards), _pictures(other)
    of_sha = {sha.tobytes(): row for row, sha in enumerate(other.sha256)}
    pairs = {(row, of_sha[sha.tobytes()]): 1.0 for row, sha in enumerate(shards.sha256) if sha.tobytes() in of_sha}
    for row, column in similar(mine, theirs):
        if (row, column) not in pairs and (found := likeness(mine[row], theirs[column])) > SAME:
            pairs[row, column] = found
    names, other_names = _photos(shards), _photos(other)
    photos: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for row, column in sorted(pairs):
        pair = names[int(shards.image_id[row])], other_names[int(other.image_id[column])]
        photos.setdefault(pair, []).append((row, column))
    for (file, other_file), rows in sorted(photos.items()):
        first, second = rows[0]
        who = f"person {shards.instance[first]} and {other.instance[second]}"
        more = f" and {plural(len(rows) - 1, 'other')}" if len(rows) > 1 else ""
        alike = max(pairs[pair] for pair in rows)
        yield f"{file} is {other_file} of {other.uri}, {alike:.2f} alike ({who}{more})"


def similar(mine: list[Picture], theirs: list[Picture]) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose coarse pictures are alike: for each of ``mine`` the nearest few of ``theirs``."""
    ours, others = _coarse(mine), _coarse(theirs)
    nearest = min(NEAREST, len(others))
    for start in range(0, len(ours), TOGETHER):
        alike = ours[start : start + TOGETHER] @ others.T
        columns = np.argpartition(-alike, nearest - 1, axis=1)[:, :nearest]
        for row, column in np.argwhere(np.take_along_axis(alike, columns, axis=1) > SIMILAR).tolist():
            yield start + row, int(columns[row, column])


def likeness(a: Picture, b: Picture) -> float:
    """Largest correlation, up to 1, of the fine structure of the middle of one picture with a place in the other."""
    return max(_found(a, b), _found(b, a))


def _found(part: Picture, whole: Picture) -> float:
    height, width = part.shape
    middle = part[height // INNER : height - height // INNER, width // INNER : width - width // INNER]
    structure, best = _structure(whole), 0.0
    for scale in SCALES:
        size = round(middle.shape[1] * scale), round(middle.shape[0] * scale)
        if size[0] > whole.shape[1] or size[1] > whole.shape[0] or min(size) < SMALLEST:
            continue
        sought = _structure(cv2.resize(middle, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
        if sought.std() > FLAT and structure.std() > FLAT:
            best = max(best, float(cv2.matchTemplate(structure, sought, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _structure(picture: Picture) -> Float32[np.ndarray, "_ _"]:
    """What a picture has beyond its blurred self: without light, shade and sky, in which photos resemble each other."""
    fine = picture.astype(np.float32)
    return np.asarray(fine - cv2.GaussianBlur(fine, (0, 0), 3))


def _coarse(pictures: list[Picture]) -> Float32[np.ndarray, "n d"]:
    """Small pictures of mean 0 and length 1."""
    small = [cv2.resize(one, (COARSE, COARSE), interpolation=cv2.INTER_AREA).ravel() for one in pictures]
    values = np.array(small, np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6))


def _pictures(shards: ShardSet) -> list[Picture]:
    """Gray pictures of all people, at most ``SIDE`` px high and wide; 1 px of one that cannot be decoded."""
    pictures = [np.zeros((1, 1), np.uint8)] * len(shards)
    line, total = ProgressLine("looking at", "shards"), len(shards.shard_names)
    for number in range(total):
        line(number, total)
        data = storage.read(shards.shard_uri(number))
        for row in np.flatnonzero(shards.shard == number).tolist():
            start = int(shards.offset[row])
            with suppress(DataError):
                pixels = decode(data[start : start + int(shards.size[row])], name=shards.key[row])
                pictures[row] = _small(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
    return pictures


def _small(pixels: NDArray[Any]) -> Picture:
    zoom = min(1.0, SIDE / max(pixels.shape))
    size = max(1, round(pixels.shape[1] * zoom)), max(1, round(pixels.shape[0] * zoom))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _photos(shards: ShardSet) -> dict[int, str]:
    """Names of photos by their id."""
    return {image["id"]: image["file_name"] for image in read_truth(shards.uri)["images"]}
