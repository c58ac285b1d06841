"""Randomness that counts instead of remembering, and choices of the best."""

from __future__ import annotations

import torch

from icon_dist.losses.sampling import (
    choose,
    draw_count,
    key_of,
    uniform,
)


def test_ties_go_to_the_lower_index() -> None:
    score = torch.tensor([[1.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = choose(score, torch.ones(2, 4).bool(), torch.tensor([2]))
    assert chosen.int().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_only_allowed_categories_are_chosen() -> None:
    allowed = torch.tensor([[False, True, False]])
    assert choose(torch.tensor([[9.0, 1.0, 8.0]]), allowed, torch.tensor([2])).tolist() == [[False, True, False]]


def test_random_counts_are_uniform_and_inclusive() -> None:
    drawn = draw_count((6, 9), 3, torch.arange(8000), most=17).bincount()
    assert drawn[:6].sum() == 0
    assert drawn.shape == (10,)
    assert (drawn[6:] - 2000).abs().max() < 200  # 5 standard deviations
    assert draw_count((4, 8), 3, torch.arange(100), most=7).max() == 7


def test_random_numbers_are_uniform_and_depend_on_every_counter() -> None:
    people, classes = torch.arange(200), torch.arange(50)
    u = uniform(7, people[:, None], classes)
    assert u.shape == (200, 50)
    assert u.unique().numel() == 10_000
    histogram = torch.histc(u, bins=10, min=0, max=1)
    assert (histogram - 1000).abs().max() < 150
    assert not torch.equal(u, uniform(8, people[:, None], classes))
    assert torch.equal(u[3:5], uniform(7, people[3:5, None], classes))  # whatever else is in the batch
    assert key_of(1, 2) != key_of(2, 1)


def test_random_numbers_are_splitmix64() -> None:
    """The published first output for seed 0 is 0xE220A8397B1DCDAF."""
    drawn = uniform(0, torch.tensor([0]))
    assert drawn.item() == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
