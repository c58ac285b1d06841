"""Heatmap error of each joint, as ``JointsMSELoss`` of the public HRNet code, without its loop over joints.

The targets are made in ``codec/heatmap.py``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def joint_errors(
    heatmaps: Float[Tensor, "N K h w"],
    target: Float[Tensor, "N K h w"],
    weight: Float[Tensor, "N K"],
    *,
    reduction: str = "mean",
) -> Float[Tensor, "N K"]:
    """``.5 (w p - w t)^2`` of each joint: the mean over the ``h w`` pixels, or their sum.

    >>> joint_errors(torch.full((1, 1, 4, 4), .1), torch.zeros(1, 1, 4, 4), torch.ones(1, 1))
    tensor([[0.0050]])
    """
    wide = torch.promote_types(heatmaps.dtype, torch.float32)  # squares of bf16 would lose the small errors
    square = ((heatmaps.to(wide) - target) * weight[..., None, None]).square()
    over_pixels = square.sum((2, 3)) if reduction == "sum" else square.mean((2, 3))
    return 0.5 * over_pixels


def heatmap_loss(errors: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Mean over all ``N K`` joints; one of weight 0 counts in the denominator, as in the official code.

    ``N`` is the same on every rank, so the mean of the ranks' losses is the loss of the joined batch.
    """
    return errors.mean()
