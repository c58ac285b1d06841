"""Averaged weights: the recurrence as a loop over numbers, and an evaluation that leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from icon_dist.training.ema import Average, move_towards

DECAY = 0.9


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()


def move(net: nn.Module, step: int) -> None:
    """Something like an optimizer step: weights change, and running statistics with them."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    net(torch.randn(2, 3, 5, 5, generator=generator))


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_the_recurrence() -> None:
    """mean <- d mean + (1 - d) weights with d = min(decay, (1 + step) / (10 + step))."""
    net = module()
    names = [name for name, tensor in net.state_dict().items() if tensor.is_floating_point()]
    expected = {name: net.state_dict()[name].double() for name in names}
    average = Average(net, decay=DECAY)
    decays = []
    for step in range(1, 101):
        move(net, step)
        average.update(step)
        d = min(DECAY, (1 + step) / (10 + step))
        decays.append(d)
        for name in names:
            expected[name] = d * expected[name] + (1 - d) * net.state_dict()[name].double()
    assert decays[0] == 2 / 11
    assert decays[-1] == DECAY, "both branches of the minimum took part"
    assert "1.running_var" in names
    mean = average.state_dict()
    assert mean.keys() == expected.keys()
    for name in names:
        torch.testing.assert_close(mean[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_it_starts_at_the_weights_and_follows_no_later_change() -> None:
    net = module()
    before = {name: tensor for name, tensor in snapshot(net).items() if tensor.is_floating_point()}
    average = Average(net, decay=DECAY)
    move(net, 1)
    assert equal(dict(average.state_dict()), before)


def test_in_place_for_an_evaluation_and_back_to_the_same_bits() -> None:
    net = module()
    average = Average(net, decay=DECAY)
    for step in range(1, 4):
        move(net, step)
        average.update(step)
    raw = snapshot(net)
    with average.in_place():
        inside = snapshot(net)
        for name, mean in average.state_dict().items():
            assert torch.equal(inside[name], mean)
            assert not torch.equal(inside[name], raw[name])
    assert equal(snapshot(net), raw)


def test_back_to_the_same_bits_after_an_error_too() -> None:
    net = module()
    average = Average(net, decay=DECAY)
    move(net, 1)
    raw = snapshot(net)

    def fail() -> None:
        with average.in_place():
            assert not equal(snapshot(net), raw)
            raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        fail()
    assert equal(snapshot(net), raw)


def test_the_state_goes_on_elsewhere_bit_for_bit() -> None:
    net = module()
    average = Average(net, decay=DECAY)
    for step in (1, 2):
        move(net, step)
        average.update(step)
    saved = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    twin = module(seed=1)
    twin.load_state_dict(snapshot(net))
    other = Average(twin, decay=DECAY)
    other.load_state_dict(saved)
    for n, a in ((net, average), (twin, other)):
        move(n, 3)
        a.update(3)
    assert equal(dict(average.state_dict()), dict(other.state_dict()))
    assert not equal(dict(other.state_dict()), saved), "loading copies; the saved tensors stay as they were"


def test_an_average_moves_by_a_weight_of_the_device() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, raw = ([torch.randn(n, generator=generator) for n in (3, 5)] for _ in range(2))
    expected = [a.lerp(b, 0.1) for a, b in zip(mean, raw, strict=True)]
    before = [a.clone() for a in mean]
    move_towards(mean, raw, torch.tensor(0.0))
    assert all(map(torch.equal, mean, before))
    move_towards(mean, raw, torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(mean, expected)
