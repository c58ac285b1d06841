"""Stochastic depth (Huang et al., ECCV 2016): in training some instances pass a residual branch by.

Which ones is a function of their crops, which augmentation makes anew in every epoch. So nothing has to be saved, and a
resumed run or another number of workers drops the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from icon_dist.tensors.random import splitmix64, uniform

STEP = 4  # px between those that are hashed


def crop_keys(x: Float[Tensor, "N 3 H W"]) -> Int64[Tensor, " N"]:
    """Return a hash of the pixels of each normalized crop ``x``."""
    pixels = (x[..., ::STEP, ::STEP].detach().double() * 1024).round().long().flatten(1)  # a gray level is 17 or more
    return splitmix64((pixels * (2 * splitmix64(torch.arange(pixels.shape[1], device=x.device)) + 1)).sum(1))


def survivors(keys: Int64[Tensor, " N"], *, branch: int, rate: float) -> Float[Tensor, "N 1 1"]:
    """Return what to multiply residual branch number ``branch`` by: 0 for a share ``rate`` of the instances.

    For the others 1 / (1 - rate), which leaves the mean as it is.
    """
    drawn = uniform(0, torch.full_like(keys, branch), keys)
    return ((drawn >= rate).float() / (1 - rate))[:, None, None]
