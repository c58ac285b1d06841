"""Randomness that counts instead of remembering, and choices of the best."""

from __future__ import annotations

import torch

from icon_dist.losses.sampling import choose, draw_count, key_of


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


def test_keys_depend_on_the_order_of_what_they_are_of() -> None:
    assert key_of(1, 2) != key_of(2, 1)
