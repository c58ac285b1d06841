"""A few numbers as a tensor, without a copy from the host: such a copy waits for a GPU, and no graph can capture it."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def constant(*values: float, like: Tensor) -> Shaped[Tensor, " n"]:
    """``values`` in the dtype and on the device of ``like``, where they are filled in."""
    return torch.cat([like.new_full((1,), value) for value in values])
