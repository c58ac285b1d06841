"""Random numbers as :mod:`icon_dist.rng` has them, on tensors: for what is drawn on the device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def uniform(key: int | Int64[Tensor, ""], *counters: Int64[Tensor, ...]) -> Float[Tensor, ...]:
    """Uniform numbers in [0, 1), one per element of the broadcast counters: one SplitMix64 step for each counter."""
    state = torch.zeros((), dtype=torch.int64, device=counters[0].device) + key
    for counter in counters:
        state = splitmix64(state + counter)
    return _shift(state, 11).double() * 2.0**-53


def splitmix64(x: Int64[Tensor, ...]) -> Int64[Tensor, ...]:
    """One step of SplitMix64 from the state ``x``, in two's complement."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shift(x, 31)


def _shift(x: Int64[Tensor, ...], bits: int) -> Int64[Tensor, ...]:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
