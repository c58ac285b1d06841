"""Gradients of all ranks are averaged in one flat message, whatever their layout; all start as the first rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist import distributed
from icon_dist.training.engine_plain import PlainEngine, lay_channels_last
from tests.support.engines import LR, Net, loss_of, micro_batches
from tests.support.on_ranks import flat, on_ranks

WORLD = 2


def averaged() -> list[Tensor]:
    """Tensors as convolutions, biases and 1x1 convolutions have them; with the steps of one of two ranks."""
    g = torch.Generator().manual_seed(distributed.rank())
    tensors = [torch.randn(shape, generator=g) for shape in ((4, 3, 3, 3), (5,), (6, 2, 1, 1), ())]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    strides = [t.stride() for t in tensors]
    distributed.average_in_place(tensors)
    assert [t.stride() for t in tensors] == strides
    return [t.contiguous() for t in tensors]


def trained(channels_last: bool) -> dict[str, Tensor]:
    """Weights after the steps of a rank that starts elsewhere than the first and sees its half of every batch."""
    net = Net(norm=False)
    if distributed.rank():
        with torch.no_grad():
            net.conv.weight += 1
    engine = PlainEngine(net, torch.optim.Adam(net.parameters(), lr=1.0), accumulation=1, bf16=False)
    if channels_last:
        lay_channels_last(net)
    for (image, target), lr in zip(micro_batches(len(LR)), LR, strict=True):
        part = slice(distributed.rank() * 2, distributed.rank() * 2 + 2) if distributed.world_size() > 1 else slice(4)
        engine.backward(loss_of(engine(image[part]), target[part]))
        engine.step(lr=lr, skip=~engine.finite())
    return {name: tensor.detach().contiguous() for name, tensor in net.state_dict().items()}


def both() -> dict[str, object]:
    return {"averaged": averaged(), "trained": trained(False), "channels_last": trained(True)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return [flat(found) for found in on_ranks(both, world=WORLD, folder=tmp_path_factory.mktemp("flat"))]


def test_it_is_the_mean_on_all_ranks(ranks: list[dict[str, Tensor]]) -> None:
    generators = [torch.Generator().manual_seed(rank) for rank in range(WORLD)]
    for i, shape in enumerate(((4, 3, 3, 3), (5,), (6, 2, 1, 1), ())):
        right = sum(torch.randn(shape, generator=g) for g in generators) / WORLD
        assert all(torch.equal(found[f"/averaged/{i}"], right) for found in ranks)


@pytest.mark.parametrize("kind", ["trained", "channels_last"])
def test_two_ranks_are_one_on_the_joined_batch(ranks: list[dict[str, Tensor]], kind: str) -> None:
    alone = trained(kind == "channels_last")
    for name, right in alone.items():
        one, other = (found[f"/{kind}/{name}"] for found in ranks)
        assert torch.equal(one, other)
        assert F.cosine_similarity(one.flatten(), right.flatten(), dim=0) > 1 - 1e-6
        torch.testing.assert_close(one, right, rtol=1e-3, atol=1e-4)
