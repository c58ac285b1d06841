"""OPEC-Net's loss on refined joints (Qiu et al., ECCV 2020; public code ``core/train.py``)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from icon_dist.distributed import sum_over_ranks, world_size
from icon_dist.tensors.constants import constant

# Where the features are read, and the joints after each of the three scales of features.
STAGE_WEIGHTS = (1.0, 0.3, 0.5, 1.0)


def refinement_loss(
    joints: Float[Tensor, "R N K 2"],
    truth: Float[Tensor, "N K 2"],
    weight: Float[Tensor, "N K"],
    *,
    hw: tuple[int, int],
) -> Float[Tensor, ""]:
    """``sum_r w_r mean |p_r - t|`` with coordinates from -1 to 1 over the input of ``hw`` px.

    The mean is over the coordinates of all joints of all ranks that count for the heatmaps (``weight`` above 0).
    """
    half = constant(hw[1], hw[0], like=truth) / 2
    counted = (weight > 0)[..., None]
    # Not times 0, which would make NaN of the coordinates of a joint that nobody knows.
    errors = torch.where(counted, (joints - truth).abs() / half, 0).sum((1, 2, 3))
    count = sum_over_ranks(2 * counted.sum()).clamp(min=1)
    # The sum is this rank's and the count everybody's; the factor undoes the mean over ranks that gradients get.
    return world_size() * (errors * constant(*STAGE_WEIGHTS, like=errors)).sum() / count
