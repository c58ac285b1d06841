"""Where generated people stand: walls, floors, clutter, chairs, and things in front of people."""

from __future__ import annotations

import cv2
import numpy as np

from icon_dist.datasets.synthetic.body import SKIN, cloth_paint, plain, sample_cloth, sample_color
from icon_dist.datasets.synthetic.canvas import F64, U8, Part
from icon_dist.datasets.synthetic.pose import Pose, Rng, across, unit

UP = np.array([0.0, -1.0, 0.0])
FRONT = unit(np.array([0.03, 0.02, 1.0]))  # towards the viewer, but not exactly: no axis of a thing is parallel to it


def background(rng: Rng, *, wh: tuple[int, int], clutter: float) -> U8:
    """A wall, a floor and flat distractors, RGB [h, w, 3]; ``clutter`` 0-1."""
    w, h = wh
    horizon = int(h * rng.uniform(0.35, 0.8))
    image = np.empty((h, w, 3), dtype=np.float32)
    for rows in (slice(0, horizon), slice(horizon, h)):
        top, bottom = (sample_color(rng, saturation=(0, 0.1 + 0.5 * clutter), value=(0.25, 0.95)) for _ in range(2))
        ramp = np.linspace(0, 1, rows.stop - rows.start, dtype=np.float32)[:, None, None]
        image[rows] = top + 0.6 * ramp * (bottom - top)
    for cells in (6, 24, 80):
        sheet = rng.standard_normal((max(2, h * cells // w), cells, 3)).astype(np.float32)
        sheet = 0.5 * sheet + sheet.mean(2, keepdims=True)
        image += cv2.resize(sheet, (w, h), interpolation=cv2.INTER_CUBIC) * np.float32(rng.uniform(2, 5 + 9 * clutter))
    out = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(4, 8) + 22 * clutter * rng.random())):
        _shape(rng, out, horizon)
    return out


def _shape(rng: Rng, image: U8, horizon: int) -> None:
    """A flat thing on the wall or the floor: frame, window, blob, bar or stroke."""
    h, w = image.shape[:2]
    color = [float(c) for c in sample_color(rng, saturation=(0, 0.9), value=(0.1, 1))]
    x, y = int(rng.uniform(0, w)), int(rng.uniform(0, h))
    kind = rng.integers(5)
    if kind == 0:
        size = rng.uniform(10, 70, 2).astype(int)
        low, high = (x, min(y, horizon) - int(size[1])), (x + int(size[0]), min(y, horizon))
        cv2.rectangle(image, low, high, color, -1)
        cv2.rectangle(image, low, high, [0.6 * c for c in color], int(rng.integers(1, 4)))
    elif kind == 1:
        axes = (int(rng.uniform(4, 30)), int(rng.uniform(4, 30)))
        cv2.ellipse(image, (x, y), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
    elif kind == 2:
        corners = np.array([x, y]) + rng.uniform(-35, 35, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], color, cv2.LINE_AA)
    elif kind == 3:
        for k in range(int(rng.integers(2, 7))):
            cv2.line(image, (x + 9 * k, y), (x + 9 * k, y - int(rng.uniform(20, 60))), color, 2, cv2.LINE_AA)
    else:
        bend = [(x, y)]
        for _ in range(int(rng.integers(1, 4))):
            dx, dy = rng.uniform(-45, 45, 2)
            bend.append((bend[-1][0] + int(dx), bend[-1][1] + int(dy)))
        cv2.polylines(image, [np.array(bend)], False, color, int(rng.integers(2, 9)), cv2.LINE_AA)


def limb_like(rng: Rng, *, wh: tuple[int, int], size: float) -> list[Part]:
    """Branches, pipes and bags behind everybody: rounded, shaded, some of them skin-colored."""
    at = np.array([rng.uniform(0, wh[0]), rng.uniform(0, wh[1]), -1e5])
    cloth = cloth_paint(sample_cloth(rng, contrast=1.0, plain=0.4), 0)
    paint = plain(SKIN[rng.integers(len(SKIN))]) if rng.random() < 0.35 else cloth
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        way = unit(rng.standard_normal(3) * (1, 1, 0.4))
        end = at + way * size * rng.uniform(0.08, 0.3)
        ra, rb = size * rng.uniform(0.02, 0.06, 2)
        parts.append(Part("clutter", at, end, float(ra), float(rb), unit(across(FRONT, way)), paint))
        at = end
    return parts


def obstacle(rng: Rng, *, foot: F64, size: float) -> list[Part]:
    """Something standing before a person whose feet are at ``foot``: a table, a pole, a bag or a bush."""
    paint = cloth_paint(sample_cloth(rng, contrast=0.7, plain=0.5), 0)
    base = foot + size * np.array([rng.uniform(-0.22, 0.22), 0.02, 0.0])

    def part(a: F64, b: F64, ra: float, rb: float, *, front: F64 = FRONT, flat: float = 1.0) -> Part:
        return Part("clutter", base + size * a, base + size * b, size * ra, size * rb, front, paint, flat)

    kind = rng.integers(4)
    if kind == 0:  # table
        top, half = rng.uniform(0.3, 0.45) * UP, np.array([rng.uniform(0.12, 0.3), 0, 0])
        legs = [part(top + x * half, x * half, 0.016, 0.016) for x in (-0.8, 0.8)]
        return [*legs, part(top - half, top + half, 0.12, 0.12, front=UP, flat=0.18)]
    if kind == 1:  # pole
        r = rng.uniform(0.012, 0.04)
        return [part(np.zeros(3), np.array([rng.uniform(-0.2, 0.2), -rng.uniform(0.5, 1.3), 0]), r, r)]
    if kind == 2:  # bag, ball
        r = rng.uniform(0.06, 0.15)
        return [part(r * UP, 1.8 * r * UP, r, r * rng.uniform(0.5, 1), flat=0.8)]
    tips = rng.uniform((-0.2, -0.4, -0.05), (0.2, -0.1, 0.05), (int(rng.integers(6, 14)), 3))
    return [part(np.zeros(3), tip, 0.012, 0.03) for tip in tips]  # bush


def chair(rng: Rng, pose: Pose, *, girth: float) -> list[Part]:
    """A stool or chair under a seated person, in the person's own units and frame."""
    left, down, forward = pose.pelvis.T
    paint = cloth_paint(sample_cloth(rng, contrast=0.6, plain=0.6), 0)
    seat = 0.13 * girth * down

    def bar(a: F64, b: F64, r: float) -> Part:
        return Part("clutter", a, b, r, r, unit(across(FRONT, unit(b - a))), paint)

    corners = [seat + 0.1 * x * left + (0.05 + 0.1 * z) * forward for x in (-1, 1) for z in (-1, 1)]
    legs = [bar(corner, corner + 0.22 * down, 0.013) for corner in corners]
    board = Part("clutter", seat - 0.02 * forward, seat + 0.12 * forward, 0.13, 0.13, down, paint, 0.25)
    back = [seat - 0.15 * forward - y * down for y in (0.08, 0.16, 0.24)] if rng.random() < 0.5 else []
    return [board, *legs, *(bar(at - 0.1 * left, at + 0.1 * left, 0.022) for at in back)]
