"""Boxes and affine matrices, batched in float64.

The HRNet convention (``get_affine_transform``), or UDP's (Huang et al., CVPR 2020; ``get_udp_warp_matrix`` of MMPose).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PADDING = 1.25
F64 = NDArray[np.float64]
Numbers = NDArray[np.floating] | NDArray[np.integer] | Sequence[float | int] | float | int


def center_scale(box: Numbers, *, aspect: float) -> tuple[F64, F64]:
    """Boxes ``[..., 4]`` (x, y, w, h px) to center ``[..., 2]`` px and scale ``[..., 2]`` (w, h in units of 200 px).

    The short side is widened to ``aspect`` = input width / height, then both are padded by 1.25.

    >>> center_scale([10, 20, 100, 300], aspect=192 / 256)
    (array([ 60., 170.]), array([1.40625, 1.875  ]))
    """
    x, y, w, h = np.moveaxis(np.asarray(box, dtype=np.float64), -1, 0)
    center = np.stack([x + w / 2, y + h / 2], axis=-1)
    wide = np.maximum(w, h * aspect)
    return center, np.stack([wide, wide / aspect], axis=-1) / 200 * PADDING


def affine(center: Numbers, scale: Numbers, rotation: Numbers, *, out_wh: tuple[int, int], codec: str = "msra") -> F64:
    """Matrices ``[..., 2, 3]``: photo px -> input px, for a box turned by ``rotation`` degrees.

    The box center lands on ``(W / 2, H / 2)``; one uniform zoom ``W / (200 * scale_w)``. With ``codec="udp"`` the edges
    of the box land on the outermost pixel centers: center ``((W - 1) / 2, (H - 1) / 2)``, a zoom for each axis, which
    are .1 % apart at 192x256. The rotation keeps HRNet's sense, which is not UDP's; it is drawn from both alike.
    """
    c = np.asarray(center, dtype=np.float64)
    lengths = 200 * np.asarray(scale, dtype=np.float64)
    if codec == "udp":
        span = np.asarray(out_wh, dtype=np.float64) - 1
        zoom_x, zoom_y = np.moveaxis(span / lengths, -1, 0)
    else:
        span = np.asarray(out_wh, dtype=np.float64)
        zoom_x = zoom_y = span[0] / lengths[..., 0]
    turn = np.deg2rad(np.asarray(rotation, dtype=np.float64))
    cos, sin = np.cos(turn), np.sin(turn)
    linear = np.stack([np.stack([zoom_x * cos, zoom_x * sin], -1), np.stack([-zoom_y * sin, zoom_y * cos], -1)], -2)
    shift = span / 2 - np.einsum("...ij,...j->...i", linear, c)
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
    x, y = np.moveaxis(np.asarray(xy, dtype=np.float64), -1, 0)
    a, b, c = np.moveaxis(matrix[..., None], -2, 0)  # each [..., 2, 1]
    out: F64 = np.stack([a[..., i, :] * x + b[..., i, :] * y + c[..., i, :] for i in range(2)], axis=-1)
    return out
