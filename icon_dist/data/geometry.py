"""Boxes and affine matrices (METHOD 5; the HRNet ``get_affine_transform`` convention), batched in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PADDING = 1.25
F64 = NDArray[np.float64]
Numbers = NDArray[np.floating] | NDArray[np.integer] | Sequence[float | int] | float | int


def center_scale(box: Numbers, *, aspect: float) -> tuple[F64, F64]:
    """Boxes ``[..., 4]`` (x, y, w, h px) to centre ``[..., 2]`` px and scale ``[..., 2]`` (w, h in units of 200 px).

    The short side is widened to ``aspect`` = input width / height, then both are padded by 1.25.

    >>> center_scale([10, 20, 100, 300], aspect=192 / 256)
    (array([ 60., 170.]), array([1.40625, 1.875  ]))
    """
    x, y, w, h = np.moveaxis(np.asarray(box, dtype=np.float64), -1, 0)
    center = np.stack([x + w / 2, y + h / 2], axis=-1)
    wide = np.maximum(w, h * aspect)
    return center, np.stack([wide, wide / aspect], axis=-1) / 200 * PADDING


def affine(center: Numbers, scale: Numbers, rotation: Numbers, *, out_wh: tuple[int, int]) -> F64:
    """Matrices ``[..., 2, 3]``: photo px -> input px, for a box turned by ``rotation`` degrees.

    The box centre lands on ``(W / 2, H / 2)``; one uniform zoom ``W / (200 * scale_w)``.
    """
    c = np.asarray(center, dtype=np.float64)
    zoom = out_wh[0] / (200 * np.asarray(scale, dtype=np.float64)[..., 0])
    turn = np.deg2rad(np.asarray(rotation, dtype=np.float64))
    cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    shift = np.asarray(out_wh, dtype=np.float64) / 2 - np.einsum("...ij,...j->...i", linear, c)
    return np.concatenate([linear, shift[..., None]], axis=-1)


def compose(outer: F64, inner: F64) -> F64:
    """``outer`` after ``inner``: both ``[..., 2, 3]``."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = np.einsum("...ij,...j->...i", outer[..., :2], inner[..., 2]) + outer[..., 2]
    return np.concatenate([linear, shift[..., None]], axis=-1)


def invert(matrix: F64) -> F64:
    """Inverse of affine matrices ``[..., 2, 3]``."""
    linear = np.linalg.inv(matrix[..., :2])
    shift = -np.einsum("...ij,...j->...i", linear, matrix[..., 2])
    return np.concatenate([linear, shift[..., None]], axis=-1)


def transform(matrix: F64, xy: Numbers) -> F64:
    """Points ``[..., n, 2]`` through ``[..., 2, 3]``."""
    points = np.asarray(xy, dtype=np.float64)
    out: F64 = np.einsum("...ij,...nj->...ni", matrix[..., :2], points) + matrix[..., None, :, 2]
    return out
