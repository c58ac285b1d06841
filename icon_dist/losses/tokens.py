"""Tokens: unit embeddings read at points around joints, and those of limbs made of them (paper Eq. 2-3)."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from icon_dist.types import DeviceStep


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
    embedding: Float[Tensor, "N m he we"], points: Float[Tensor, "N K T 2"], *, stride: int, read: str = "bilinear"
) -> tuple[Float[Tensor, "N K T m"], Bool[Tensor, "N K T"]]:
    """Unit embeddings at points (input px), ``bilinear`` or of the ``nearest`` pixel, and which points lie on the map.

    A strided convolution with odd kernel and symmetric padding is centered on ``stride * i``, hence no half pixel.
    """
    n, k, t, _ = points.shape
    embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))  # bf16 cannot hold coordinates
    right, bottom = embedding.shape[3] - 1, embedding.shape[2] - 1
    x, y = (points / stride).unbind(-1)
    inside = (x >= 0) & (x <= right) & (y >= 0) & (y <= bottom)
    if read == "nearest":
        x, y = torch.floor(x + 0.5), torch.floor(y + 0.5)  # halves go up, as in targets; grid_sample's go to even
    grid = torch.stack([2 * x / max(right, 1) - 1, 2 * y / max(bottom, 1) - 1], -1).to(embedding.dtype)
    values = F.grid_sample(embedding, grid.view(n, k * t, 1, 2), mode=read, align_corners=True)  # [N, m, K*T, 1]
    features = values.squeeze(3).transpose(1, 2).reshape(n, k, t, -1)
    return F.normalize(features, dim=-1), inside


def pixels_under(points: Float[Tensor, "N K T 2"], hw: tuple[int, int], *, most: int) -> Int64[Tensor, "N pixels"]:
    """The pixels of a map of ``hw`` px, flattened, that bilinear reading at points (map px) touches.

    All are different: the first ``most`` of those touched, then of the others, or the whole map where it is smaller.
    """
    x, y = torch.stack([points.floor(), points.ceil()]).unbind(-1)
    place = (y.clamp(0, hw[0] - 1)[:, None] * hw[1] + x.clamp(0, hw[1] - 1)).long()  # [2, 2, N, K, T]
    touched = torch.zeros(len(points), hw[0] * hw[1], dtype=torch.int64, device=points.device)
    touched.scatter_(1, place.flatten(0, 1).transpose(0, 1).flatten(1), 1)
    return touched.argsort(dim=1, descending=True, stable=True)[:, :most]


def limb_tokens(
    features: Float[Tensor, "rows K T m"], active: Bool[Tensor, "rows K T"], limbs: Int64[Tensor, "P R"]
) -> tuple[Float[Tensor, "rows P T m"], Bool[Tensor, "rows P T"]]:
    """``normalize((f_a + f_b) / 2)`` for each limb (Eq. 2-3), or the mean of a longer chain; it needs all its joints.
    Point t of one goes with t of the others."""
    ends = limbs.unbind(1)
    middle = functools.reduce(operator.add, (features[:, end] for end in ends)) / len(ends)
    return F.normalize(middle, dim=-1), functools.reduce(operator.and_, (active[:, end] for end in ends))
