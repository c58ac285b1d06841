"""Farthest first by doubt, against the same as loops."""

from __future__ import annotations

import numpy as np
import pytest

from icon_dist.inference.active_learning import choose


def by_loops(doubt: list[float], embedding: list[np.ndarray], image: list[int], count: int) -> list[int]:
    chosen: list[int] = []
    taken: set[int] = set()
    while len(chosen) < count and len(taken) < len({*image}):
        best, most = -1, -1.0
        for i in range(len(doubt)):
            if image[i] in taken:
                continue
            near = [1 - float(embedding[i] @ embedding[j]) for j in range(len(doubt)) if image[j] in taken]
            value = doubt[i] * (max(0.0, min(near)) if near else 1.0)
            if value > most:
                best, most = i, value
        chosen.append(best)
        taken.add(image[best])
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_choice_is_the_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 30
    doubt, image = rng.random(count), rng.integers(0, 12, count)
    embedding = rng.normal(size=(count, 4))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    found = choose(doubt, embedding, image, count=8)
    assert found.tolist() == by_loops(doubt.tolist(), [*embedding], image.tolist(), 8)
    assert len({*image[found].tolist()}) == 8


def test_twins_are_not_chosen_together() -> None:
    """Two equal doubtful instances, and one that is less doubtful and unlike them."""
    doubt, embedding = np.array([0.9, 0.9, 0.3]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert choose(doubt, embedding, np.arange(3), count=2).tolist() == [0, 2]
    assert choose(doubt, embedding, np.arange(3), count=9).tolist() == [0, 2, 1]  # all there are


def test_an_image_comes_once_for_its_most_doubtful_instance() -> None:
    doubt, embedding = np.array([0.2, 0.8, 0.5]), np.eye(3)
    assert choose(doubt, embedding, np.array([0, 0, 1]), count=3).tolist() == [1, 2]
