"""DARK: from the peak of a heatmap to the top of the parabola there, in part of a pixel.

DARK (Zhang et al., CVPR 2020, Eq. 9; ``gaussian_blur`` and ``taylor`` of ilovepose/DarkPose): blur the map, take its
logarithm, and go from the peak to the top of the parabola there. UDP (Huang et al., CVPR 2020; ``post`` of
HuangJunJie2017/UDP-Pose, ``refine_keypoints_dark_udp`` of MMPose 1.x) does the same with differences of one pixel in
place of two, a higher floor under the logarithm, and without leaving out the border.
"""

from __future__ import annotations

import functools

import cv2
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

FLOOR = {"msra": 1e-10, "dark": 1e-10, "udp": 1e-3}  # least value that the logarithm sees
REACH = {"msra": 2, "dark": 2, "udp": 1}  # of the differences, px
LEAST = 1e-30  # of a blurred map that has no positive value; still above 0 where a runtime holds constants in float32
SINGULAR = 1e-12  # |det H| of what rounding leaves of a plateau; of a peak as wide as the target it is 1e-3 or more


def blur_kernel(sigma: float) -> int:
    """Pixels of DARK's blur: 11 for targets of sigma 2, 17 for 3 (both public codes), 3 for 1 (DarkPose at 128x96)."""
    return 2 * round(3 * sigma) - 1 if sigma >= 1.5 else 3


def taylor(
    heatmaps: Float[Tensor, "N K h w"],
    x: Int64[Tensor, "N K"],
    y: Int64[Tensor, "N K"],
    score: Float[Tensor, "N K"],
    *,
    kernel: int,
    codec: str,
) -> Float64[Tensor, "N K 2"]:
    """``-H^-1 g`` of the logarithm of the blurred map at its peak; nothing where H has no inverse.

    Derivatives need the 5 x 5 blurred values around the peak (UDP's 3 x 3), and those a patch of 15 x 15 pixels of the
    map: the blur is one product with a fixed matrix. In float64, because the logarithms differ in their last digits.
    """
    h, w = heatmaps.shape[-2:]
    reach = REACH[codec]
    patch = _around(heatmaps, x, y, radius=kernel // 2 + reach)
    window = patch.double() @ _blur(kernel, reach, patch.device)
    # The public code scales the blurred map to the old peak. That only decides what the floor cuts off.
    top = window.amax(-1, keepdim=True).clamp(min=LEAST)
    floor = FLOOR[codec] / score.double().clamp(min=FLOOR[codec])[..., None]
    logs = (window / top).maximum(floor).log()
    if codec == "udp":  # the outermost pixels repeat outside
        columns, rows = (_repeat(at, size) for at, size in ((x, w), (y, h)))
        logs = logs.gather(-1, (rows[..., None] * 3 + columns[..., None, :]).flatten(2))
        inside = torch.ones_like(x, dtype=torch.bool)
    else:
        inside = (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2)
    dx, dy, dxx, dxy, dyy = (logs @ _stencils(codec, logs.device)).unbind(-1)
    det = dxx * dyy - dxy**2
    sound: Bool[Tensor, "N K"] = inside & (det.abs() > SINGULAR)
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / torch.where(sound, det, 1)[..., None]
    return step * sound[..., None]


def _around(
    heatmaps: Float[Tensor, "N K h w"], x: Int64[Tensor, "N K"], y: Int64[Tensor, "N K"], *, radius: int
) -> Float[Tensor, "N K patch"]:
    """The square around a pixel, row by row, 0 outside the map."""
    h, w = heatmaps.shape[-2:]
    reach = torch.arange(-radius, radius + 1, device=x.device)
    index = (y * w + x)[..., None] + (reach[:, None] * w + reach).flatten()
    square = heatmaps.flatten(2).gather(-1, index.clamp_(0, h * w - 1)).view(*x.shape, len(reach), -1)
    columns, rows = x[..., None] + reach, y[..., None] + reach
    # What lies outside was read from elsewhere. Two products with short masks cost less than one mask of the square.
    square *= ((rows >= 0) & (rows < h))[..., None]
    square *= ((columns >= 0) & (columns < w))[..., None, :]
    return square.flatten(2)


@functools.cache
def _blur(kernel: int, reach: int, device: torch.device) -> Float64[Tensor, "patch window"]:
    """A patch to the blurred values of the window in its middle; the weights are OpenCV's, as in the public code."""
    weights = torch.from_numpy(cv2.getGaussianKernel(kernel, 0)[:, 0])
    rows = torch.stack([torch.nn.functional.pad(weights, (i, 2 * reach - i)) for i in range(2 * reach + 1)])
    return torch.kron(rows, rows).T.contiguous().to(device)


@functools.cache
def _stencils(codec: str, device: torch.device) -> Float64[Tensor, "window 5"]:
    """Finite differences on a window: d/dx, d/dy, d2/dx2, d2/dxdy, d2/dy2."""
    reach = REACH[codec]
    at = torch.zeros(5, 2 * reach + 1, 2 * reach + 1, dtype=torch.float64)  # [derivative, y, x]
    at[0, reach, reach + 1], at[0, reach, reach - 1] = 0.5, -0.5
    if codec == "udp":
        at[2, reach] = torch.tensor([1, -2, 1])
        at[3] = 0.5 * torch.tensor([[1, -1, 0], [-1, 2, -1], [0, -1, 1]])
    else:
        at[2, reach, ::2] = 0.25 * torch.tensor([1, -2, 1])
        at[3, 1:4:2, 1:4:2] = 0.25 * torch.tensor([[1, -1], [-1, 1]])
    at[1], at[4] = at[0].T, at[2].T
    return at.flatten(1).T.contiguous().to(device)


def _repeat(at: Int64[Tensor, "N K"], size: int) -> Int64[Tensor, "N K 3"]:
    """Index 0-2 into a window around ``at`` that stays on the map."""
    reach = torch.arange(-1, 2, device=at.device)
    return (at[..., None] + reach).clamp(0, size - 1) - at[..., None] + 1
