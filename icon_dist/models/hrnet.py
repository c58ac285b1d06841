"""HRNet (Sun et al., CVPR 2019) of any width; parameter names of the official code, so its weights load by name.

Names: ``hrnet_wN`` (w32 and w48 in the papers) and ``hrnet_small`` for CPUs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from icon_dist.models.blocks import BasicBlock, Bottleneck, conv_bn, init_from_scratch, stack
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import Encoded, PoseNet

NAMES = ("hrnet_w32", "hrnet_w48", "hrnet_wN (N even, 8 or more)", "hrnet_small")


@dataclass(frozen=True)
class Layout:
    """The shape of an HRNet; branch b of a stage is ``width * 2**b`` wide."""

    width: int
    stem: int = 64
    layer1: int = 4  # Bottlenecks at stride 4
    modules: tuple[int, int, int] = (1, 4, 3)  # of stages 2, 3 and 4
    blocks: int = 4  # BasicBlocks in each branch of a module


# For CPUs: 1.25 M parameters, 38 MMACs at 64x64; one thread trains it about 400 images/s there, 5 times as fast as
# resnet18. PCK@0.2 on LSP at 64x64 after 45 (130) s of one core, one seed: 27.7 (35.0). At the same CPU time a second
# Bottleneck and stage-3 module give 27.8 (34.3), width 24 27.6 (32.8), 4 blocks 24.9: more capacity does not pay
# on such budgets.
SMALL = Layout(width=16, stem=32, layer1=1, modules=(1, 1, 1), blocks=2)


def build(name: str, heads: Heads) -> PoseNet | None:
    """The named model, or None if this file does not know the name."""
    layout = layout_of(name)
    return None if layout is None else HRNet(name, heads, layout)


def layout_of(name: str) -> Layout | None:
    """Return the layout of ``hrnet_small`` or ``hrnet_wN`` (N even, 8 or more); None for any other name."""
    if name == "hrnet_small":
        return SMALL
    width = re.fullmatch(r"hrnet_w(\d+)", name)
    if width is None or int(width[1]) < 8 or int(width[1]) % 2:
        return None
    return Layout(int(width[1]))


class HRNet(PoseNet):
    """Branches of stride 4, 8, 16, 32 in parallel, joined after every module."""

    def __init__(self, name: str, heads: Heads, layout: Layout) -> None:
        super().__init__(name, heads)
        widths = tuple(layout.width * 2**b for b in range(4))
        stem, wide = layout.stem, layout.stem * Bottleneck.expansion
        self.conv1, self.bn1 = conv_bn(3, stem, kernel=3, stride=2)
        self.conv2, self.bn2 = conv_bn(stem, stem, kernel=3, stride=2)
        self.relu = nn.ReLU()
        self.layer1 = stack(Bottleneck, stem, stem, count=layout.layer1)
        self.transition1 = Transition((wide,), widths[:2])
        self.stage2 = stage(widths[:2], modules=layout.modules[0], blocks=layout.blocks)
        self.transition2 = Transition(widths[:2], widths[:3])
        self.stage3 = stage(widths[:3], modules=layout.modules[1], blocks=layout.blocks)
        self.transition3 = Transition(widths[:3], widths)
        self.stage4 = stage(widths, modules=layout.modules[2], blocks=layout.blocks, outputs=1)
        # The official code draws from N(0, .001), where Adam's first steps at 1e-3 are as large as the weights
        # themselves: from scratch that starts slower (hrnet_small on LSP, loss at step 100: 2.43, here 2.35).
        init_from_scratch(self)
        self.add_heads(widths[0], {"default": Source(widths[0], 4), "all": Source(sum(widths[:3]), 4)})

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """Return the feature maps of a normalized batch of images ``x``.

        ``final`` is the finest map of stage 4, of ``width`` channels at stride 4. ``shared`` are the maps of stage 3 at
        strides 4, 8 and 16, of 1, 2 and 4 times ``width`` channels; ``pyramid`` are the same, the coarsest first.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        second = self.stage2(self.transition1([x]))
        third = self.stage3(self.transition2(second))
        fourth = self.stage4(self.transition3(third))
        return Encoded(final=fourth[0], shared=tuple(third), pyramid=tuple(third[::-1]))


class Module(nn.Module):
    """Residual blocks on each branch, then every output is the sum of all branches brought to its size."""

    def __init__(self, widths: Sequence[int], *, blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(stack(BasicBlock, w, w, count=blocks) for w in widths)
        self.fuse_layers = nn.ModuleList(Fuse(widths, target=i) for i in range(outputs))
        self.relu = nn.ReLU()

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Return the ``outputs`` finest branches, each the sum of all branches.

        ``xs`` are all branches, [N, D, h, w] each, the finest first.
        """
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        return [self.relu(fuse(xs)) for fuse in self.fuse_layers]


class Fuse(nn.ModuleList):
    """The sum of all branches at the size of branch ``target``."""

    def __init__(self, widths: Sequence[int], *, target: int) -> None:
        super().__init__(resize(widths, source=j, target=target) for j in range(len(widths)))

    def forward(self, xs: list[Tensor]) -> Tensor:
        """Return the sum, with the shape [N, D, h, w] of branch ``target``.

        ``xs`` are all branches, the finest first.
        """
        first, second, *others = (layer(x) for layer, x in zip(self, xs, strict=True))
        total: Tensor = first + second
        for other in others:
            total += other
        return total


class Transition(nn.ModuleList):
    """Adapts the widths of the branches and starts one more from the coarsest."""

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        kept = [
            nn.Identity() if a == b else nn.Sequential(*conv_bn(a, b, kernel=3), nn.ReLU())
            for a, b in zip(before, after[: len(before)], strict=True)
        ]
        new = nn.Sequential(*conv_bn(before[-1], after[-1], kernel=3, stride=2), nn.ReLU())
        super().__init__([*kept, nn.Sequential(new)])

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Return the branches of the next stage, the finest first, one more than ``xs``.

        The new one has half the height and width of the coarsest of ``xs``.
        """
        return [layer(x) for layer, x in zip(self, [*xs, xs[-1]], strict=True)]


def stage(widths: Sequence[int], *, modules: int, blocks: int, outputs: int = 0) -> nn.Sequential:
    """``modules`` modules in a row; the last has ``outputs`` branches (0: all)."""
    counts = [len(widths)] * (modules - 1) + [outputs or len(widths)]
    return nn.Sequential(*(Module(widths, blocks=blocks, outputs=n) for n in counts))


def resize(widths: Sequence[int], *, source: int, target: int) -> nn.Module:
    """From branch ``source`` to the size of ``target``: up by 1x1 and nearest, down by 3x3s of stride 2."""
    inputs, outputs = widths[source], widths[target]
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2.0 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(inputs, outputs, kernel=1), up)
    steps = [nn.Sequential(*conv_bn(inputs, inputs, kernel=3, stride=2), nn.ReLU()) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, nn.Sequential(*conv_bn(inputs, outputs, kernel=3, stride=2)))
