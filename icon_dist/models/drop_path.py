"""Stochastic depth (Huang et al., ECCV 2016): in training some instances pass a residual branch by.

Which ones is a function of their crops, which augmentation makes anew in every epoch. So nothing has to be saved, and a
resumed run or another number of workers drops the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

STEP = 4  # px between those that are hashed


def crop_keys(x: Float[Tensor, "N 3 H W"]) -> Int64[Tensor, " N"]:
    """Return a hash of the pixels of each normalized crop ``x``."""
    pixels = (x[..., ::STEP, ::STEP].detach().double() * 1024).round().long().flatten(1)  # a gray level is 17 or more
    return _mixed((pixels * (2 * _mixed(torch.arange(pixels.shape[1], device=x.device)) + 1)).sum(1))


def survivors(keys: Int64[Tensor, " N"], *, branch: int, rate: float) -> Float[Tensor, "N 1 1"]:
    """Return what to multiply residual branch number ``branch`` by: 0 for a share ``rate`` of the instances.

    For the others 1 / (1 - rate), which leaves the mean as it is.
    """
    uniform = _shifted(_mixed(keys + _mixed(torch.full_like(keys, branch))), 11).double() * 2.0**-53
    return ((uniform >= rate).float() / (1 - rate))[:, None, None]


def _mixed(x: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """SplitMix64's finalizer (see icon_dist/rng.py) in two's complement."""
    x = x - 0x61C8864680B583EB
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shifted(x, 31)


def _shifted(x: Int64[Tensor, " n"], bits: int) -> Int64[Tensor, " n"]:
    """To the right, with zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
