"""The training-only projection head (paper Fig. 2), of a whole map or of some of its pixels."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from icon_dist.errors import ConfigError
from icon_dist.models.batch_norm import BatchNorm2d, Statistics
from icon_dist.models.blocks import conv_bn, init_from_scratch

WIDE = 2  # channels of a map to one of a projection


class ProjectionHead(nn.Sequential):
    """``mlp`` = 1x1 conv, BN, ReLU, 1x1 conv; ``linear`` = one 1x1 conv. The caller normalizes."""

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        if kind == "mlp":
            layers = [*conv_bn(inputs, outputs, kernel=1), nn.ReLU(), nn.Conv2d(outputs, outputs, kernel_size=1)]
        elif kind == "linear":
            layers = [nn.Conv2d(inputs, outputs, kernel_size=1)]
        else:
            raise ConfigError(f"model.projection={kind}: not one of mlp, linear")
        super().__init__(*layers)
        init_from_scratch(self)

    def at(self, x: Float[Tensor, "N D he we"], pixels: Int64[Tensor, "N pixels"]) -> Float[Tensor, "N m 1 pixels"]:
        """What the head makes of some pixels of its map, places in the flattened one.

        Its BatchNorm has the statistics of the whole map. Mean and variance of ``W x`` follow from mean and covariance
        of ``x``, so that other pixels need not be projected for them.
        """
        if len(self) == 1:
            return cast(Tensor, self(taken(x, pixels)))
        conv, norm, *rest = self
        assert isinstance(norm, BatchNorm2d)
        if x.shape[1] > WIDE * len(norm.weight):  # a covariance of so many channels costs more than the map
            out = taken(norm(conv(x)), pixels)
        else:
            out = norm(conv(taken(x, pixels)), of_outputs(conv, x))
        for layer in rest:
            out = layer(out)
        return out


def taken(x: Float[Tensor, "N D he we"], pixels: Int64[Tensor, "N pixels"]) -> Float[Tensor, "N D 1 pixels"]:
    """Some pixels of a map, laid out channels-last."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # free of a map that is laid out channels-last
    first = torch.arange(len(x), device=x.device)[:, None] * (len(rows) // len(x))
    return rows.index_select(0, (first + pixels).flatten()).view(*pixels.shape, -1).transpose(1, 2)[:, :, None]


def of_outputs(conv: nn.Module, x: Float[Tensor, "N D he we"]) -> Statistics:
    """The statistics of what a 1x1 convolution without bias makes of a map, in fp32 or wider.

    Its weights are asked for through the module, of the identity, because an engine may hold them cut up.
    """
    rows, channels = x.permute(0, 2, 3, 1).flatten(0, 2), x.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        mean, covariance = _Moments.apply(rows.to(torch.promote_types(x.dtype, torch.float32)))  # type: ignore[no-untyped-call]
        identity = torch.eye(channels, dtype=mean.dtype, device=mean.device)
        asked = torch.cat([identity, covariance, mean[:, None]], 1)  # [D, D + D + 1]
        weight, product, average = torch.split(conv(asked[None, :, None])[0, :, 0], [channels, channels, 1], 1)
    return Statistics(average[:, 0], (weight * product).sum(1), len(rows))


class _Moments(torch.autograd.Function):
    """Mean [D] and covariance [D, D] of rows [n, D]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mean's distance to each row, so that nothing cancels."""
        mean = rows.mean(0)
        centered = rows - mean
        ctx.save_for_backward(centered)
        return mean, centered.T @ centered / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> Tensor:
        """One product; through the mean the covariance does not change, since centered rows sum to 0."""
        (centered,) = ctx.saved_tensors
        n = len(centered)
        return torch.addmm(of_mean / n, centered, (of_covariance + of_covariance.T) / n)
