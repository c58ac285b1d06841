"""A sweep as one web page that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from icon_dist.drawing.charts import bars, intervals
from icon_dist.drawing.page import template
from icon_dist.metrics.intervals import difference
from icon_dist.search import plots
from icon_dist.search.results import ENOUGH, FIRST, Confirmed, Row, front, ranking
from icon_dist.search.space import Range, Space, text


def page(
    found: Sequence[Row],
    confirmed: Sequence[Confirmed],
    *,
    title: str,
    space: Space,
    metric: str,
    why: Sequence[str],
    importances: Mapping[str, float],
    cost: bool,
) -> str:
    """HTML with the trials ``found``, the ``confirmed`` points, and ``why`` the best is the best."""
    ranked = ranking(found)
    rank = {row.number: place for place, row in enumerate(ranked)}
    best = ranked[0] if ranked else None
    first = next((row for row in ranked if row.label == FIRST), None)
    reference = next((point for point in confirmed if point.label == FIRST), None)
    states = [row.state for row in found]
    return template("icon_dist.search", "sweep.html").render(
        title=title,
        metric=metric,
        why=why,
        cards=_cards(found, best=best, first=first, metric=metric),
        counts={state: states.count(state) for state in dict.fromkeys(states)},
        space={key: _described(values) for key, values in space.items()},
        rows=sorted(found, key=lambda row: (rank.get(row.number, len(found)), -(row.score or 0.0), row.number)),
        best=best,
        text=text,
        history=plots.history(found, metric=metric),
        importances=_importances(importances) if importances else "",
        enough=ENOUGH,
        parallel=plots.parallel(found, space, metric=metric),
        slices=[plots.slice_of(found, key, values, metric=metric) for key, values in space.items()] if ranked else [],
        front=plots.front(ranked, front(found), metric=metric) if cost else "",
        confirmed=confirmed,
        first_label=FIRST,
        interval=lambda half: f" ± {half:.2f}" if math.isfinite(half) else "",  # of one seed there is none
        gains={point.label: difference(point.scores, reference.scores) for point in confirmed} if reference else {},
        intervals=_intervals(confirmed, metric=metric) if confirmed else "",
    )


def _cards(found: Sequence[Row], *, best: Row | None, first: Row | None, metric: str) -> list[tuple[str, str]]:
    cards = [("trials", str(len(found)))]
    if best is not None and best.score is not None:
        cards.append((f"best {metric}, one seed", f"{best.score:.2f}"))
        if first is not None and first.score is not None:
            cards.append((f"the {FIRST}", f"{first.score:.2f}"))
    spent = sum(row.seconds or 0.0 for row in found)
    cards.append(("time of all trials", f"{spent / 3600:.1f} h" if spent > 5400 else f"{spent / 60:.0f} min"))
    return cards


def _intervals(points: Sequence[Confirmed], *, metric: str) -> str:
    return intervals(
        {point.label: list(point.scores.values()) for point in points},
        {point.label: point.half_width for point in points},
        label=f"{metric} over seeds, mean and 95 % interval",
    )


def _importances(values: Mapping[str, float]) -> str:
    """Shares that sum to one, the largest first."""
    percent = {key: 100 * value for key, value in sorted(values.items(), key=lambda item: -item[1])}
    return bars(percent, label="Importance of each key, percent", unit="%", signed=False)


def _described(values: Range | tuple[object, ...]) -> str:
    if isinstance(values, Range):
        return f"{values.low:g} to {values.high:g}" + (", by magnitude" if values.log else "")
    return ", ".join(map(text, values))
