"""Two students in one module, so that one engine, one optimizer and one checkpoint carry both."""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor, nn

from icon_dist.models import PoseNet
from icon_dist.types import Outputs

NETS = ("net1", "net2")  # what the names of their tensors begin with


class Pair(nn.Module):
    """Networks of one kind that start from different random weights; nothing is shared, heads included."""

    def __init__(self, net1: PoseNet, net2: PoseNet) -> None:
        super().__init__()
        self.net1, self.net2 = net1, net2
        self.embedding_stride, self.embedding_origin = net1.embedding_stride, net1.embedding_origin

    @property
    def channel_order(self) -> str:
        """Of the weights of both."""
        return self.net1.channel_order

    @channel_order.setter
    def channel_order(self, channel_order: str) -> None:
        """Set the channel order, rgb or bgr, that the weights of both expect."""
        self.net1.channel_order = self.net2.channel_order = channel_order

    def layers_after(self, parameter: str) -> int:
        """See PoseNet, of a parameter of either."""
        return self.net1.layers_after(parameter.partition(".")[2])

    def forward(
        self, first: UInt8[Tensor, "N H W 3"] | None, second: UInt8[Tensor, "N H W 3"] | None
    ) -> tuple[Outputs | None, Outputs | None]:
        """``first`` through net 1 and ``second`` through net 2; None = not now."""
        return (
            None if first is None else self.net1(first),
            None if second is None else self.net2(second),
        )
