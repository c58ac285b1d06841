"""All numbers of a comparison of runs, as ``compare.json`` holds them and the page shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from icon_dist.metrics.recall import DEFINITIONS, THRESHOLDS
from icon_dist.reports.measured_runs import Measured
from icon_dist.reports.pose_changes import Change
from icon_dist.reports.run_groups import Arm, changed_settings, differing, method_of, table
from icon_dist.reports.runs import Run, finite
from icon_dist.types import Json

SPEED = {  # what a run records of its speed, and how the page calls it
    "img_s": "images/s",
    "step_ms": "step, ms",
    "data_wait": "waiting for data, %",
    "memory_mb": "memory, MB",
}


def speed(run: Run) -> dict[str, float]:
    """Median of each figure of speed over the run's records, and its hours from the first to the last of them.

    A run that was interrupted counts as long as it stood still. {} where the run has recorded none.
    """
    found = {name: [v for event in run.train if (v := finite(event.get(name))) is not None] for name in SPEED}
    figures = {name: statistics.median(values) for name, values in found.items() if values}
    times = [time for event in run.train if (time := finite(event.get("time"))) is not None]
    return figures | ({"hours": (times[-1] - times[0]) / 3600} if len(times) > 1 else {})


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
    told = dict.fromkeys(run.best["what"] for run in runs if run.best is not None)
    conditions = any_measured.conditions if any_measured else " | ".join(told) or None
    joints = next((run.skeleton.joints for run in runs if run.skeleton is not None), ())
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
        "changed": run.changed,
        "measured_step": measured and measured.step,
        **({"of_sets": {name: last["scores"].get(name) for name in run.metrics}} if last and run.metrics[1:] else {}),
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
