"""Heatmaps to joints, whole batches on any device: the peak, the quarter offset, or DARK's step (``dark.py``)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from icon_dist.codec.dark import blur_kernel, taylor
from icon_dist.tensors.constants import constant


def decode(
    heatmaps: Float[Tensor, "N K h w"], *, method: str, sigma: float, codec: str = "msra", unseen: bool = False
) -> tuple[Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
    """Joints in heatmap px and peak values; (0, 0) where no value is positive, or with ``unseen`` the highest pixel.

    ``method``: argmax | quarter | dark. ``sigma`` and ``codec`` are those of the targets that the model was trained
    with; they matter to dark alone.
    """
    heatmaps = heatmaps.contiguous()
    peak, score = _peaks(heatmaps)
    x, y = peak % heatmaps.shape[-1], peak // heatmaps.shape[-1]
    xy = torch.stack([x, y], -1).to(heatmaps.dtype)
    if method == "quarter":
        xy = xy + _quarter(heatmaps, x, y)
    elif method == "dark":
        xy = xy + taylor(heatmaps, x, y, score, kernel=blur_kernel(sigma), codec=codec).to(xy)
    else:
        assert method == "argmax", method
    return xy if unseen else xy * (score > 0)[..., None], score


def _peaks(heatmaps: Float[Tensor, "N K h w"]) -> tuple[Int64[Tensor, "N K"], Float[Tensor, "N K"]]:
    """Flat index of the first highest pixel, and its value.

    A maximum that has to know its place is ten times slower than one that does not, hence two short searches: in
    which band of rows, then where in the band.
    """
    n, k, h, w = heatmaps.shape
    bands = heatmaps.view(n * k, -1, math.gcd(h, 4) * w)
    highest = bands.amax(-1)
    band = highest.argmax(-1)
    where = band + torch.arange(n * k, device=band.device) * bands.shape[1]
    index = band * bands.shape[2] + bands.flatten(0, 1).index_select(0, where).argmax(-1)
    return index.view(n, k), highest.amax(-1).view(n, k)


def _quarter(
    heatmaps: Float[Tensor, "N K h w"], x: Int64[Tensor, "N K"], y: Int64[Tensor, "N K"]
) -> Float[Tensor, "N K 2"]:
    """A quarter of a pixel towards the higher neighbor, for peaks off the two outermost columns on the left and the
    outermost one on the right, and rows alike (HRNet ``get_final_preds``)."""
    h, w = heatmaps.shape[-2:]
    inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    safe = torch.where(inside, y * w + x, w + 1)  # any place with four neighbors
    around = safe[..., None] + constant(1, -1, w, -w, like=x)
    right, left, down, up = heatmaps.flatten(2).gather(-1, around).unbind(-1)
    return torch.stack([right - left, down - up], -1).sign() * 0.25 * inside[..., None]
