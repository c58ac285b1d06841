"""Batch norm whose batches the model counts: one launch for all norms of a network instead of one each (292 of
HRNet-w32, a twentieth of a small batch's step on a GPU). Nothing reads the counts; public weights have them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from icon_dist.tensors.torch_compat import foreach_add_


class Statistics(NamedTuple):
    """Of the values of each channel."""

    mean: Float[Tensor, " D"]
    var: Float[Tensor, " D"]  # biased, as a batch is normalized by
    number: int  # of values of a channel


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, bit for bit, but for ``num_batches_tracked``, which :func:`count_batch` moves."""

    def forward(self, x: Float[Tensor, "N D a b"], known: Statistics | None = None) -> Float[Tensor, "N D a b"]:
        """Normalize each channel, in training by the statistics of the batch, which the running ones follow.

        ``known`` are those statistics where ``x`` is a part of the batch; gradients go through them.
        """
        if known is not None:
            return self._by(known, x)
        held = self.training and not self.track_running_stats
        mean, var = (None, None) if held else (self.running_mean, self.running_var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum or 0.0, self.eps)

    def _by(self, known: Statistics, x: Tensor) -> Tensor:
        mean, var, n = known
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(var.detach() * (n / (n - 1)), momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


@torch.no_grad()
def count_batch(norms: list[BatchNorm2d]) -> None:
    """A batch has gone through these norms, in training; those whose statistics are held have not seen it."""
    counts = [n.num_batches_tracked for n in norms if n.track_running_stats and n.num_batches_tracked is not None]
    if counts:
        foreach_add_(counts, 1)
