"""A z-buffer for round cones: the only primitive generated people are made of.

A round cone is the convex hull of two spheres; the ray-surface intersection is Inigo Quilez's ``iRoundedCone``, for
parallel rays and with an optional flattening along one axis (torsos are not round). Every pixel remembers the part in
front, so that visibility labels are read off the picture itself and cannot disagree with it.

Canvas px: x right, y down, z towards the viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Paint = Callable[[F32, F32, F32], F32]
"""(u, v, facing) [n] each -> RGB [n, 3] 0-255: distance along the axis from ``a``, signed distance around it from the
front or back line (both in px of the canvas), and the normal's component along ``front`` (> 0 on the front side)."""

FAR = np.float32(-1e9)
AMBIENT, LAMP = 0.62, 0.62


@dataclass(frozen=True)
class Part:
    """One round cone from ``a`` to ``b``; ``front`` is a unit vector across the axis."""

    name: str
    a: F64  # [3]
    b: F64
    ra: float
    rb: float
    front: F64
    paint: Paint
    flat: float = 1.0  # thickness along front / width
    open_end: bool = False  # no cap at b: a skirt

    def placed(self, origin: F64, size: float) -> Part:
        """The part in px: unit lengths times ``size`` around ``origin``."""
        a, b, paint = origin + self.a * size, origin + self.b * size, self.paint
        scaled: Paint = lambda u, v, facing: paint(u / np.float32(size), v / np.float32(size), facing)  # noqa: E731
        return Part(self.name, a, b, self.ra * size, self.rb * size, self.front, scaled, self.flat, self.open_end)


class Canvas:
    """RGB, depth and the index of the part in front, all at canvas resolution."""

    def __init__(self, color: U8, *, light: F64) -> None:
        self.color = color  # [h, w, 3]
        self.depth: F32 = np.full(color.shape[:2], FAR, dtype=np.float32)
        # what draw() was told; -1 = background
        self.owner: NDArray[np.int16] = np.full(color.shape[:2], -1, dtype=np.int16)
        self.light = (light / np.linalg.norm(light)).astype(np.float32)

    def draw(self, part: Part, owner: int) -> int:
        """Draw what is nearer than what is there; the number of pixels changed."""
        window = self._window(part)
        if window is None:
            return 0
        rows, cols = window
        depth, tau, flatten = _intersect(part, rows, cols)
        hits = np.flatnonzero(depth > self.depth[rows, cols])
        if not len(hits):
            return 0
        ys, xs = np.divmod(hits, cols.stop - cols.start)
        ys += rows.start
        xs += cols.start
        z = depth.ravel()[hits]
        cells = ys * self.color.shape[1] + xs
        self.depth.reshape(-1)[cells] = z
        self.owner.reshape(-1)[cells] = owner
        self.color.reshape(-1, 3)[cells] = self._shade(part, flatten, xs, ys, z, tau.ravel()[hits])
        return len(hits)

    def _window(self, part: Part) -> tuple[slice, slice] | None:
        height, width = self.color.shape[:2]
        low = np.minimum(part.a - part.ra, part.b - part.rb)[:2]
        high = np.maximum(part.a + part.ra, part.b + part.rb)[:2]
        x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
        x1, y1 = min(width, int(high[0]) + 2), min(height, int(high[1]) + 2)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def _shade(self, part: Part, flatten: F32, xs: NDArray[np.int64], ys: NDArray[np.int64], z: F32, tau: F32) -> U8:
        """Color of surface points: the part's paint under one lamp, darker towards the silhouette."""
        axis = part.b - part.a
        length = float(np.sqrt(axis @ axis))
        radius = np.float32(part.ra) + tau * np.float32(part.rb - part.ra)
        point = np.empty((3, len(z)), dtype=np.float32)  # from the axis to the surface
        point[0], point[1], point[2] = xs, ys, z
        point -= part.a.astype(np.float32)[:, None]
        point -= np.multiply.outer(axis.astype(np.float32), tau)
        side = cross(part.front, axis / max(length, 1e-6))
        frame = np.stack([part.front, side]).astype(np.float32)
        facing, aside = (frame @ flatten @ point) / radius
        around = aside * radius * (1 + np.float32(0.57) * aside * aside)  # about asin(aside): no matter front or back
        rgb = part.paint(tau * np.float32(length), around, facing)
        normal = flatten @ flatten @ point
        size = np.sqrt(np.einsum("in,in->n", normal, normal))
        shade = np.float32(AMBIENT) + np.float32(LAMP) * np.maximum(self.light @ normal / size, 0)
        shade *= np.float32(0.7) + np.float32(0.3) * (normal[2] / size)
        lit: U8 = np.minimum(rgb * shade[:, None], 255).astype(np.uint8)
        return lit


def _intersect(part: Part, rows: slice, cols: slice) -> tuple[F32, F32, F32]:
    """Depth [h, w] of the nearest surface (FAR = none), position along the axis 0..1 [h, w], the flattening [3, 3].

    In the space stretched by ``flatten`` the part is round; rays run from the viewer along ``ray`` there. The dot
    products of iRoundedCone (same names) are linear in the pixel, so they are 3-vectors over (x, y, 1) measured from
    ``a``, and their products are 3 x 3 matrices: one evaluation on the grid for each root.
    """
    flatten = np.eye(3) + (1 / part.flat - 1) * np.outer(part.front, part.front)
    ray = -flatten[:, 2]
    stretch = float(np.sqrt(ray @ ray))
    ray = ray / stretch
    x = np.arange(cols.start, cols.stop) - part.a[0]
    y = np.arange(rows.start, rows.stop) - part.a[1]
    ba = flatten @ (part.b - part.a)
    ra, rb = part.ra, part.rb
    rr = ra - rb
    m0, m2 = float(ba @ ba), float(ba @ ray)
    pixel = flatten * (1.0, 1.0, 0.0)
    m1, m3, m5 = ba @ pixel, ray @ pixel, pixel.T @ pixel

    near = _nearest(m3, _square(m3) - m5 + ra * ra * ONE, x, y)
    tau = np.zeros_like(near)
    d2 = m0 - rr * rr
    if d2 > 1e-6:  # else one sphere holds the other
        twice_m1 = np.outer(m1, UNIT) + np.outer(UNIT, m1)
        if not part.open_end:
            m6 = m3 - m2 * UNIT
            cap = _nearest(m6, _square(m6) - m5 + twice_m1 + (rb * rb - m0) * ONE, x, y)
            np.copyto(tau, 1, where=cap < near)
            np.minimum(near, cap, out=near)
        k2 = d2 - m2 * m2
        k2 = k2 if abs(k2) > 1e-6 else 1e-6
        k1 = (d2 * m3 - m2 * m1 + m2 * rr * ra * UNIT) / k2
        k0 = (d2 * m5 - _square(m1) + rr * ra * twice_m1 - m0 * ra * ra * ONE) / k2
        body = _nearest(k1, _square(k1) - k0, x, y, sign=float(np.sign(k2)))
        along = _linear((m1 - ra * rr * UNIT) / d2, x, y)
        along += body * np.float32(m2 / d2)
        better = body < near
        better &= along > 0
        better &= along < 1
        np.copyto(near, body, where=better)
        np.copyto(tau, along, where=better)
    depth = np.float32(part.a[2]) - near * np.float32(1 / stretch)
    return depth, tau, flatten.astype(np.float32)


UNIT = np.array([0.0, 0.0, 1.0])  # the constant 1 over (x, y, 1), and its square
ONE = np.outer(UNIT, UNIT)


def _square(form: F64) -> F64:
    return np.outer(form, form)


def _linear(form: F64, x: F64, y: F64) -> F32:
    """A linear form on the grid [h, w]."""
    grid: F32 = np.add.outer((form[1] * y + form[2]).astype(np.float32), (form[0] * x).astype(np.float32))
    return grid


def _nearest(k1: F64, h: F64, x: F64, y: F64, *, sign: float = 1.0) -> F32:
    """The root -k1 - sqrt(h) on the grid, far away where h < 0."""
    columns = ((h[0, 0] * x + 2 * h[0, 2]) * x + h[2, 2]).astype(np.float32)
    lines = ((h[1, 1] * y + 2 * h[1, 2]) * y).astype(np.float32)
    grid: F32 = np.multiply.outer((2 * h[0, 1] * y).astype(np.float32), x.astype(np.float32))
    grid += columns
    grid += lines[:, None]
    missed = grid < 0
    np.maximum(grid, 0, out=grid)
    np.sqrt(grid, out=grid)
    if sign < 0:
        np.negative(grid, out=grid)
    grid += _linear(k1, x, y)
    np.negative(grid, out=grid)
    np.copyto(grid, -2 * FAR, where=missed)
    return grid


def cross(a: F64, b: F64) -> F64:
    """np.cross of two 3-vectors, 20 times faster."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def supersampled(image: U8, factor: int) -> U8:
    """A picture enlarged ``factor`` times: pixel X covers canvas pixels factor * X ... factor * X + factor - 1."""
    h, w = image.shape[:2]
    return np.asarray(cv2.resize(image, (w * factor, h * factor), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def downsampled(image: U8, factor: int) -> U8:
    """The mean over ``factor`` x ``factor`` pixels."""
    h, w = image.shape[:2]
    return np.asarray(cv2.resize(image, (w // factor, h // factor), interpolation=cv2.INTER_AREA), dtype=np.uint8)
