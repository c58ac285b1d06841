"""Which part of the photo a person's crop must hold, so that training never misses a pixel.

Augmentation turns the padded box by up to 90 degrees, enlarges it by up to 1.35, and may do so around the upper or
the lower half of the body alone. A turned rectangle stays within its circumscribed circle, so the window is the
smallest upright rectangle around the three circles, clipped to the photo.
"""

from __future__ import annotations

import math

import numpy as np

from icon_dist.codec.affine import PADDING
from icon_dist.types import Instance, Skeleton

ZOOM = 1.35  # the largest enlargement of a box
HALF_BODY = 1.5  # a half-body box is 1.5 times the extent of its joints
OVERSAMPLING = 1.5  # the padded box is stored with at most this many pixels per input pixel
ASPECTS = (0.75, 1.0)  # width / height of the inputs in use: 256x192, 384x288, 256x256, 64x64

Circle = tuple[float, float, float]  # center x, y and radius, photo px


def circle(x: float, y: float, w: float, h: float, *, aspects: tuple[float, ...], zoom: float) -> Circle:
    """What a box (center, size) sweeps when it is widened to an aspect, enlarged by ``zoom`` and turned.

    Between two aspects the radius is largest at one of them.
    """
    return x, y, max(max(w, h * a) * math.hypot(1, 1 / a) for a in aspects) * zoom / 2


def circles(person: Instance, skeleton: Skeleton, *, aspects: tuple[float, ...]) -> list[Circle]:
    """Of the whole body, and of each half that has two labelled joints or more."""
    x, y, w, h = person.box
    found = [circle(x + w / 2, y + h / 2, w, h, aspects=aspects, zoom=PADDING * ZOOM)]
    labelled = person.keypoints[:, 2] > 0
    for group in (skeleton.upper, skeleton.lower):
        xy = person.keypoints[[joint for joint in group if labelled[joint]], :2].astype(np.float64)
        if len(xy) >= 2:
            (cx, cy), (w, h) = xy.mean(0).tolist(), np.ptp(xy, axis=0).tolist()
            found.append(circle(cx, cy, w, h, aspects=aspects, zoom=HALF_BODY * ZOOM))
    return found


def shrink(person: Instance, *, max_input: tuple[int, int] | None) -> float:
    """Stored px per photo px: 1, or less where the photo has more pixels than inputs up to ``max_input`` (H, W) use."""
    if max_input is None:
        return 1.0
    (height, width), (w, h) = max_input, person.box[2:]
    return min(1.0, OVERSAMPLING / PADDING * min(width / max(w, 1), height / max(h, 1)))


def window(
    person: Instance, skeleton: Skeleton, *, aspects: tuple[float, ...], max_input: tuple[int, int] | None
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """(x0, y0, w, h) of the part to store, in whole photo px, and the (width, height) it is stored with."""
    scale = shrink(person, max_input=max_input)
    margin = math.ceil(1 / scale)  # bilinear sampling of the stored image reads one of its pixels further
    around = circles(person, skeleton, aspects=aspects)
    width, height = person.wh
    x0 = min(max(math.floor(min(x - r for x, _, r in around)) - margin, 0), width - 1)
    y0 = min(max(math.floor(min(y - r for _, y, r in around)) - margin, 0), height - 1)
    x1 = max(min(math.ceil(max(x + r for x, _, r in around)) + margin + 1, width), x0 + 1)
    y1 = max(min(math.ceil(max(y + r for _, y, r in around)) + margin + 1, height), y0 + 1)
    w, h = x1 - x0, y1 - y0
    return (x0, y0, w, h), (max(round(w * scale), 1), max(round(h * scale), 1))
