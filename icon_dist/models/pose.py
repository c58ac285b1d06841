"""A pose model: backbone, heatmap head and projection head.

A backbone is a subclass that builds its layers as attributes of the model itself, so that official weights load by
name, and then calls :meth:`PoseNet.add_heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from icon_dist.codec import STRIDE
from icon_dist.errors import ConfigError
from icon_dist.models.batch_norm import BatchNorm2d, count_batch
from icon_dist.models.heads import Heads, Source, concatenate
from icon_dist.models.projection import ProjectionHead
from icon_dist.tensors.unit_vectors import unit
from icon_dist.types import Outputs, Pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoded(NamedTuple):
    """What a backbone computes."""

    final: Tensor  # [N D h w], read by the heatmap head
    shared: tuple[Tensor, ...]  # intermediate maps, finest first, all on the way to ``final``
    pyramid: tuple[Tensor, ...] = ()  # maps on the way up, coarsest first, of a backbone that has them


class PoseNet(nn.Module):
    """uint8 photos to heatmaps, and in training to unit-norm embeddings.

    ``channel_order`` is the channel order that the weights expect; batches are always RGB.
    """

    stride = STRIDE  # input px per heatmap px
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of the normalized input, whose range is 0..1
    std: tuple[float, float, float] = IMAGENET_STD
    _scale: Tensor
    _shift: Tensor

    def __init__(self, name: str, heads: Heads) -> None:
        super().__init__()
        self.backbone_name = name
        self.heads = heads
        self.channel_order = "rgb"
        # By numpy, with the same bits: to multiply on the meta device, where plans are made, torch loads its compiler.
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        self.register_buffer("_scale", torch.tensor((1 / (255 * std)).tolist()), persistent=False)
        self.register_buffer("_shift", torch.tensor((-mean / std).tolist()), persistent=False)

    def add_heads(self, channels: int, sources: Mapping[str, Source]) -> None:
        """Add ``final_layer`` on ``channels`` features, and the projection head on the chosen source.

        The projection head comes last: for a given seed all other weights start the same with and without it.
        """
        heads = self.heads
        if heads.feature not in sources:
            raise ConfigError(f"model.feature={heads.feature}: {self.backbone_name} has {', '.join(sources)}")
        self.embedding_stride, self.embedding_origin = sources[heads.feature][1:]
        self.final_layer = nn.Conv2d(channels, heads.joints, kernel_size=1)
        # Heatmaps are nearly all zero, so they start there: the official code's value.
        nn.init.normal_(self.final_layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)
        self.projection = (
            None
            if heads.projection is None
            else ProjectionHead(heads.projection, sources[heads.feature].channels, heads.embedding)
        )
        # Whose batches are counted. Not looked for in the first pass: a compiler would cut the model in two there.
        self.norms = [part for part in self.modules() if isinstance(part, BatchNorm2d)]

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """The backbone."""
        raise NotImplementedError

    def layers_after(self, parameter: str) -> int:  # noqa: ARG002
        """How many layers follow that of a parameter, for learning rates by layer; 0 where a backbone has no such."""
        return 0

    def fitted(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """Weights of others that depend on the size of the input, as this model needs them; others as they are."""
        return value

    def normalize(self, image: UInt8[Tensor, "N H W 3"]) -> Float[Tensor, "N 3 H W"]:
        """Normalization with the backbone's mean and std; the result is laid out channels-last at no cost.

        The official BGR models normalize by channel *position*: the mean of red is taken from blue (cv2 images were
        never converted), and their weights expect it.
        """
        if self.channel_order == "bgr":
            image = image.flip(-1)
        return (image * self._scale + self._shift).permute(0, 3, 1, 2)

    def forward(self, image: UInt8[Tensor, "N H W 3"], pixels: Int64[Tensor, "N pixels"] | None = None) -> Outputs:
        """Heatmaps of RGB crops at ``stride``; in training the embeddings as well, at ``embedding_stride``.

        Of the embeddings only those at ``pixels``, places in the flattened map, all different. None = all of them.
        """
        return self.apply_heads(self.encode(self.normalize(image)), pixels)

    def apply_heads(self, encoded: Encoded, pixels: Int64[Tensor, "N pixels"] | None = None) -> Outputs:
        """Heatmaps, and in training the embeddings; counts the batch."""
        if self.training:
            count_batch(self.norms)
        final = encoded.final
        # fp32 also under autocast: with the 8 bits of bf16 neighboring pixels tie and argmax becomes coarse.
        with torch.autocast(final.device.type, enabled=False):
            heatmaps = self.final_layer(final.float())
        if self.projection is None or not self.training:
            return Outputs(heatmaps)
        feature, *coarser = self._sources(encoded)
        tap = feature.view_as(feature)
        x = concatenate([tap, *coarser])
        if pixels is None:
            projected, some = self.projection(x), None
        else:
            projected = self.projection.at(x, pixels)
            some = Pixels(pixels, (x.shape[2], x.shape[3]))
        return Outputs(heatmaps, unit(projected.float(), dim=1), feature=feature, tap=tap, pixels=some)

    def features(self, image: UInt8[Tensor, "N H W 3"]) -> Float[Tensor, "N D he we"]:
        """What the projection head reads, or would read; also outside training (Fig. 5).

        Its px (x, y) lies at ``embedding_origin + embedding_stride * (x, y)`` of the input.
        """
        return concatenate(self._sources(self.encode(self.normalize(image))))

    def _sources(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """The maps that ``model.feature`` names, finest first."""
        return {"default": encoded.shared[:1], "all": encoded.shared, "deconv": (encoded.final,)}[self.heads.feature]
