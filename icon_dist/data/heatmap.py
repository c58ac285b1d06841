"""Joints to target heatmaps and heatmaps to joints, whole batches on any device (METHOD 5 and 6).

Same numbers as ``generate_target``, ``get_max_preds``, ``get_final_preds`` and ``flip_back`` of the HRNet code.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def encode(
    joints: Float[Tensor, "N K 2"],
    labelled: Bool[Tensor, "N K"],
    *,
    hw: tuple[int, int],
    stride: int,
    sigma: float,
) -> tuple[Float[Tensor, "N K h w"], Float[Tensor, "N K"]]:
    """Gaussians of peak 1 cut at 3 sigma, and weights: 0 for unlabelled joints and where no support is inside.

    ``joints`` in input px, ``hw`` of the heatmaps. The peak sits on a whole pixel, ``mu = floor(x / stride + 1/2)``.
    """
    mu = torch.floor(joints / stride + 0.5)
    # The window is a square and the Gaussian a product: two short profiles and one outer product per joint.
    x = _profile(mu[..., 0], hw[1], sigma)
    y = _profile(mu[..., 1], hw[0], sigma)
    weight = (labelled & (x > 0).any(-1) & (y > 0).any(-1)).to(joints.dtype)
    return torch.einsum("nkh,nkw->nkhw", y * weight[..., None], x), weight


def _profile(mu: Float[Tensor, "N K"], size: int, sigma: float) -> Float[Tensor, "N K size"]:
    distance = torch.arange(size, device=mu.device, dtype=mu.dtype) - mu[..., None]
    return torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= 3 * sigma)


def decode(heatmaps: Float[Tensor, "N K h w"], *, quarter: bool) -> tuple[Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
    """Peak positions in heatmap px and peak values; (0, 0) where no value is positive.

    ``quarter``: a quarter of a pixel towards the higher neighbour, for peaks off the two outermost columns
    on the left and the outermost one on the right (and rows alike), as the official code has it.
    """
    h, w = heatmaps.shape[-2:]
    flat = heatmaps.flatten(2)
    score = flat.amax(-1)
    peak = flat.argmax(-1)
    xy = torch.stack([peak % w, peak // w], -1).to(heatmaps.dtype)
    if quarter:
        x, y = peak % w, peak // w
        inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
        safe = torch.where(inside, peak, w + 1)  # any place with four neighbours
        around = safe[..., None] + torch.tensor([1, -1, w, -w], device=peak.device)
        right, left, down, up = flat.gather(-1, around).unbind(-1)
        step = torch.stack([right - left, down - up], -1).sign() * 0.25
        xy = xy + step * inside[..., None]
    return xy * (score > 0)[..., None], score


def flip_back(heatmaps: Float[Tensor, "N K h w"], *, flips: tuple[tuple[int, int], ...]) -> Float[Tensor, "N K h w"]:
    """Heatmaps of a mirrored image as those of the image, to be averaged with its own.

    Shifted one pixel right, column 0 kept: with stride-4 maps of a W px image, x and W - 1 - x are not mirror columns.
    """
    order = list(range(heatmaps.shape[1]))
    for a, b in flips:
        order[a], order[b] = b, a
    mirrored = heatmaps[:, order].flip(-1)
    return torch.cat([mirrored[..., :1], mirrored[..., :-1]], -1)


def to_photo(xy: Float[Tensor, "N K 2"], *, stride: int, matrix: Float[Tensor, "N 2 3"]) -> Float[Tensor, "N K 2"]:
    """Heatmap px -> input px -> photo px; ``matrix`` is ``Batch.to_photo``.

    The official inverse affine for the heatmap size is the same: both centre the box on half the output size,
    so the two matrices differ by the factor ``stride`` exactly.
    """
    return torch.einsum("nij,nkj->nki", matrix[..., :2], xy * stride) + matrix[:, None, :, 2]
