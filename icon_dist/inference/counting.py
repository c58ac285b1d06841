"""How far an evaluation is, told by the model itself: it sees every person once, or twice with the mirrored image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from jaxtyping import UInt8
from torch import Tensor

from icon_dist import distributed

T = TypeVar("T")


def counted(
    forward: Callable[[UInt8[Tensor, "N H W 3"]], T], show: Callable[[int, int], None], *, people: int, flip: bool
) -> Callable[[UInt8[Tensor, "N H W 3"]], T]:
    """``forward`` that calls ``show(done, people)`` after each call, with the people that all ranks have done."""
    images = 0

    def counting(image: UInt8[Tensor, "N H W 3"]) -> T:
        """Return the outputs of ``forward``, and show how many instances all ranks have done by now."""
        nonlocal images
        output = forward(image)
        images += len(image) * distributed.world_size()
        show(min(images // (2 if flip else 1), people), people)  # the last batch is filled up
        return output

    return counting
