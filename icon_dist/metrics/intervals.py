"""Means over seeds and how sure they are: Student's t, paired where the seeds are the same."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval around the mean of ``values``; NaN for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    return _quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)


@dataclass(frozen=True)
class Difference:
    """How much higher one group of runs scores than another."""

    mean: float
    half_width: float  # of the 95 % interval; NaN where there are too few seeds for one
    paired: bool  # seed by seed, so that what runs of one seed share cancels


def difference(values: Mapping[int, float], others: Mapping[int, float]) -> Difference:
    """The difference of two groups of scores by seed.

    Seeds that both have are paired if there are two of them or more. Else the groups are independent samples, with
    Welch's interval (Biometrika, 1947), or none where a group has a single run.
    """
    common = sorted(values.keys() & others.keys())
    if len(common) > 1:
        pairs = [values[seed] - others[seed] for seed in common]
        return Difference(statistics.fmean(pairs), half_width(pairs), True)
    a, b = list(values.values()), list(others.values())
    mean = statistics.fmean(a) - statistics.fmean(b)
    if min(len(a), len(b)) < 2:
        return Difference(mean, math.nan, False)
    parts = [statistics.variance(group) / len(group) for group in (a, b)]
    squared = sum(parts)
    if squared == 0:
        return Difference(mean, 0.0, False)
    freedom = squared**2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, (a, b), strict=True))
    return Difference(mean, _quantile(freedom) * math.sqrt(squared), False)


def _quantile(freedom: float) -> float:
    """Of Student's t; not by scipy.stats, whose import takes half a second."""
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
