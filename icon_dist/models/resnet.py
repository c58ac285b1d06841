"""SimpleBaseline (Xiao et al., ECCV 2018): ResNet and three transposed convolutions; names of the official code."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from icon_dist.models.batch_norm import BatchNorm2d
from icon_dist.models.blocks import BasicBlock, Bottleneck, Residual, conv_bn, init_from_scratch, stack
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import Encoded, PoseNet

LAYOUTS: dict[str, tuple[type[Residual], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
NAMES = tuple(LAYOUTS)
DECONV = 256  # channels of the upsampling head


def build(name: str, heads: Heads) -> PoseNet | None:
    """The named model, or None if this file does not know the name."""
    if name not in LAYOUTS:
        return None
    block, counts = LAYOUTS[name]
    return ResNet(name, heads, block=block, counts=counts)


class ResNet(PoseNet):
    """Stride 32, then back up to 4."""

    def __init__(self, name: str, heads: Heads, *, block: type[Residual], counts: tuple[int, int, int, int]) -> None:
        super().__init__(name, heads)
        width = block.expansion
        self.conv1, self.bn1 = conv_bn(3, 64, kernel=7, stride=2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stack(block, 64, 64, count=counts[0])
        self.layer2 = stack(block, 64 * width, 128, count=counts[1], stride=2)
        self.layer3 = stack(block, 128 * width, 256, count=counts[2], stride=2)
        self.layer4 = stack(block, 256 * width, 512, count=counts[3], stride=2)
        self.deconv_layers = nn.Sequential(*upsampler(512 * width), *upsampler(DECONV), *upsampler(DECONV))
        init_from_scratch(self)
        self.add_heads(DECONV, {"default": Source(256 * width, 16), "deconv": Source(DECONV, 4)})

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """Features for heatmaps at stride 4, and the output of the third stage, at stride 16, that both heads share."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        third = self.layer3(self.layer2(self.layer1(x)))
        x, pyramid = self.layer4(third), []
        for layer in self.deconv_layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                pyramid.append(x)
        return Encoded(final=x, shared=(third,), pyramid=tuple(pyramid))


def upsampler(inputs: int) -> tuple[nn.ConvTranspose2d, BatchNorm2d, nn.ReLU]:
    """Twice the size; starts at N(0, .001) as in the official code."""
    deconv = nn.ConvTranspose2d(inputs, DECONV, kernel_size=4, stride=2, padding=1, bias=False)
    nn.init.normal_(deconv.weight, std=0.001)
    return deconv, BatchNorm2d(DECONV), nn.ReLU()
