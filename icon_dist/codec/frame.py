"""The network input: its size, and by which rule boxes land in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icon_dist.codec.affine import F64, affine, center_scale


@dataclass(frozen=True)
class InputFrame:
    """An input of ``hw`` px, as the codec places boxes in it (see :mod:`icon_dist.codec.heatmap`)."""

    hw: tuple[int, int]
    codec: str = "msra"

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.hw[1] / self.hw[0]

    def center_scale(self, box: F64) -> tuple[F64, F64]:
        """Boxes ``[n, 4]`` to centers ``[n, 2]`` px and scales ``[n, 2]`` in units of 200 px, padded to the frame."""
        return center_scale(box, aspect=self.aspect)

    def affine(self, center: F64, scale: F64, rotation: F64) -> F64:
        """Matrices ``[n, 2, 3]``: photo px to input px, for boxes turned by ``rotation [n]`` degrees."""
        return affine(center, scale, rotation, out_wh=(self.hw[1], self.hw[0]), codec=self.codec)

    def boxes(self, box: F64) -> F64:
        """Matrices ``[n, 2, 3]`` of boxes ``[n, 4]`` as the network sees them at test time, upright."""
        return self.affine(*self.center_scale(box), np.zeros(len(box)))
