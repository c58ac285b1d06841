"""Intervals over seeds against scipy's tests, and a published quantile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from icon_dist.metrics.intervals import difference, half_width


def test_an_interval_of_three() -> None:
    values = [60.0, 61.5, 59.0]
    assert half_width(values) == pytest.approx(4.302653 * np.std(values, ddof=1) / math.sqrt(3), rel=1e-6)
    assert math.isnan(half_width([60.0]))


def test_runs_of_the_same_seeds_are_paired() -> None:
    found = difference({0: 61.0, 1: 64.0, 2: 59.5, 7: 90.0}, {2: 58.0, 0: 60.0, 1: 62.0})
    oracle = stats.ttest_rel([61.0, 64.0, 59.5], [60.0, 62.0, 58.0]).confidence_interval(0.95)
    assert found.paired
    assert found.mean == pytest.approx(1.5)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((oracle.low, oracle.high))


def test_runs_of_other_seeds_are_independent() -> None:
    a, b = [61.0, 64.0, 59.5], [50.0, 58.0]
    found = difference(dict(zip((0, 1, 2), a, strict=True)), dict(zip((2, 4), b, strict=True)))
    oracle = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert not found.paired
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("others", [{0: 60.0}, {5: 60.0}, {0: 60.0, 1: 61.0}])
def test_a_single_run_has_no_interval(others: dict[int, float]) -> None:
    found = difference({0: 62.0}, others)
    assert found.mean == pytest.approx(62 - np.mean(list(others.values())))
    assert math.isnan(found.half_width)


def test_equal_scores_differ_by_nothing_for_sure() -> None:
    assert difference({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0}).half_width == 0
