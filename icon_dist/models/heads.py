"""Heads on a backbone: which there are, and what the projection head reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Heads:
    """What to put on a backbone, and what it is built for."""

    joints: int  # K
    projection: str | None = None  # mlp | linear | None: no contrast
    feature: str = "default"  # what the projection head reads, one of the backbone's sources
    embedding: int = 256  # m
    bones: tuple[tuple[int, int], ...] = ()  # joints that belong together, for models that know the skeleton
    sigma: float = 2.0  # of the peaks of heatmaps, heatmap px, for models that read them
    input_hw: tuple[int, int] = (256, 192)  # px, for models that are of one size
    drop_path: float = 0.0  # stochastic depth in the last block, for models that have it


class Source(NamedTuple):
    """A feature map that the projection head may read."""

    channels: int
    stride: int  # input px per feature px
    origin: float = 0.0  # where the first feature px lies, input px, right and below of the first input px


def concatenate(maps: Sequence[Float[Tensor, "N _ _ _"]]) -> Float[Tensor, "N _ _ _"]:
    """Maps of one image side by side at the size of the first.

    Bilinear, with pixel i of a map at input pixel ``stride * i``, unlike both modes of ``interpolate``;
    what lies beyond the last pixel repeats it.
    """
    if len(maps) == 1:
        return maps[0]
    return torch.cat([maps[0], *(upsample(m, factor=maps[0].shape[-1] // m.shape[-1]) for m in maps[1:])], dim=1)


def upsample(x: Float[Tensor, "N D a b"], *, factor: int) -> Float[Tensor, "N D c d"]:
    """Bilinear, ``out[factor * i] == x[i]``."""
    height, width = x.shape[-2:]
    size = (factor * (height - 1) + 1, factor * (width - 1) + 1)
    inner = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return F.pad(inner, (0, factor - 1, 0, factor - 1), mode="replicate")
