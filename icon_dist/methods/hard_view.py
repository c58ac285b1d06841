"""The hard view of SSPose (Xie et al., ICCV 2021): JointCutout, then a second affine, batched on a device.

The network input is the easy view. Lengths are those published for 256 px of height and grow with the input. What is
erased, and what lies outside the image, has the mean color: 0 behind the normalization.

``compat`` repeats what the public code (xierc/Semi_Human_Pose ``pose_dual.py``) gets wrong, for parity: the clamp of
the erased boxes takes height for width; joints of its 24 that the data set does not have are erased too, and joints
that the other net does not see; the affine turns coordinates from -1 to 1 on both axes, which shears an image that is
not square. (The map of a joint that nobody trains peaks anywhere, so it is erased anywhere.)
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from icon_dist.tensors.random import uniform

MEAN_COLOR = (124, 116, 104)  # ImageNet's, in gray levels
HEIGHT = 256  # px, of the input that the published lengths are meant for
JITTER, LEAST, MOST = 10.0, 10, 19  # px: deviation of the center, and range of half a side, of an erased box
TURN, TURN_P, ZOOM = 30.0, 0.8, 0.25  # degrees, share of the people that are turned at all, relative zoom
UNION = 24  # joints of the public code, whatever the data set


@dataclass(frozen=True)
class Turns:
    """The second affine of each person, in any frame."""

    angle: Float[Tensor, " N"]  # radians
    zoom: Float[Tensor, " N"]  # above 1 the person becomes smaller

    def matrix(self, *, unit: tuple[float, float], center: tuple[float, float]) -> Float[Tensor, "N 2 3"]:
        """Px of the hard view -> px of the easy view, of a frame with pixels of size ``unit`` (x, y), turned about
        ``center`` px."""
        aspect = unit[1] / unit[0]
        cos, sin = self.zoom * self.angle.cos(), self.zoom * self.angle.sin()
        linear = torch.stack([torch.stack([cos, sin * aspect], -1), torch.stack([-sin / aspect, cos], -1)], 1)
        x, y = center
        turned = linear[..., 0] * x + linear[..., 1] * y  # not a product of matrices: TF32 would round places
        return torch.cat([linear, torch.stack([x - turned[:, 0], y - turned[:, 1]], 1)[..., None]], -1)


def turns(instance: Int64[Tensor, " N"], *, key: int | Int64[Tensor, ""]) -> Turns:
    """What ``key`` draws for these people: with p .8 N(0, 30) degrees up to 60; zoom 1 + N(0, .25), .75 to 1.25."""
    u = uniform(key, instance[:, None], torch.arange(5, device=instance.device))
    (angle, _), (zoom, _) = _normals(u[:, 0], u[:, 1]), _normals(u[:, 2], u[:, 3])
    angle = (angle * TURN).clamp(-2 * TURN, 2 * TURN) * (u[:, 4] <= TURN_P)
    return Turns(angle * (math.pi / 180), (1 + zoom * ZOOM).clamp(1 - ZOOM, 1 + ZOOM))


def erased_boxes(
    joints: Float[Tensor, "N K 2"],
    found: Bool[Tensor, "N K"],
    instance: Int64[Tensor, " N"],
    *,
    count: int,
    key: int | Int64[Tensor, ""],
    hw: tuple[int, int],
    compat: bool = False,
) -> Int64[Tensor, "N count 4"]:
    """JointCutout: ``count`` times a joint, the same one perhaps twice; boxes ``[x0, x1) x [y0, y1)`` around them.

    ``joints`` in input px, boxes as (x0, x1, y0, y1). A joint has one box, however often it is drawn; one that is not
    ``found`` has an empty one, but for ``compat``.
    """
    height, width = hw
    scale = 1.0 if compat else height / HEIGHT
    numbers = uniform(key, instance[:, None], torch.arange(7 * count, device=instance.device)).reshape(-1, count, 7)
    drawn = (numbers[..., 0] * (UNION if compat else joints.shape[1])).long()
    first = (drawn[:, :, None] == drawn[:, None]).int().argmax(-1)  # the draw that was the first of this joint
    u = numbers.gather(1, first[..., None].expand(-1, -1, 7)).unbind(-1)
    known = drawn < joints.shape[1]
    index = torch.where(known, drawn, 0)
    at = joints.gather(1, index[..., None].expand(-1, -1, 2)).to(u[0].dtype)
    anywhere = torch.stack([u[5] * width, u[6] * height], -1)
    at = torch.where(known[..., None], at, anywhere)
    half = torch.stack([LEAST + (x * (MOST - LEAST + 1)).floor() for x in u[3:5]], -1) * scale
    center = (at + torch.stack(_normals(u[1], u[2]), -1) * JITTER * scale).trunc()
    limits = (height, width) if compat else (width, height)
    low, high = (_within((center + side * half.round()).long(), limits) for side in (-1, 1))
    shown = torch.ones_like(known) if compat else found.gather(1, index)
    return torch.stack([low, torch.where(shown[..., None], high, low)], -1).flatten(2)


def _within(xy: Int64[Tensor, "N count 2"], most: tuple[int, int]) -> Int64[Tensor, "N count 2"]:
    return torch.stack([xy[..., i].clamp(0, most[i]) for i in (0, 1)], -1)


def erase(image: UInt8[Tensor, "N H W 3"], boxes: Int64[Tensor, "N count 4"]) -> UInt8[Tensor, "N H W 3"]:
    """The image with boxes (x0, x1, y0, y1) in the mean color."""
    x0, x1, y0, y1 = boxes[..., None].unbind(2)
    y, x = (torch.arange(side, device=image.device) for side in image.shape[1:3])
    rows, columns = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
    inside = torch.einsum("nbh,nbw->nhw", rows.float(), columns.float()) > 0
    return torch.where(inside[..., None], _mean_color(image.device), image)


def warp(maps: Float[Tensor, "N D a b"], matrix: Float[Tensor, "N 2 3"]) -> Float[Tensor, "N D a b"]:
    """Bilinear: ``out[p] = maps[matrix p]``, 0 outside. Pixel centers sit on integers."""
    a, b = maps.shape[2:]
    y, x = (torch.arange(side, device=maps.device, dtype=matrix.dtype) for side in (a, b))
    m = matrix[..., None, None]
    at = m[:, :, 0] * x + m[:, :, 1] * y[:, None] + m[:, :, 2]  # [N, 2, a, b]
    grid = torch.stack([2 * at[:, 0] / (b - 1) - 1, 2 * at[:, 1] / (a - 1) - 1], -1)
    return F.grid_sample(maps, grid.to(maps.dtype), align_corners=True)


def warp_image(image: UInt8[Tensor, "N H W 3"], matrix: Float[Tensor, "N 2 3"]) -> UInt8[Tensor, "N H W 3"]:
    """The same for photos; outside is the mean color."""
    mean = _mean_color(image.device).float()
    warped = warp((image - mean).permute(0, 3, 1, 2), matrix).permute(0, 2, 3, 1) + mean
    return warped.round().clamp(0, 255).to(torch.uint8)


@functools.cache
def _mean_color(device: torch.device) -> Tensor:
    return torch.tensor(MEAN_COLOR, dtype=torch.uint8, device=device)


def _normals(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normal numbers from two uniform ones (Box and Muller)."""
    radius = (-2 * torch.log1p(-u)).sqrt()
    return radius * torch.cos(2 * math.pi * v), radius * torch.sin(2 * math.pi * v)
