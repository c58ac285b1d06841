"""Pictures of poses: skeletons on crops, laid out as one sheet.

Colors are of Okabe and Ito's palette, told apart with every kind of color vision: blue left, orange right (of the
person, not of the picture), yellow where a limb has no side. Everything is drawn at twice the size, then averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.types import Skeleton

U8 = NDArray[np.uint8]
Color = tuple[int, int, int]
Point = tuple[int, int]

LEFT, RIGHT, CENTER = (86, 180, 233), (230, 140, 20), (240, 228, 66)
PALETTE = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
WRONG = (213, 60, 94)
TRUTH, PAPER, INK, EDGE = (255, 255, 255), (248, 248, 246), (35, 35, 40), (20, 20, 25)
FACTOR = 2  # drawn px per sheet px
GAP, STRIP, LEGEND = 8, 20, 26  # sheet px: between tiles, title, legend
SHIFT = 4  # fractional bits of drawn coordinates
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Tile:
    """One crop and its pose; points with v (or score) > 0 are drawn, those with v = 1 (occluded) hollow."""

    image: U8  # [h, w, 3] RGB
    keypoints: NDArray[np.floating]  # [K, 3] x, y in px of the tile, v or score
    title: str = ""
    reference: NDArray[np.floating] | None = None  # [K, 3] the ground truth, drawn thin
    wrong: NDArray[np.bool_] | None = None  # [K] ringed, with a line to where the reference has them


def sheet(
    tiles: Sequence[Tile], skeleton: Skeleton, *, columns: int, tile_height: int = 256, captions: bool = True
) -> U8:
    """All tiles in rows of ``columns`` at one height, with ``captions`` (titles and a legend), RGB ``[H, W, 3]``."""
    drawn = [_draw(tile, skeleton, height=FACTOR * tile_height) for tile in tiles]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    gap, strip = FACTOR * GAP, FACTOR * STRIP * captions
    width = max(sum(t.shape[1] + gap for t in row) for row in rows) + gap
    if captions:
        width = max(width, FACTOR * (640 if any(t.wrong is not None for t in tiles) else 420))
    line = FACTOR * tile_height + strip + gap
    page = np.full((gap + line * len(rows) + FACTOR * LEGEND * captions, width, 3), PAPER, dtype=np.uint8)
    for number, row in enumerate(rows):
        x, y = gap, gap + number * line
        for offset, picture in enumerate(row):
            title = tiles[number * columns + offset].title
            _text(page, title, (x, y + strip - FACTOR * 6), width=picture.shape[1])
            page[y + strip : y + strip + picture.shape[0], x : x + picture.shape[1]] = picture
            x += picture.shape[1] + gap
    if captions:
        truth, wrong = (any(getattr(t, name) is not None for t in tiles) for name in ("reference", "wrong"))
        _legend(page, truth=truth, wrong=wrong)
    h, w = page.shape[:2]
    return np.asarray(cv2.resize(page, (w // FACTOR, h // FACTOR), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_png(path: str, image: U8) -> None:
    """Write RGB ``image`` to a path or s3://, all of it or nothing."""
    storage.write(path, encode(image, ".png"))


def encode(image: U8, kind: str) -> bytes:
    """RGB ``image`` as a file: ``.png``, or ``.jpg`` where size matters."""
    done, file = cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]))
    assert done
    return file.tobytes()


def overlay(
    picture: U8,
    poses: NDArray[np.floating],
    skeleton: Skeleton,
    *,
    sizes: NDArray[np.floating],
    ids: Sequence[int] | None = None,
) -> None:
    """Draw ``poses [n, K, 3]`` onto the RGB ``picture [h, w, 3]``: x, y in its px, and 2, 1 (uncertain) or 0 (hidden).

    ``sizes [n]`` are those of the instances in px: lines of small ones are thinner. Joints have the colors of their
    sides. Where a skeleton has none, or instances have ``ids``, every instance has a color of its own.
    """
    by_side = sides(skeleton) if skeleton.flips and ids is None else None
    largest = max(picture.shape[:2])
    for number, pose in enumerate(poses):
        size = float(np.clip(sizes[number], largest / 20, largest)) / 256
        color = PALETTE[(number if ids is None else ids[number]) % len(PALETTE)]
        colors = by_side or [color] * skeleton.num_joints
        _pose(picture, pose, skeleton, colors, zoom=1, thick=max(2, 2.6 * size), dot=max(3, 4 * size))
        if ids is not None:
            _number(picture, ids[number], pose[pose[:, 2] > 0, :2], color, size=size)


def _number(picture: U8, number: int, points: NDArray[np.floating], color: Color, *, size: float) -> None:
    """The number of an instance above its highest joint, inside the picture."""
    if not len(points):
        return
    height = max(0.4, 0.6 * size)
    (width, tall), _ = cv2.getTextSize(str(number), FONT, height, 1)
    x, y = points[points[:, 1].argmin()] - (width / 2, max(6, 9 * size))
    at = int(np.clip(x, 0, max(0, picture.shape[1] - width))), int(np.clip(y, tall, picture.shape[0]))
    line = max(1, round(1.2 * size))
    for ink, thickness in ((EDGE, 3 * line), (color, line)):
        cv2.putText(picture, str(number), at, FONT, height, ink, thickness, cv2.LINE_AA)


def sides(skeleton: Skeleton) -> list[Color]:
    """The color of every joint. Of mirrored joints, the left one is that in whose name an l stands where the other
    has something else, as in ``front_left_paw`` or ``LShoulder``; or the first, where no name has one."""
    colors = [CENTER] * skeleton.num_joints
    for pair in skeleton.flips:
        a, b = (skeleton.joints[joint].lower() for joint in pair)
        differs = next((other for one, other in zip(a, b, strict=False) if one != other), "")
        left, right = pair[::-1] if differs == "l" else pair
        colors[left], colors[right] = LEFT, RIGHT
    return colors


def _draw(tile: Tile, skeleton: Skeleton, *, height: int) -> U8:
    zoom = height / tile.image.shape[0]
    width = max(1, round(tile.image.shape[1] * zoom))
    picture = np.asarray(cv2.resize(tile.image, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    size = height / 256
    colors = sides(skeleton)
    if tile.reference is not None:
        _pose(picture, tile.reference, skeleton, [TRUTH] * len(colors), zoom=zoom, thick=0.9 * size, dot=1.7 * size)
    _pose(picture, tile.keypoints, skeleton, colors, zoom=zoom, thick=2.2 * size, dot=3.2 * size)
    if tile.wrong is not None and tile.reference is not None:
        for joint in np.flatnonzero(tile.wrong).tolist():
            at, to = (_point(*p[joint, :2].tolist(), zoom=zoom) for p in (tile.keypoints, tile.reference))
            _mark(picture, at, to, size=size)
    return picture


def _pose(
    picture: U8,
    keypoints: NDArray[np.floating],
    skeleton: Skeleton,
    colors: list[Color],
    *,
    zoom: float,
    thick: float,
    dot: float,
) -> None:
    """Bones, then joints, each over a dark edge so that they stand out on any background."""
    body = {joint for limb in skeleton.limbs for joint in limb} or set(range(skeleton.num_joints))
    points = [_point(x, y, zoom=zoom) for x, y, _ in keypoints.tolist()]
    shown = [value > 0 for value in keypoints[:, 2].tolist()]
    edge = max(1, round(0.6 * thick))
    weights = [1.0 if joint in body else 0.6 for joint in range(len(points))]  # the face is drawn finer
    bones = [(a, b) for a, b in skeleton.bones or skeleton.limbs if shown[a] and shown[b]]
    for a, b in bones:
        _line(picture, points[a], points[b], EDGE, round(thick * min(weights[a], weights[b])) + 2 * edge)
    for a, b in bones:
        color = colors[a] if colors[a] == colors[b] else CENTER
        _line(picture, points[a], points[b], color, round(thick * min(weights[a], weights[b])))
    for joint, value in enumerate(keypoints[:, 2].tolist()):
        if value > 0:
            _dot(picture, points[joint], dot * weights[joint], colors[joint], hollow=value == 1)


def _mark(picture: U8, at: Point, to: Point, *, size: float) -> None:
    """A ring, and a line from it to where the joint belongs."""
    radius, line = round(4.8 * size * (1 << SHIFT)), max(1, round(1.1 * size))
    for color, thickness in ((EDGE, line + 2 * max(1, round(0.5 * size))), (WRONG, line)):
        _line(picture, at, to, color, thickness)
        cv2.circle(picture, at, radius, color, thickness, cv2.LINE_AA, SHIFT)


def _point(x: float, y: float, *, zoom: float) -> Point:
    """Px of the tile to drawn px; pixel centers sit on integers in both."""
    return _fixed((x + 0.5) * zoom - 0.5, (y + 0.5) * zoom - 0.5)


def _fixed(x: float, y: float) -> Point:
    """cv2's fixed point, SHIFT fractional bits; far-off predictions stay within its range."""
    far = 65536.0
    return round(min(max(x, -far), far) * (1 << SHIFT)), round(min(max(y, -far), far) * (1 << SHIFT))


def _line(picture: U8, a: Point, b: Point, color: Color, thickness: int) -> None:
    cv2.line(picture, a, b, color, max(1, thickness), cv2.LINE_AA, SHIFT)


def _dot(picture: U8, point: Point, radius: float, color: Color, *, hollow: bool) -> None:
    """A disk with a dark edge; hollow = occluded."""
    unit = 1 << SHIFT
    cv2.circle(picture, point, round((radius + 0.3 * radius) * unit), EDGE, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(picture, point, round(radius * unit), color, -1, cv2.LINE_AA, SHIFT)
    if hollow:
        cv2.circle(picture, point, round(0.55 * radius * unit), EDGE, -1, cv2.LINE_AA, SHIFT)


def _text(page: U8, text: str, at: tuple[int, int], *, width: int) -> int:
    """One line of text with its baseline at ``at``, cut to ``width``; the width it took."""
    size = 0.42 * FACTOR
    (long, _), _ = cv2.getTextSize(text, FONT, size, FACTOR)
    while long > width and text:
        text = text[:-1]
        (long, _), _ = cv2.getTextSize(text + "...", FONT, size, FACTOR)
        if long <= width:
            text += "..."
    cv2.putText(page, text, at, FONT, size, INK, FACTOR, cv2.LINE_AA)
    return int(long)


def _legend(page: U8, *, truth: bool, wrong: bool) -> None:
    """What the colors mean, along the bottom edge."""
    x, y = 3 * FACTOR * GAP, page.shape[0] - FACTOR * LEGEND // 2
    entries = [("left", LEFT, False), ("right", RIGHT, False), ("center", CENTER, False), ("occluded", LEFT, True)]
    entries += [("ground truth", TRUTH, False)] * truth
    for name, color, hollow in entries:
        thin = name == "ground truth"
        ends = _fixed(x - 8 * FACTOR, y), _fixed(x + 8 * FACTOR, y)
        if not hollow:
            _line(page, *ends, EDGE, (3 if thin else 5) * FACTOR)
            _line(page, *ends, color, (1 if thin else 3) * FACTOR)
        _dot(page, _fixed(x, y), (2.0 if thin else 3.5) * FACTOR, color, hollow=hollow)
        x += 14 * FACTOR
        x += _text(page, name, (x, y + 4 * FACTOR), width=page.shape[1]) + 24 * FACTOR
    if wrong:
        _mark(page, _fixed(x, y), _fixed(x + 18 * FACTOR, y), size=FACTOR)
        _text(page, "wrong, to where it belongs", (x + 24 * FACTOR, y + 4 * FACTOR), width=page.shape[1])
