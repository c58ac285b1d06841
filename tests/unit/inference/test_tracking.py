"""OKS-SORT on poses that move: who is who, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from icon_dist.inference.tracking import Tracker

SIGMAS = np.full(4, 0.08)
SQUARE = np.array([[0, 0], [40, 0], [40, 80], [0, 80]], np.float64)


def at(*places: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Instances of one shape with their upper left corners at ``places``: joints, scores, boxes."""
    xy = np.array([SQUARE + place for place in places], np.float32).reshape(-1, 4, 2)
    boxes = np.array([[*place, 40, 80] for place in places], np.float64).reshape(-1, 4)
    return xy, np.ones((len(places), 4), np.float32), boxes


def test_instances_keep_their_numbers_whatever_their_order() -> None:
    tracker = Tracker(SIGMAS)
    assert tracker.update(*at((0, 0), (200, 0))).tolist() == [1, 2]
    assert tracker.update(*at((203, 0), (2, 1))).tolist() == [2, 1]
    assert tracker.update(*at((4, 2), (400, 0), (206, 0))).tolist() == [1, 3, 2]


def test_two_that_cross_keep_their_numbers() -> None:
    """At 10 px a frame they pass through one another; where they meet, only their velocities tell them apart."""
    tracker = Tracker(SIGMAS)
    for step in range(21):
        left, right = (10.0 * step, 0.0), (200.0 - 10 * step, 4.0)
        assert tracker.update(*at(left, right)).tolist() == [1, 2], step


def test_a_track_goes_on_after_a_gap_where_it_would_be_by_then() -> None:
    tracker = Tracker(SIGMAS)
    for step in range(10):
        tracker.update(*at((8.0 * step, 0)))
    for _ in range(5):
        assert tracker.update(*at()).tolist() == []
    assert tracker.update(*at((8.0 * 15, 0))).tolist() == [1]
    for _ in range(5):
        tracker.update(*at())
    assert tracker.update(*at((0, 0))).tolist() == [2], "not where it went"


@pytest.mark.parametrize(("missing", "number"), [(30, 1), (31, 2)])
def test_a_track_ends_after_its_patience(missing: int, number: int) -> None:
    tracker = Tracker(SIGMAS)
    tracker.update(*at((0, 0)))
    for _ in range(missing):
        tracker.update(*at())
    assert tracker.update(*at((0, 0))).tolist() == [number]


def test_joints_that_are_uncertain_do_not_count() -> None:
    tracker = Tracker(SIGMAS)
    tracker.update(*at((0, 0)))
    xy, scores, boxes = at((1, 0))
    xy[0, 2], scores[0, 2] = (900, 900), 0.05
    assert tracker.update(xy, scores, boxes).tolist() == [1]
    assert tracker.update(*at((2, 0))).tolist() == [1]
