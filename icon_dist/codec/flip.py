"""The flip test: what a model says of a mirrored image, brought back to be averaged with what it says of the image.

The average is taken in ``inference/predictor.py``. How training flips crops is in ``data/augment.py``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from icon_dist.types import mirror_order


def flip_back(
    heatmaps: Float[Tensor, "N K h w"], *, flips: tuple[tuple[int, int], ...], codec: str = "msra"
) -> Float[Tensor, "N K h w"]:
    """Heatmaps of a mirrored image as those of the image, to be averaged with its own.

    Shifted one pixel right, column 0 kept: with stride-4 maps of a W px image, x and W - 1 - x are not mirror columns.
    With UDP's lengths they are.
    """
    mirrored = heatmaps[:, mirror_order(heatmaps.shape[1], flips)].flip(-1)
    return mirrored if codec == "udp" else torch.cat([mirrored[..., :1], mirrored[..., :-1]], -1)


def joints_back(
    xy: Float[Tensor, "N K 2"], *, flips: tuple[tuple[int, int], ...], width: int
) -> Float[Tensor, "N K 2"]:
    """Joints in px of a mirrored image of ``width``, as those of the image."""
    mirrored = xy[:, mirror_order(xy.shape[1], flips)]
    return torch.stack([width - 1 - mirrored[..., 0], mirrored[..., 1]], -1)
