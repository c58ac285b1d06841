"""What a study has found: its trials as rows, the best of them, and what repeats over seeds say of it."""

from __future__ import annotations

import csv
import io
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from icon_dist.config import Changes
from icon_dist.metrics.intervals import half_width

STATES = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}
ENDED_OTHERWISE = ("stopped", "diverged", "failed")  # than complete
FIRST = "first point"  # label of what a search begins with, and is compared with
REPEATED = 3  # best trials that --confirm repeats
ENOUGH = 8  # whole runs to say of which key it depends


@dataclass(frozen=True)
class Row:
    """One trial."""

    number: int
    label: str  # FIRST | preset, or nothing; of a repeat, what it repeats
    state: str  # complete | stopped | diverged | failed | running | waiting
    score: float | None  # the last one there is; AP and AR in percent too
    step_ms: float | None
    epoch: int  # of the score
    seconds: float | None
    values: Mapping[str, Any]
    run: str  # relative to the study
    why: str


@dataclass(frozen=True)
class Confirmed:
    """One point over several seeds."""

    label: str
    values: Mapping[str, Any]
    scores: Mapping[int, float]  # by seed

    @property
    def mean(self) -> float:
        """The mean score over the seeds."""
        return statistics.fmean(self.scores.values())

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval around the mean; NaN for a single seed."""
        return half_width(list(self.scores.values()))


def rows(study: optuna.Study, *, prefix: str = "") -> list[Row]:
    """Return all trials of ``study`` as rows; the runs of the trials are named with ``prefix``."""
    return [_row(trial, prefix) for trial in study.get_trials(deepcopy=False)]


def _row(trial: FrozenTrial, prefix: str) -> Row:
    attributes = trial.user_attrs
    scores = trial.intermediate_values
    seconds = trial.duration.total_seconds() if trial.duration else None
    return Row(
        number=trial.number,
        label=attributes.get("of") or attributes.get("label", ""),
        state=STATES.get(trial.state) or attributes.get("ended", trial.state.name.lower()),
        score=trial.values[0] if trial.values else attributes.get("score", scores[max(scores)] if scores else None),
        step_ms=attributes.get("step_ms"),
        epoch=int(attributes.get("epoch", max(scores, default=0))),
        seconds=seconds,
        values=attributes.get("set", {}) | (trial.params or trial.system_attrs.get("fixed_params", {})),
        run=f"trials/{prefix}{trial.number:04d}",
        why=attributes.get("why", ""),
    )


def ranking(found: Sequence[Row]) -> list[Row]:
    """Whole runs, the best first; of equals the earlier one."""
    whole = [row for row in found if row.state == "complete" and row.score is not None]
    return sorted(whole, key=lambda row: (-(row.score or 0.0), row.number))


def front(found: Sequence[Row]) -> list[Row]:
    """Whole runs that none beats in both score and step time, the fastest first."""
    whole = sorted(ranking(found), key=lambda row: (row.step_ms or 0.0, -(row.score or 0.0)))
    kept: list[Row] = []
    for row in whole:
        if not kept or (row.score or 0.0) > (kept[-1].score or 0.0):
            kept.append(row)
    return kept


def confirmed(repeats: optuna.Study | None) -> list[Confirmed]:
    """By mean, the best first; those with a score for every seed asked for."""
    if repeats is None:
        return []
    scores: dict[str, dict[int, float]] = {}
    values: dict[str, Changes] = {}
    enqueued: dict[str, int] = {}
    for trial in repeats.get_trials(deepcopy=False):
        label = trial.user_attrs["of"]
        enqueued[label] = enqueued.get(label, 0) + 1
        values[label] = {key: value for key, value in trial.user_attrs["set"].items() if key != "run.seed"}
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            scores.setdefault(label, {})[trial.user_attrs["set"]["run.seed"]] = trial.value
    whole = [Confirmed(label, values[label], found) for label, found in scores.items() if len(found) == enqueued[label]]
    return sorted(whole, key=lambda one: -one.mean)


def unconfirmed(repeats: optuna.Study | None) -> list[str]:
    """What :func:`confirmed` leaves out because a repeat of it did not train to its end, a line each."""
    ended = [] if repeats is None else [row for row in rows(repeats) if row.state in ENDED_OTHERWISE]
    return [f"not counted: {row.label}, whose run with seed {row.values.get('run.seed')} {row.state}" for row in ended]


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each key in what separates good from bad; {} before there are enough whole runs to tell."""
    scored = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(scored) < ENOUGH or len({t.values[0] for t in scored}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25, evaluate_on_local=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it takes low values for good ones, hence the minus
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda t: -t.values[0])
    return {key: value for key, value in found.items() if math.isfinite(value)}


def to_csv(found: Sequence[Row], *, metric: str) -> bytes:
    """Return a CSV file (UTF-8) with a header and one line a row; ``metric`` is the name of the column of scores.

    Each config key that any row sets has a column; it is empty in the rows that do not set it.
    """
    keys = list(dict.fromkeys(key for row in found for key in row.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "label", "state", metric, "epoch", "step_ms", "seconds", *keys, "run", "why"])
    for row in found:
        seconds = "" if row.seconds is None else round(row.seconds, 1)
        head = [row.number, row.label, row.state, row.score, row.epoch, row.step_ms, seconds]
        writer.writerow([*head, *(row.values.get(key, "") for key in keys), row.run, row.why])
    return out.getvalue().encode()
