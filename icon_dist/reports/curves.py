"""Curves of runs over epochs, from what they recorded while they trained."""

from __future__ import annotations

from collections.abc import Sequence

from icon_dist.drawing import charts
from icon_dist.drawing.charts import Curve
from icon_dist.reports.run_groups import Arm
from icon_dist.reports.runs import Run, finite, measured
from icon_dist.types import percent

FIRST = {
    "total": "Loss",
    "heatmap": "Heatmap loss",
    "skcc": "SKCC: contrast of joints",
    "prcc": "PRCC: contrast of limbs",
    "joints": "Loss of refined joints",
    "unlabelled": "Loss of instances without labels",
    "lr": "Learning rate",
}
POSITION = ("kind", "step", "epoch", "scale", "time")  # what says where a record stands
MOST = 24  # further plots
Plots = list[str]


def drawn(arms: Sequence[Arm]) -> tuple[Plots, Plots]:
    """The score, the terms of the loss and the learning rate as plots; then every other number that was recorded.

    Each run is a line in the style of its arm.
    """
    runs = [(arm, number, run) for number, arm in enumerate(arms) for run in arm.runs]
    names = dict.fromkeys(name for _, _, run in runs for event in run.train for name in event)
    others = sorted(name for name in names if name not in FIRST and name not in POSITION)
    metrics = next((run.metrics for _, _, run in runs if run.metrics), [])
    scores = [_plot(runs, metric, title=f"{metric}, percent", scored=True) for metric in metrics]
    terms = [_plot(runs, name, title=title) for name, title in FIRST.items() if name in names]
    more = [_plot(runs, name, title=name.replace("_", " ")) for name in others]
    return [plot for plot in scores + terms if plot], [plot for plot in more if plot][:MOST]


def key(arms: Sequence[Arm]) -> str:
    """What the lines mean."""
    return charts.legend(Curve(arm.name, (), number) for number, arm in enumerate(arms))


def _plot(runs: Sequence[tuple[Arm, int, Run]], name: str, *, title: str, scored: bool = False) -> str:
    curves = []
    for arm, style, run in runs:
        points = _scores(run, name) if scored else _records(run, name)
        if any(value for _, value in points):  # a term that is switched off is recorded as 0
            curves.append(Curve(run.name if len(arm.runs) > 1 else arm.name, points, style))
    return charts.plot(curves, title=title, x_label="epoch", logarithmic=not scored)


def _records(run: Run, name: str) -> list[tuple[float, float]]:
    values = ((float(event["epoch"]), finite(event.get(name))) for event in run.train)
    return [(epoch, value) for epoch, value in values if value is not None]


def _scores(run: Run, name: str) -> list[tuple[float, float]]:
    values = ((float(event["epoch"]), measured(event["scores"].get(name))) for event in run.evals)
    return [(epoch, percent(name, value)) for epoch, value in values if value is not None]
