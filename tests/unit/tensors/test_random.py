"""Random numbers on tensors: uniform, of every counter, and SplitMix64's."""

from __future__ import annotations

import torch

from icon_dist.tensors.random import uniform


def test_random_numbers_are_uniform_and_depend_on_every_counter() -> None:
    people, classes = torch.arange(200), torch.arange(50)
    u = uniform(7, people[:, None], classes)
    assert u.shape == (200, 50)
    assert u.unique().numel() == 10_000
    histogram = torch.histc(u, bins=10, min=0, max=1)
    assert (histogram - 1000).abs().max() < 150
    assert not torch.equal(u, uniform(8, people[:, None], classes))
    assert torch.equal(u[3:5], uniform(7, people[3:5, None], classes))  # whatever else is in the batch


def test_random_numbers_are_splitmix64() -> None:
    """The published first output for seed 0 is 0xE220A8397B1DCDAF."""
    drawn = uniform(0, torch.tensor([0]))
    assert drawn.item() == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
