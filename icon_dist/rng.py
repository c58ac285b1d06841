"""Random numbers as a pure function of counters (seed, step ...): nothing depends on world size, worker or order.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the state after ``i`` steps is ``key + i * GOLDEN``, so any number of
any sequence is at hand without the ones before it. Written out because numpy may change its generators' streams.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashed(*counters: int | NDArray[np.integer]) -> U64:
    """64 random bits for each tuple of integers; the arrays broadcast, the order of the counters matters."""
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        state = _mix(state + GOLDEN) ^ np.asarray(counter).astype(np.uint64)
    shape = np.broadcast_shapes(*(np.shape(counter) for counter in counters))
    return _mix(state + GOLDEN).reshape(shape)


def uniforms(key: U64, draws: int) -> F64:
    """``[..., draws]`` numbers in [0, 1), the SplitMix64 sequence of every key."""
    steps = np.arange(1, draws + 1, dtype=np.uint64) * GOLDEN
    return (_mix(key[..., None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(u: F64, v: F64) -> F64:
    """Standard normal numbers from two uniform ones (Box and Muller); ``1 - u`` because log(0) is not a number."""
    out: F64 = np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)
    return out
