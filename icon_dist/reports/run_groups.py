"""Runs side by side: what differs in their settings, their scores over seeds, and how sure a difference is.

Runs that differ in nothing but seed, name and folder are one *arm*. The first arm is the one that others are compared
with.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icon_dist.config import Config
from icon_dist.config.loading import written
from icon_dist.config.schema import leaves
from icon_dist.config.short_runs import contrasts
from icon_dist.metrics.intervals import difference, half_width
from icon_dist.reports.runs import Run, measured
from icon_dist.types import Json

OWN = ("run.name", "run.dir", "run.seed")  # keys that do not make another arm
SEEDED = ("model.pretrained", "semi.teacher")  # places whose name may end with the run's seed, as icon-dist paper's


@dataclass(frozen=True)
class Arm:
    """Runs of equal settings."""

    name: str
    runs: tuple[Run, ...]  # in the order given

    @property
    def config(self) -> Config:
        """The config of the arm's first run; the others differ from it in seed, name and folder only."""
        return self.runs[0].config


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms in order of their first run."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_settings(run.config), []).append(run)
    names = [_name(group) for group in groups.values()]
    return [
        Arm(name if names.count(name) == 1 else group[0].name, tuple(group))
        for name, group in zip(names, groups.values(), strict=True)
    ]


def _settings(config: Config) -> tuple[tuple[str, str], ...]:
    return tuple((key, _value(config, key, value)) for key, value in leaves(config) if key not in OWN)


def _value(config: Config, key: str, value: Any) -> str:
    """A value as text; of a place that is named by the seed, without it."""
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(written(value))
    return re.sub(rf"(?<![0-9]){config.run.seed}$", "*", text) if key in SEEDED else text


def _name(runs: Sequence[Run]) -> str:
    """The name of an arm: ``icon`` of ``icon-0`` and ``icon-1``, or else that of its first run."""
    if len(runs) == 1:
        return runs[0].name
    stems = {re.sub(rf"([-_. ]+(s|seed)?[-_. ]*)?(?<![0-9]){run.seed}$", "", run.name) for run in runs}
    return stems.pop() if len(stems) == 1 and "" not in stems else runs[0].name


def method_of(config: Config) -> str:
    """The loss of a run in the paper's words."""
    loss = config.loss
    if not contrasts(config):
        name = "base"
    else:
        inter = "ICON" if loss.lambda_1 and loss.lambda_2 else "+SKCC" if loss.lambda_1 else "+PRCC"
        name = inter if loss.contrast == "inter" else "intra-image contrast"
    return name if config.semi.method == "none" else f"{name}, {config.semi.method}"


def differing(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """The keys in which arms differ, and the value of each arm."""
    table = [dict(_settings(arm.config)) for arm in arms]
    return {key: [row[key] for row in table] for key in table[0] if len({row[key] for row in table}) > 1}


def changed_settings(config: Config) -> dict[str, str]:
    """The settings of a run that are not the defaults."""
    default = dict(_settings(Config()))
    return {key: value for key, value in _settings(config) if value != default[key]}


def table(arms: Sequence[Arm], values: Mapping[Run, Mapping[str, Any]]) -> dict[str, list[Json | None]]:
    """Every number that any run has, summarized over the seeds of each arm; None for an arm without it.

    A summary has mean, deviation, half_width (of the 95 % interval), seeds, and gain over the first arm with its
    gain_half_width, paired where it was taken seed by seed. What takes more runs than there are is None.
    """
    names = dict.fromkeys(name for arm in arms for run in arm.runs for name in values.get(run, {}))
    return {name: _summaries([_by_seed(arm, values, name) for arm in arms]) for name in names}


def _by_seed(arm: Arm, values: Mapping[Run, Mapping[str, Any]], name: str) -> dict[int, float]:
    """The number by seed; runs of one seed count as their mean."""
    of: dict[int, list[float]] = {}
    for run in arm.runs:
        if (value := measured(values.get(run, {}).get(name))) is not None:
            of.setdefault(run.seed, []).append(value)
    return {seed: statistics.fmean(found) for seed, found in of.items()}


def _summaries(by_seed: Sequence[Mapping[int, float]]) -> list[Json | None]:
    first, *others = by_seed
    return [_summary(first, None), *(_summary(values, first) for values in others)]


def _summary(values: Mapping[int, float], first: Mapping[int, float] | None) -> Json | None:
    if not values:
        return None
    found = list(values.values())
    gain = difference(values, first) if first else None
    numbers = {
        "mean": statistics.fmean(found),
        "deviation": statistics.stdev(found) if len(found) > 1 else math.nan,
        "half_width": half_width(found),
        "seeds": len(found),
        "gain": gain.mean if gain else math.nan,
        "gain_half_width": gain.half_width if gain else math.nan,
        "paired": gain.paired if gain else None,
    }
    return {name: value if value is None or math.isfinite(value) else None for name, value in numbers.items()}
