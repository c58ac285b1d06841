"""A comparison of runs as one web page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from icon_dist.drawing import charts, skeletons
from icon_dist.drawing.charts import Curve
from icon_dist.drawing.page import template
from icon_dist.metrics import embedding
from icon_dist.metrics.error_analysis import MATCHED, WRONG
from icon_dist.metrics.recall import DEFINITIONS, THRESHOLDS
from icon_dist.reports import curves
from icon_dist.reports.comparison_numbers import SPEED
from icon_dist.reports.diagnosis import worst_sheets
from icon_dist.reports.diagnosis_page import MEANING
from icon_dist.reports.measured_runs import Measured
from icon_dist.reports.run_groups import Arm
from icon_dist.reports.runs import Run
from icon_dist.types import Json, percent

SCORE_DIGITS = 2  # of percent: differences over seeds are small
RECALLED = {"peak": "peak over t", "ks": "similarity t or more", "both": "peak over t, in its place"}
FEATURES = {
    "silhouette": "cosine silhouette",
    "purity": "ten nearest: of the same joint",
    "purity_other_people": "the same, among other instances",
    "chance": "by chance",
}


@dataclass(frozen=True)
class Pictures:
    """What a page shows beside numbers, as JPEG."""

    changed: Mapping[str, Mapping[int, bytes]]  # better and worse, by instance
    worst: Mapping[str, bytes]  # by kind of error, of a single run


def page(numbers: Json, arms: Sequence[Arm], measured: Mapping[Run, Measured], pictures: Pictures) -> str:
    """HTML of what ``compare.json`` holds, with curves, the t-SNE of each arm's first run, and ``pictures``."""
    diagnosis = numbers["diagnosis"]
    first = next(iter(measured.values()), None)
    plots, more = curves.drawn(arms)
    return template("icon_dist.reports", "comparison.html").render(
        n=numbers,
        arms=numbers["arms"],
        single=len(arms) == 1,
        cards=_cards(numbers),
        verdicts=list(_verdicts(numbers)),
        value=value,
        gain=gain,
        sure=sure,
        percent=percent,
        unit=lambda name: percent(name, 1.0),
        number=lambda x, digits=1: "–" if x is None else f"{x:.{digits}f}",
        scores_plot=_intervals(numbers, arms, measured),
        plots=plots,
        more_plots=more,
        key=curves.key(arms),
        kinds=WRONG,
        colors=charts.KIND_COLORS,
        meaning=MEANING,
        matched=MATCHED,
        stacked=diagnosis and _stacked(numbers),
        kinds_legend=charts.kinds_legend(WRONG),
        recall_plots=_recall(numbers) if diagnosis else [],
        recalled=RECALLED,
        thresholds=[f"{threshold:g}" for threshold in THRESHOLDS],
        features=FEATURES,
        planes=_planes(arms, measured),
        picture_kind="t-SNE" if embedding.has_tsne() else "principal components",
        joints_legend=first and charts.scatter_legend(first.skeleton.joints, first.skeleton.flips),
        changed=pictures.changed,
        worst=pictures.worst,
        speed_names=SPEED | {"hours": "hours from first to last record"},
    )


def worst_of(measured: Measured) -> dict[str, bytes]:
    """A sheet of the worst instances of each kind of error."""
    sheets = worst_sheets(measured.scored, measured.diagnosis, measured.skeleton, aspect=measured.aspect)
    return {kind: skeletons.encode(sheet, ".jpg") for kind, sheet in sheets.items()}


def value(row: Sequence[Json | None], number: int, scale: float = 1, digits: int = SCORE_DIGITS) -> str:
    """The mean of an arm and half its interval, times ``scale``: 100 of shares gives percent."""
    one = row[number]
    if one is None:
        return "–"
    half = "" if one["half_width"] is None else f" ± {scale * one['half_width']:.{digits}f}"
    return f"{scale * one['mean']:.{digits}f}".replace("-", "−") + half


def gain(row: Sequence[Json | None], number: int, scale: float = 1, digits: int = SCORE_DIGITS) -> str:
    """The difference of an arm to the first, and half its interval, times ``scale``; empty without one."""
    one = row[number]
    if one is None or one["gain"] is None:
        return ""
    half = "" if one["gain_half_width"] is None else f" ± {scale * one['gain_half_width']:.{digits}f}"
    return f"{scale * one['gain']:+.{digits}f}".replace("-", "−") + half


def sure(row: Sequence[Json | None], number: int) -> bool:
    """Whether the interval of a difference leaves out zero. One without width says that scores are coarse, no more."""
    one = row[number]
    return one is not None and bool(one["gain_half_width"]) and abs(one["gain"]) > one["gain_half_width"]


def _cards(numbers: Json) -> list[tuple[str, str]]:
    row = numbers["scores"].get(numbers["metric"], [])
    names = [arm["name"] for arm in numbers["arms"]]
    metric = numbers["metric"]
    return [
        (f"{name}, {metric}" if len(names) > 1 else metric, value(row, k, percent(metric, 1.0)).partition(" ")[0])
        for k, name in enumerate(names)
        if row and row[k] is not None
    ][:8]


def _verdicts(numbers: Json) -> Iterator[str]:
    """A sentence for each arm but the first, one about single runs, and one about runs of different lengths."""
    metric = numbers["metric"]
    row = numbers["scores"].get(metric, [])
    single, compared = [], False
    for number, arm in enumerate(numbers["arms"][1:], start=1):
        one = row[number] if row else None
        if one is None or one["gain"] is None:
            continue
        how, compared = "", True
        if one["gain_half_width"] is None:
            single.append(arm["name"])
        else:
            how = f" (95 % interval, {'paired by seed' if one['paired'] else 'independent seeds'})"
            how += "" if sure(row, number) else ": the interval holds 0, so it may be chance"
        points = f"{gain(row, number, percent(metric, 1.0))} {metric}"
        yield f"{arm['name']} scores {points} against {numbers['arms'][0]['name']}{how}."
    if single:
        yield "A difference of single runs may be chance: repeat them with another run.seed to get an interval."
    steps = [run["step"] for arm in numbers["arms"] for run in arm["runs"]]
    if compared and min(steps) < max(steps):
        yield f"They were trained for {min(steps):,} to {max(steps):,} steps: a difference may be that of the lengths."


def _intervals(numbers: Json, arms: Sequence[Arm], measured: Mapping[Run, Measured]) -> str:
    """The headline score of every run by arm; nothing where there is one run."""
    metric = numbers["metric"]
    row = numbers["scores"].get(metric, [])
    values, widths = {}, {}
    for arm, one in zip(arms, row, strict=False):
        if one is not None:
            found = [_score(run, measured, metric) for run in arm.runs]
            values[arm.name] = [percent(metric, score) for score in found if score is not None]
            half = one["half_width"]
            widths[arm.name] = float("nan") if half is None else percent(metric, half)
    if sum(map(len, values.values())) < 2:
        return ""
    spoken = ", ".join(f"{name} {value(row, k, percent(metric, 1.0))}" for k, name in enumerate(values))
    return charts.intervals(values, widths, label=f"{metric} by arm: {spoken}")


def _score(run: Run, measured: Mapping[Run, Measured], metric: str) -> float | None:
    if measured:
        return measured[run].scored.scores[metric] if run in measured else None
    return None if run.best is None else run.best["scores"][metric]


def _stacked(numbers: Json) -> str:
    share = numbers["diagnosis"]["share"]
    rows = {
        arm["name"]: {kind: share[kind][k]["mean"] for kind in WRONG if share.get(kind) and share[kind][k]}
        for k, arm in enumerate(numbers["arms"])
    }
    rows = {name: parts for name, parts in rows.items() if parts}
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {100 * value:.1f} percent" for kind, value in parts.items())
        for name, parts in rows.items()
    )
    return charts.stacked(rows, label=f"Wrong joints, share of the labelled ones by kind. {spoken}")


def _recall(numbers: Json) -> list[str]:
    recall = numbers["diagnosis"]["recall"]
    return [
        charts.plot(
            [
                Curve(arm["name"], [(float(t), row[k]["mean"]) for t, row in recall[name].items() if row[k]], k)
                for k, arm in enumerate(numbers["arms"])
            ],
            title=f"Recall, %: {RECALLED[name]}",
            x_label="threshold t",
            y_range=(0, 100),
        )
        for name in DEFINITIONS
    ]


def _planes(arms: Sequence[Arm], measured: Mapping[Run, Measured]) -> list[tuple[str, str]]:
    """For each arm the features of its first run in a plane, by joint."""
    planes = []
    for arm in arms:
        one = next((measured[run] for run in arm.runs if run in measured), None)
        if one is None or one.diagnosis.numbers["embedding"] is None:
            continue
        made = one.diagnosis
        plane = embedding.tsne(made.features) if embedding.has_tsne() else made.features[:, :2]
        skeleton = one.skeleton
        label = f"Features of {arm.name} in a plane, by joint"
        picture = charts.scatter(plane, made.joint, names=skeleton.joints, pairs=skeleton.flips, label=label)
        planes.append((arm.name, picture))
    return planes
