"""The engine without DeepSpeed: Adam as the paper of Adam writes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from icon_dist.training.engine_plain import PlainEngine, lay_channels_last
from tests.support.engines import LR, Net, assert_same_bits, loss_of, micro_batches, plain, run


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_is_adam_on_the_joined_batch(accumulation: int) -> None:
    """Kingma & Ba, algorithm 1, on all micro-batches at once; in double precision."""
    net, naive = Net(norm=False).double(), Net(norm=False).double()
    engine = plain(net, accumulation=accumulation)
    batches = micro_batches(accumulation * len(LR), torch.float64)
    parameters = dict(naive.named_parameters())
    m = {name: torch.zeros_like(p) for name, p in parameters.items()}
    v = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for t, lr in enumerate(LR, start=1):
        mine = batches[(t - 1) * accumulation : t * accumulation]
        for image, target in mine:
            engine.backward(loss_of(engine(image), target))
            engine.step(lr=lr)
        joined = loss_of(naive(torch.cat([image for image, _ in mine])), torch.cat([target for _, target in mine]))
        gradients = torch.autograd.grad(joined, list(parameters.values()))
        with torch.no_grad():
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g * g
                p.sub_(lr * (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.999**t)).sqrt() + 1e-8))
    state = engine.optimizer_state()
    assert state["step"] == len(LR)
    for name, p in parameters.items():
        torch.testing.assert_close(engine.weights()[name], p.detach(), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(state[f"exp_avg.{name}"], m[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(state[f"exp_avg_sq.{name}"], v[name], rtol=1e-9, atol=1e-12)


def test_parameters_move_at_the_last_micro_batch_only() -> None:
    engine = plain(Net(), accumulation=3)
    before = engine.weights()
    moved = []
    for image, target in micro_batches(6):
        engine.backward(loss_of(engine(image), target))
        engine.step(lr=0.1)
        moved.append(not torch.equal(engine.weights()["head.weight"], before["head.weight"]))
        before = engine.weights()
    assert moved == [False, False, True, False, False, True]


def test_weights_are_a_copy() -> None:
    engine = plain(Net())
    weights = engine.weights()
    run(engine, range(1))
    assert not torch.equal(weights["conv.weight"], engine.weights()["conv.weight"])
    assert set(weights) == set(engine.module.state_dict())


def test_bf16_is_an_autocast() -> None:
    """Products in bf16; parameters, their gradients and what BatchNorm counts stay fp32."""
    net = Net()
    engine = plain(net, bf16=True)
    (image, target), *_ = micro_batches(1)
    out = engine(image)
    assert out.heatmaps.dtype == torch.bfloat16
    engine.backward(loss_of(out, target))
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    assert {t.dtype for t in engine.weights().values()} == {torch.float32, torch.int64}


def test_state_goes_on_in_another_engine() -> None:
    straight, first = plain(Net()), plain(Net())
    run(straight, range(4))
    run(first, range(2))
    second = plain(Net())
    second.module.load_state_dict(first.weights())
    second.load_optimizer_state(first.optimizer_state())
    run(second, range(2, 4))
    assert_same_bits(straight, second)


def fused(net: nn.Module, *, accumulation: int = 2) -> PlainEngine:
    adam = torch.optim.Adam(net.parameters(), lr=1.0, fused=True)
    return PlainEngine(net, adam, accumulation=accumulation, bf16=False)


def test_fused_adam_goes_on_where_it_was() -> None:
    """As on a GPU, where its count of steps is a tensor beside the moments."""
    straight, first = fused(Net()), fused(Net())
    run(straight, range(4))
    run(first, range(2))
    second = fused(Net())
    second.module.load_state_dict(first.weights())
    second.load_optimizer_state(first.optimizer_state())
    run(second, range(2, 4))
    assert_same_bits(straight, second)


def test_fused_adam_reads_whether_to_move() -> None:
    one, other = fused(Net(), accumulation=1), fused(Net(), accumulation=1)
    run(one, range(2), accumulation=1)
    run(other, range(2), accumulation=1)
    (image, target), *_ = micro_batches(1)
    one.backward(loss_of(one.module(image), target) * math.nan)
    assert not one.finite()
    one.step(lr=0.1, skip=~one.finite())
    other.module(image)  # BatchNorm's statistics are the state's to restore
    assert_same_bits(one, other)
    assert one.optimizer_state()["step"] == 2
    for engine in (one, other):
        engine.backward(loss_of(engine.module(image), target))
        engine.step(lr=torch.tensor(0.1, dtype=torch.float64), skip=~engine.finite())
    assert_same_bits(one, other)
    assert one.optimizer_state()["step"] == 3


def test_weights_that_lie_as_the_activations_do_leave_contiguous() -> None:
    engine = plain(Net(), accumulation=1)
    before = engine.weights()
    lay_channels_last(engine.module)
    assert engine.module.get_parameter("conv.weight").is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.weights().items())
    run(engine, range(1), accumulation=1)
    saved = engine.weights() | engine.optimizer_state()
    assert all(tensor.is_contiguous() for tensor in saved.values())
