"""A small net, its loss and its steps in an engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icon_dist.training.engine import Engine
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.optimizer import adam
from icon_dist.types import Outputs

LR = (1e-2, 1e-2, 3e-3, 1e-4)  # a schedule: the engine takes what each step is given


class Net(nn.Module):
    """Parameters whose sizes no world divides, and buffers."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, image: Tensor) -> Outputs:
        return Outputs(self.head(self.norm(self.conv(image)).relu()))


def layers_after(parameter: str) -> int:
    """Of a ``Net``, whose three parts are its layers."""
    return 2 - ("conv", "norm", "head").index(parameter.split(".")[0])


def adam_of(net: Net) -> torch.optim.Adam:
    """AdamW of a net's three layers, each at half the rate of the next."""
    return adam(net, lr=1.0, layer_decay=0.5, layers_after=layers_after, weight_decay=0.1)


def micro_batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 3, 6, 5), (4, 2, 6, 5))
    pairs = ([torch.randn(s, generator=generator, dtype=dtype) for s in shapes] for _ in range(count))
    return [(image, target) for image, target in pairs]


def loss_of(out: Outputs, target: Tensor) -> Tensor:
    return (out.heatmaps - target).square().mean()


def plain(net: nn.Module, *, accumulation: int = 2, bf16: bool = False) -> PlainEngine:
    return PlainEngine(net, torch.optim.Adam(net.parameters(), lr=1.0), accumulation=accumulation, bf16=bf16)


def run(engine: Engine, steps: range, *, accumulation: int = 2) -> None:
    batches = micro_batches(accumulation * len(LR))
    for step in steps:
        for image, target in batches[step * accumulation : (step + 1) * accumulation]:
            engine.backward(loss_of(engine(image), target))
            engine.step(lr=LR[step])


def assert_same_bits(a: Engine, b: Engine) -> None:
    for one, other in ((a.weights(), b.weights()), (a.optimizer_state(), b.optimizer_state())):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
