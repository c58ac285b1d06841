"""What a model's heatmaps mean, as one value: it was trained with it, and whoever reads its answers needs the same.

``heatmap.py`` makes target heatmaps and ``decode.py`` reads joints from them, for the codecs msra, dark and udp. UDP's
own lengths are in ``affine.py`` and ``heatmap.py``, its step is in ``dark.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from icon_dist.codec import decode, flip, heatmap
from icon_dist.codec.frame import InputFrame
from icon_dist.config import Config

STRIDE = 4  # input px per heatmap px of every model


@dataclass(frozen=True)
class Codec:
    """How joints become heatmaps and heatmaps joints."""

    name: str  # msra | dark | udp: icon_dist.codec.heatmap
    input_hw: tuple[int, int]
    stride: int  # of the heatmaps
    sigma: float  # heatmap px

    @property
    def frame(self) -> InputFrame:
        """Of the network input."""
        return InputFrame(self.input_hw, self.name)

    @property
    def hw(self) -> tuple[int, int]:
        """Of the heatmaps."""
        height, width = self.input_hw
        return height // self.stride, width // self.stride

    @property
    def unit(self) -> tuple[float, float]:
        """Input px per heatmap px, (x, y)."""
        return heatmap.unit(self.hw, stride=self.stride, codec=self.name)

    def encode(
        self, joints: Float[Tensor, "N K 2"], labelled: Bool[Tensor, "N K"]
    ) -> tuple[Float[Tensor, "N K h w"], Float[Tensor, "N K"]]:
        """Targets and weights of joints in input px."""
        return heatmap.encode(joints, labelled, hw=self.hw, stride=self.stride, sigma=self.sigma, codec=self.name)

    def decode(
        self, maps: Float[Tensor, "N K h w"], *, method: str = "argmax", unseen: bool = False
    ) -> tuple[Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
        """Joints in input px, and how high their peaks are; ``method``: argmax | quarter | dark.

        Without a positive value a joint is at (0, 0), or, ``unseen``, where its map is highest all the same.
        """
        xy, peak = decode.decode(maps, method=method, sigma=self.sigma, codec=self.name, unseen=unseen)
        return heatmap.to_input(xy, hw=self.hw, stride=self.stride, codec=self.name), peak

    def flip_back(
        self, maps: Float[Tensor, "N K h w"], *, flips: tuple[tuple[int, int], ...]
    ) -> Float[Tensor, "N K h w"]:
        """Heatmaps of a mirrored image as those of the image."""
        return flip.flip_back(maps, flips=flips, codec=self.name)


def codec_of(config: Config) -> Codec:
    """Of a model that is, or was, trained with ``config``."""
    return Codec(config.data.codec, config.input_hw, STRIDE, config.data.sigma)
