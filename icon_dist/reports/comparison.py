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
from icon_dist.config.schema import leaves
from icon_dist.metrics.intervals import difference, half_width
from icon_dist.metrics.recall import DEFINITIONS, THRESHOLDS
from icon_dist.reports.changes import Change
from icon_dist.reports.measure import Measured
from icon_dist.reports.runs import Run, finite, is_known

OWN = ("run.name", "run.dir", "run.seed")  # keys that do not make another arm
SEEDED = (
    "model.pretrained",
    "semi.teacher",
)  # places whose name may end with the seed of the run, as icon-dist paper's
SPEED = {"img_s": "images/s", "step_ms": "step, ms", "data_wait": "data wait, %", "memory_mb": "memory, MB"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """Runs of equal settings."""

    name: str
    runs: tuple[Run, ...]  # in the order given

    @property
    def config(self) -> Config:
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
    text = f"{value:g}" if isinstance(value, float) else str(value)
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
    if loss.lambda_p == 0:
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
        value = finite(values.get(run, {}).get(name))
        if value is not None and is_known(value):
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


def speed(run: Run) -> dict[str, float]:
    """Median of each figure of speed over the run's records; {} where the run has recorded none."""
    found = {name: [v for event in run.train if (v := finite(event.get(name))) is not None] for name in SPEED}
    return {name: statistics.median(values) for name, values in found.items() if values}


def numbers_of(
    arms: Sequence[Arm],
    measured: Mapping[Run, Measured],
    *,
    shards: str | None,
    changed: Mapping[str, Sequence[Change]],
    missing: Sequence[str],
) -> Json:
    """All numbers of a comparison: what ``compare.json`` holds and the page shows."""
    runs = [run for arm in arms for run in arm.runs]
    recorded = {run: run.best["scores"] for run in runs if run.best is not None}
    scores = {run: one.scored.scores for run, one in measured.items()} or recorded
    any_measured = next(iter(measured.values()), None)
    conditions = (
        any_measured.conditions
        if any_measured
        else next((run.best["what"] for run in runs if run.best is not None), None)
    )
    joints = _joint_names(runs)
    return {
        "metric": _metric(runs, any_measured),
        "conditions": conditions,
        "shards": shards,
        "missing": list(missing),
        "arms": [_about(arm, measured) for arm in arms],
        "settings": differing(arms) if len(arms) > 1 else {k: [v] for k, v in changed_settings(arms[0].config).items()},
        "scores": {name: row for name, row in table(arms, scores).items() if name not in joints},
        "joints": _joints(arms, scores, measured, joints),
        "speed": table(arms, {run: speed(run) for run in runs}),
        "diagnosis": _diagnosis(arms, measured) if measured else None,
        "changed": {name: [vars(change) for change in found] for name, found in changed.items()},
    }


def _metric(runs: Sequence[Run], measured: Measured | None) -> str | None:
    if measured is not None:
        return str(measured.diagnosis.numbers["metric"])
    return next((run.metric for run in runs if run.metric), None)


def _joint_names(runs: Sequence[Run]) -> tuple[str, ...]:
    return next((run.skeleton.joints for run in runs if run.skeleton is not None), ())


def _about(arm: Arm, measured: Mapping[Run, Measured]) -> Json:
    return {
        "name": arm.name,
        "method": method_of(arm.config),
        "runs": [_run(run, measured.get(run)) for run in arm.runs],
    }


def _run(run: Run, measured: Measured | None) -> Json:
    best, last = run.best, run.evals[-1] if run.evals else None
    score = {name: event and event["scores"].get(event["headline"]) for name, event in (("best", best), ("last", last))}
    return {
        "name": run.name,
        "uri": run.uri,
        "seed": run.seed,
        "step": run.step,
        "epoch": run.epoch,
        "epochs": run.config.optim.epochs,
        "best": score["best"],
        "best_epoch": best and best["epoch"],
        "last": score["last"],
        "skipped_steps": run.skips,
        "damaged_lines": run.damaged,
        "training": bool(run.writer),
        "measured_step": measured and measured.step,
    }


def _joints(
    arms: Sequence[Arm],
    scores: Mapping[Run, Mapping[str, Any]],
    measured: Mapping[Run, Measured],
    joints: Sequence[str],
) -> Json | None:
    """The score of each joint: the metric's own, or, where it has none, how many lie near their place."""
    if measured:
        found = {run: one.joint_scores for run, one in measured.items()}
        what = next(iter(found.values()))[0]
        return {"what": what, "rows": table(arms, {run: values for run, (_, values) in found.items()})}
    rows = {name: row for name, row in table(arms, scores).items() if name in joints}
    return {"what": _metric([run for arm in arms for run in arm.runs], None), "rows": rows} if rows else None


def _diagnosis(arms: Sequence[Arm], measured: Mapping[Run, Measured]) -> Json:
    of = {run: one.diagnosis.numbers for run, one in measured.items()}
    joints = next(iter(of.values()))["joints"]
    seen = {run: numbers["embedding"] or {} for run, numbers in of.items()}
    features = ("silhouette", "purity", "purity_other_people", "chance")
    return {
        "share": table(arms, {run: numbers["errors"]["share"] for run, numbers in of.items()}),
        "ap_gained": table(arms, {run: numbers["errors"]["ap_gained"] for run, numbers in of.items()}),
        "ap_gained_exact": table(arms, {run: numbers["errors"]["ap_gained_exact"] for run, numbers in of.items()}),
        "recall": {
            name: table(arms, {run: _at(numbers["recall"][name]) for run, numbers in of.items()})
            for name in DEFINITIONS
        },
        "embedding": table(arms, {run: {name: found.get(name) for name in features} for run, found in seen.items()}),
        "joint_purity": table(
            arms, {run: {row["joint"]: row["purity"] for row in numbers["joints"]} for run, numbers in of.items()}
        ),
        "labelled": {row["joint"]: row["labelled"] for row in joints},
    }


def _at(percent: Sequence[float]) -> dict[str, float]:
    return {f"{threshold:g}": value for threshold, value in zip(THRESHOLDS, percent, strict=True)}
