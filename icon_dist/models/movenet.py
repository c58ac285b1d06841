"""MoveNet SinglePose Thunder (Google, 2021) as far as its heatmaps: MobileNetV2 at a width of 1.75, and a pyramid.

Its public TensorFlow.js model has batch norms folded into biases, so there are none here. TensorFlow pads a convolution
of stride 2 on the right and below only: pixel i of a map of stride s lies at s * i + s - 1. The heads for centers,
offsets and regression are left out. Heatmaps are the sigmoid of its logits, which are -40 where there is no joint. Its
public weights put the peak of a joint at x into pixel (x - 2) / 4; training moves it to x / 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from icon_dist.models.blocks import init_from_scratch
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import Encoded, PoseNet
from icon_dist.models.rename_keys import renamed
from icon_dist.types import Outputs

NAMES = ("movenet_thunder",)
PUBLIC_NAMES = (  # beginnings of those of the converted file, and ours
    (r"(stem|top)\.c\.", r"\1.conv."),
    (r"stages\.(\d+)\.(\d+)\.m\.(\d)\.c\.", r"stages.\1.\2.layers.\3.conv."),
    *((rf"l{n}\.c\.", f"laterals.{n - 2}.conv.") for n in (2, 3, 4, 5)),
    *((rf"s{n}\.d\.c\.", f"merges.{n - 2}.depthwise.conv.") for n in (2, 3, 4)),
    *((rf"s{n}\.p\.c\.", f"merges.{n - 2}.pointwise.conv.") for n in (2, 3, 4)),
    (r"h\.d\.c\.", "head.depthwise.conv."),
    (r"h\.p\.c\.", "head.pointwise.conv."),
    (r"final\.c\.", "final_layer."),
)
STEM, TOP = 56, 1280
LATERAL = (24, 32, 64, 64)  # channels of the pyramid at strides 4, 8, 16, 32
HEAD = 96


def of_public(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the converted file under our names; other names stay as they are."""
    return {renamed(name, PUBLIC_NAMES): value for name, value in tensors.items()}


class Stage(NamedTuple):
    """Inverted bottlenecks of one width; the first may halve the map."""

    channels: int
    blocks: int
    stride: int
    expansion: int


THUNDER = (
    Stage(32, 1, 1, 1),
    Stage(40, 2, 2, 6),
    Stage(56, 3, 2, 6),
    Stage(112, 4, 2, 6),
    Stage(168, 3, 1, 6),
    Stage(280, 3, 2, 6),
    Stage(560, 1, 1, 6),
)
SKIPS = (1, 2, 3)  # stages whose maps, of strides 4, 8 and 16, enter the pyramid


def build(name: str, heads: Heads) -> PoseNet | None:
    """The named model, or None if this file does not know the name."""
    return MoveNet(name, heads) if name in NAMES else None


class MoveNet(PoseNet):
    """Stride 32, then back up to 4; each step adds the trunk's map of its size.

    The projection head reads the trunk's map of stride 16 (``default``) or the map under the heatmaps (``deconv``).
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, name: str, heads: Heads) -> None:
        super().__init__(name, heads)
        self.stem = Convolution(3, STEM, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        width, widths = STEM, []
        for stage in THUNDER:
            blocks = nn.ModuleList()
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(Bottleneck(width, stage.channels, stride=stride, expansion=stage.expansion))
                width = stage.channels
            self.stages.append(blocks)
            widths.append(width)
        self.top = Convolution(width, TOP, kernel=1)
        skips = [widths[i] for i in SKIPS]
        self.laterals = nn.ModuleList(Convolution(i, o, kernel=1) for i, o in zip([*skips, TOP], LATERAL, strict=True))
        outputs = (LATERAL[0], LATERAL[0], LATERAL[1])
        self.merges = nn.ModuleList(Separable(i, o) for i, o in zip(LATERAL[:3], outputs, strict=True))
        self.head = Separable(LATERAL[0], HEAD)
        init_from_scratch(self)
        trunk = Source(skips[-1], 16, origin=15)
        self.add_heads(HEAD, {"default": trunk, "deconv": Source(HEAD, 4)})
        assert self.final_layer.bias is not None
        nn.init.constant_(self.final_layer.bias, -4.0)  # heatmaps are nearly all zero, so they start there

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """Return ``final``, of 96 channels at stride 4, and as ``shared`` the trunk's 112 channels at stride 16."""
        x = F.relu6(self.stem(x))
        skips = []
        for number, stage in enumerate(self.stages):
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            if number in SKIPS:
                skips.append(x)
        x = self.laterals[3](F.relu6(self.top(x)))
        for i in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.merges[i](x + self.laterals[i](skips[i]))
        return Encoded(final=self.head(x), shared=(skips[-1],))

    def apply_heads(self, encoded: Encoded, pixels: Int64[Tensor, "N pixels"] | None = None) -> Outputs:
        """See PoseNet; the heatmaps are between 0 and 1."""
        outputs = super().apply_heads(encoded, pixels)
        outputs.heatmaps = outputs.heatmaps.sigmoid()
        return outputs


class Convolution(nn.Module):
    """A convolution with TensorFlow's padding: what is odd comes on the right and below."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=bias)
        before = (kernel - stride) // 2  # of sides that the stride divides
        self.padding = (before, kernel - stride - before) if kernel > stride else (0, 0)

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Return the map, 1 / stride as large as ``x``."""
        out: Tensor = self.conv(F.pad(x, (*self.padding, *self.padding)))
        return out


class Bottleneck(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down without an activation; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        layers = [] if expansion == 1 else [Convolution(inputs, inner, kernel=1)]
        layers.append(Convolution(inner, inner, kernel=3, stride=stride, groups=inner))
        layers.append(Convolution(inner, outputs, kernel=1))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Return the map after this block."""
        inner = x
        for layer in self.layers[:-1]:
            inner = F.relu6(layer(inner))
        out: Tensor = self.layers[-1](inner)
        return x + out if self.adds else out


class Separable(nn.Module):
    """Depthwise 3x3, 1x1, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = Convolution(inputs, inputs, kernel=3, groups=inputs, bias=False)
        self.pointwise = Convolution(inputs, outputs, kernel=1)

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Return the map, of the same size."""
        return F.relu(self.pointwise(self.depthwise(x)))
