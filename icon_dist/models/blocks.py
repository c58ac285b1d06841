"""Residual blocks and initialization shared by the backbones (He et al. 2016; parameter names as in torchvision).

Nothing works in place on a module's output, so that hooks on modules (ZeRO-3, gradient probes) stay valid.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from icon_dist.models.batch_norm import BatchNorm2d


def conv_bn(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, eps: float = 1e-5
) -> tuple[nn.Conv2d, BatchNorm2d]:
    """A convolution without bias that keeps the size up to ``stride``, and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, BatchNorm2d(outputs, eps=eps)


class Residual(nn.Module):
    """``relu(body(x) + skip(x))`` where the skip is a 1x1 convolution if the shape changes."""

    expansion: int

    def __init__(self, inputs: int, planes: int, *, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.build(inputs, planes, stride)
        self.relu = nn.ReLU()
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*conv_bn(inputs, outputs, kernel=1, stride=stride)) if changes else None

    def build(self, inputs: int, planes: int, stride: int) -> None:
        """Make the layers of the body as attributes, from ``inputs`` to ``planes * expansion`` channels."""
        raise NotImplementedError

    def body(self, x: Tensor) -> Tensor:
        """What is added to the skip: [N inputs H W] to [N planes*expansion H/stride W/stride]."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Apply body, skip and ReLU."""
        skip = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.body(x) + skip)
        return out


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def build(self, inputs: int, planes: int, stride: int) -> None:
        """Make both convolutions; the first one has the stride."""
        self.conv1, self.bn1 = conv_bn(inputs, planes, kernel=3, stride=stride)
        self.conv2, self.bn2 = conv_bn(planes, planes, kernel=3)

    def body(self, x: Tensor) -> Tensor:
        """conv, norm, ReLU, conv, norm."""
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(Residual):
    """1x1, 3x3, 1x1; the stride sits in the 3x3."""

    expansion = 4

    def build(self, inputs: int, planes: int, stride: int) -> None:
        """Make the three convolutions."""
        self.conv1, self.bn1 = conv_bn(inputs, planes, kernel=1)
        self.conv2, self.bn2 = conv_bn(planes, planes, kernel=3, stride=stride)
        self.conv3, self.bn3 = conv_bn(planes, planes * self.expansion, kernel=1)

    def body(self, x: Tensor) -> Tensor:
        """conv, norm, ReLU twice, then conv, norm."""
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        return out


def stack(block: type[Residual], inputs: int, planes: int, *, count: int, stride: int = 1) -> nn.Sequential:
    """``count`` blocks, of which the first may change the shape."""
    first = block(inputs, planes, stride=stride)
    return nn.Sequential(first, *(block(planes * block.expansion, planes) for _ in range(count - 1)))


@torch.no_grad()
def init_from_scratch(module: nn.Module) -> None:
    """He initialization of every convolution; batch norms start as the identity, which is torch's default."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:  # a plan only counts, and torch is slow at that
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.groups > 1:  # an input reaches only the outputs of its group
                part.weight *= part.groups**0.5
