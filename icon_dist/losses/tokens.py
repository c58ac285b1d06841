"""Tokens: unit embeddings read at points around joints, and those of limbs made of them (paper Eq. 2-3)."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.tensors.unit_vectors import unit
from icon_dist.types import DeviceStep, Pixels


@dataclass(frozen=True)
class Tokens:
    """The joints of a batch, or its limbs, each with the points read around it."""

    features: Float[Tensor, "N C T m"]  # unit norm; point 0 is the center: the joint itself, or the limb of the two
    active: Bool[Tensor, "N C T"]  # whether the point exists
    score: Float[Tensor, "N C"]  # how hard


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of a batch by term, ``skcc`` and ``prcc``, and whose they are."""

    tokens: dict[str, Tokens]
    instance: Int64[Tensor, " N"]  # random numbers are drawn for it
    owner: Int64[Tensor, " N"]  # the instance or its image: positives have another owner
    step: int | DeviceStep


def pixel_offsets(*, sigma: float, points: int) -> Float[Tensor, "offsets 2"]:
    """Integer heatmap offsets (x, y) whose Gaussian is at least .5, nearest first, without the center.

    At most ``points - 1``: the joint itself is the first point of its pixel set. Equal distances go by (y, x).
    """
    radius = sigma * math.sqrt(2 * math.log(2))  # exp(-r^2 / (2 sigma^2)) = .5
    span = range(-int(radius), int(radius) + 1)
    inside = [(x * x + y * y, y, x) for y in span for x in span if 0 < x * x + y * y <= radius * radius]
    nearest = sorted(inside)[: points - 1]
    return torch.tensor([(x, y) for _, y, x in nearest], dtype=torch.float32).reshape(-1, 2)


def pixel_set(
    joints: Float[Tensor, "N K 2"], offsets: Float[Tensor, "offsets 2"], *, stride: int = 4
) -> Float[Tensor, "N K T 2"]:
    """Points around each joint, input px: the exact joint, then heatmap pixels around the peak of its target."""
    peak = torch.floor(joints / stride + 0.5)
    pixels = (peak[:, :, None] + offsets.to(joints)) * stride
    return torch.cat([joints[:, :, None], pixels], dim=2)


def read_points(
    embedding: Float[Tensor, "N m _ _"],
    points: Float[Tensor, "N K T 2"],
    *,
    stride: int,
    read: str = "bilinear",
    pixels: Pixels | None = None,
    aligned: bool = False,
) -> tuple[Float[Tensor, "N K T m"], Bool[Tensor, "N K T"]]:
    """Unit embeddings at points (input px), ``bilinear`` or of the ``nearest`` pixel, and which points lie on the map.

    Of the whole map, or [N, m, 1, pixels] of those ``pixels`` that are read. ``aligned``: all points but the first of
    a joint are pixels of the map. A strided convolution with odd kernel and symmetric padding is centered on
    ``stride * i``, hence no half pixel.
    """
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    hw = embedding.shape[2:] if pixels is None else pixels.hw
    xy = points / stride
    x, y = xy.unbind(-1)
    inside = (x >= 0) & (x <= hw[1] - 1) & (y >= 0) & (y <= hw[0] - 1)
    n, k, t = inside.shape
    mixed = 0 if read == "nearest" else 1 if aligned else t  # points that lie between pixels
    corners, share = corners_of(xy[:, :, :mixed])
    nearest = torch.floor(xy[:, :, mixed:] + 0.5)  # halves go up, as in targets
    place = flattened(torch.cat([corners.flatten(2, 3), nearest], 2), hw).flatten(1)  # [N, K (4 mixed + T - mixed)]
    rows = embedding.permute(0, 2, 3, 1).flatten(0, 2)  # free of a map that is laid out channels-last
    row = torch.arange(len(rows), device=place.device).view(n, -1)
    row = (row if pixels is None else in_the_map(row, pixels)).gather(1, place)
    found = rows.index_select(0, row.flatten()).view(n, k, 3 * mixed + t, rows.shape[1])
    around, alone = torch.split(found, [4 * mixed, t - mixed], 2)
    between = (around.reshape(n, k, mixed, 4, rows.shape[1]) * share.to(around)[..., None]).sum(3)
    return unit(torch.cat([between, alone], 2)), inside


def in_the_map(x: Int64[Tensor, "N pixels"], pixels: Pixels) -> Int64[Tensor, "N map"]:
    """What some pixels have at their places in the flattened map; 0 elsewhere."""
    empty = x.new_zeros(len(x), pixels.hw[0] * pixels.hw[1])
    return empty.scatter_(1, pixels.place, x)


def corners_of(xy: Float[Tensor, "*points 2"]) -> tuple[Float[Tensor, "*points 4 2"], Float[Tensor, "*points 4"]]:
    """The four pixels around points (map px), and their shares in what lies between them."""
    low, high = xy.floor(), xy.ceil()
    right, down = (xy - low).unbind(-1)
    (x0, y0), (x1, y1) = low.unbind(-1), high.unbind(-1)
    corners = torch.stack([x0, y0, x1, y0, x0, y1, x1, y1], -1).view(*x0.shape, 4, 2)
    left, up = 1 - right, 1 - down
    return corners, torch.stack([left * up, right * up, left * down, right * down], -1)


def flattened(xy: Float[Tensor, "*points 2"], hw: Sequence[int]) -> Int64[Tensor, "*points"]:
    """Places of pixels in the flattened map, of the nearest one for what lies beyond it."""
    x, y = xy.unbind(-1)
    return (y.clamp(0, hw[0] - 1) * hw[1] + x.clamp(0, hw[1] - 1)).long()


def pixels_under(points: Float[Tensor, "N K T 2"], hw: tuple[int, int], *, most: int) -> Int64[Tensor, "N pixels"]:
    """The pixels of a map of ``hw`` px, flattened, that bilinear reading at points (map px) touches.

    All are different: the first ``most`` of those touched, then of the others, or the whole map where it is smaller.
    """
    corners, _ = corners_of(points)
    touched = torch.zeros(len(points), hw[0] * hw[1], dtype=torch.int64, device=points.device)
    touched.scatter_(1, flattened(corners, hw).flatten(1), 1)
    return touched.argsort(dim=1, descending=True, stable=True)[:, :most]


def limb_tokens(
    features: Float[Tensor, "rows K T m"], active: Bool[Tensor, "rows K T"], limbs: Int64[Tensor, "P R"]
) -> tuple[Float[Tensor, "rows P T m"], Bool[Tensor, "rows P T"]]:
    """``normalize((f_a + f_b) / 2)`` for each limb (Eq. 2-3), or the mean of a longer chain; it needs all its joints.
    Point t of one goes with t of the others."""
    ends = limbs.unbind(1)
    middle = functools.reduce(operator.add, (features[:, end] for end in ends)) / len(ends)
    return unit(middle), functools.reduce(operator.and_, (active[:, end] for end in ends))
