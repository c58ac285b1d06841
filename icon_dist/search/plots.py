"""The pictures of a sweep as inline SVG, in the looks of :mod:`icon_dist.drawing.charts`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from icon_dist.drawing.axes import Axis, around
from icon_dist.drawing.charts import INK, LINE_COLORS, PAPER, levels, short, svg
from icon_dist.search.results import FIRST, Row, ranking
from icon_dist.search.space import Range, Space, text

BLUE, RED, GREEN = LINE_COLORS
SCALE = (
    (0x6A, 0x51, 0xA3),
    (0x3B, 0x52, 0x8B),
    (0x21, 0x91, 0x8C),
    (0x5E, 0xC9, 0x62),
    (0xD8, 0xC0, 0x10),
)  # viridis, whose darkest would not show on a dark screen
WIDTH = 980


def color(share: float) -> str:
    """Of a score between the lowest (0, dark) and the highest (1, light)."""
    place = min(max(share, 0.0), 1.0) * (len(SCALE) - 1)
    first = min(int(place), len(SCALE) - 2)
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(SCALE[first], SCALE[first + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def history(rows: Sequence[Row], *, metric: str) -> str:
    """Every trial's score in order, the best of whole runs so far as a line, the first point as a star."""
    scored = [row for row in rows if row.score is not None]
    if not scored:
        return ""
    height, left, right, top, bottom = 330, 56, 20, 24, 46
    x = Axis(-0.5, max(row.number for row in rows) + 0.5, left, WIDTH - right)
    y = _score_axis(scored, height - bottom, top)
    parts = [levels(y, left, WIDTH - right), _across(x, height - bottom, whole=True)]
    best: float | None = None
    path: list[str] = []
    for row in scored:
        if row.state == "complete" and row.score is not None and (best is None or row.score > best):
            if best is not None:
                path.append(f"L{x.at(row.number):.1f} {y.at(best):.1f}")
            best = row.score
            path.append(f"{'L' if path else 'M'}{x.at(row.number):.1f} {y.at(best):.1f}")
    if best is not None:
        path.append(f"L{WIDTH - right} {y.at(best):.1f}")
        parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{GREEN}" stroke-width="2" opacity=".8"/>')
    first = next((row for row in scored if row.label == FIRST and row.score is not None), None)
    if first is not None and first.score is not None:
        level = y.at(first.score)
        parts.append(
            f'<line x1="{left}" y1="{level:.1f}" x2="{WIDTH - right}" y2="{level:.1f}" stroke="{RED}" '
            f'stroke-dasharray="2 4"/>'
        )
    for row in _star_last(rows):
        if row.score is not None:
            parts.append(_marked(x.at(row.number), y.at(row.score), row, metric=metric))
        elif row.state in ("diverged", "failed"):
            parts.append(_marked(x.at(row.number), height - bottom - 8, row, metric=metric))
    parts.append(_middle((left + WIDTH - right) / 2, height - 6, "trial"))
    parts.append(f'<text x="{left}" y="14">{escape(metric)}</text>')
    return svg("".join(parts), width=WIDTH, height=height, label=f"{metric} of every trial, in order")


def parallel(rows: Sequence[Row], space: Space, *, metric: str) -> str:
    """One line a trial across all keys to its score; lighter is better, the first point is dashed."""
    drawn = sorted((row for row in rows if row.score is not None), key=lambda row: row.score or 0.0)
    if len(drawn) < 2:
        return ""
    best = next(iter(ranking(rows)), None)
    height, left, right, top, bottom = 340, 60, 70, 50, 24
    names = [*space, metric]
    gap = (WIDTH - left - right) / max(1, len(names) - 1)
    axes = [_axis(space[key], height - bottom, top) for key in space]
    score = _score_axis(drawn, height - bottom, top)
    parts = []
    for row in drawn:
        places = [axis.at(_number(space[key], row.values[key])) for key, axis in zip(space, axes, strict=True)]
        points = [*places, score.at(row.score or 0.0)]
        line = " ".join(f"{left + i * gap:.1f},{y:.1f}" for i, y in enumerate(points))
        share = ((row.score or 0.0) - score.low) / (score.high - score.low)
        stroke, wide, dash = color(share), 3.0 if row is best else 1.5, ""
        if row.label == FIRST:
            stroke, wide, dash = RED, 2.0, "6 4"
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{stroke}" stroke-width="{wide}" stroke-dasharray="{dash}" '
            f'opacity="{0.95 if row.state == "complete" else 0.35}"><title>{_spoken(row, metric)}</title></polyline>'
        )
    for i, name in enumerate(names):
        place = left + i * gap
        anchor = "start" if i == 0 else "end" if i == len(names) - 1 else "middle"
        shift = 18 if i % 2 and len(names) > 5 else 34  # long names on two levels
        parts.append(f'<line x1="{place:.1f}" y1="{top}" x2="{place:.1f}" y2="{height - bottom}" stroke="{INK}"/>')
        parts.append(
            f'<text x="{place:.1f}" y="{shift}" text-anchor="{anchor}" font-weight="600">{escape(name)}</text>'
        )
        scores = [(score.at(tick), short(tick)) for tick in score.ticks(5)]
        for y, words in _labels(space[name], axes[i]) if i < len(axes) else scores:
            parts.append(
                f'<text x="{place + 6:.1f}" y="{y + 4:.1f}" font-size="11" stroke="{PAPER}" stroke-width="3" '
                f'paint-order="stroke">{escape(words)}</text>'
            )
    return svg("".join(parts), width=WIDTH, height=height, label="Values and score of every trial, one line each")


def slice_of(rows: Sequence[Row], key: str, values: Range | tuple[Any, ...], *, metric: str) -> str:
    """Score over one key."""
    scored = [row for row in _star_last(rows) if row.score is not None]
    if not scored:
        return ""
    width, height, left, right, top, bottom = 320, 230, 44, 14, 12, 44
    x = _axis(values, left + 8, width - right - 8)
    y = _score_axis(scored, height - bottom, top)
    parts = [levels(y, left, width - right)]
    for place, words in _labels(values, x, most=5):
        parts.append(_middle(place, height - bottom + 18, words))
    parts += [
        _marked(x.at(_number(values, row.values[key])), y.at(row.score or 0.0), row, metric=metric) for row in scored
    ]
    parts.append(_middle((left + width - right) / 2, height - 6, key, weight=600))
    return svg("".join(parts), width=width, height=height, label=f"{metric} over {key}")


def front(rows: Sequence[Row], best: Sequence[Row], *, metric: str) -> str:
    """Score over step time; the line joins what nothing beats in both."""
    timed = [row for row in _star_last(rows) if row.score is not None and row.step_ms]
    if not timed:
        return ""
    height, left, right, top, bottom = 320, 56, 20, 24, 46
    x = around((row.step_ms or 0.0 for row in timed), left, WIDTH - right)
    y = around((row.score or 0.0 for row in timed), height - bottom, top)
    parts = [levels(y, left, WIDTH - right), _across(x, height - bottom)]
    line = " ".join(f"{x.at(row.step_ms or 0.0):.1f},{y.at(row.score or 0.0):.1f}" for row in best if row.step_ms)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{GREEN}" stroke-width="2"/>')
    parts += [_marked(x.at(row.step_ms or 0.0), y.at(row.score or 0.0), row, metric=metric) for row in timed]
    parts.append(_middle((left + WIDTH - right) / 2, height - 6, "time of a step, ms"))
    parts.append(f'<text x="{left}" y="14">{escape(metric)}</text>')
    return svg("".join(parts), width=WIDTH, height=height, label=f"{metric} over step time")


def _score_axis(rows: Sequence[Row], start: float, end: float) -> Axis:
    """Of whole runs: the score of a stopped one is of an early epoch, and would squeeze them."""
    whole = ranking(rows)
    return around((row.score or 0.0 for row in (whole if len(whole) > 1 else rows)), start, end)


def _star_last(rows: Sequence[Row]) -> list[Row]:
    """In the order in which they are drawn: the star lies on top."""
    return sorted(rows, key=lambda row: row.label == FIRST)


def _axis(values: Range | tuple[Any, ...], start: float, end: float) -> Axis:
    if isinstance(values, Range):
        return Axis(values.low, values.high, start, end, values.log)
    return Axis(0, max(1, len(values) - 1), start, end)


def _number(values: Range | tuple[Any, ...], value: Any) -> float:
    """Choices stand side by side."""
    return float(value) if isinstance(values, Range) else float(values.index(value))


def _labels(values: Range | tuple[Any, ...], axis: Axis, *, most: int = 6) -> list[tuple[float, str]]:
    if isinstance(values, Range):
        return [(axis.at(tick), short(tick)) for tick in axis.ticks(most)]
    return [(axis.at(i), text(value)) for i, value in enumerate(values)]


def _marked(x: float, y: float, row: Row, *, metric: str) -> str:
    """A star for the first point, a disk for a whole run, a ring for a stopped one, a cross where there is no score."""
    words = f"<title>{_spoken(row, metric)}</title>"
    if row.label == FIRST:
        star = "M0-9 2.6-2.8 9.2-2.6 3.9 1.8 5.6 8.3 0 4.5-5.6 8.3-3.9 1.8-9.2-2.6-2.6-2.8Z"
        return f'<g transform="translate({x:.1f} {y:.1f})" fill="{RED}">{words}<path d="{star}"/></g>'
    if row.state in ("diverged", "failed"):
        return f'<g stroke="{RED}" stroke-width="2">{words}<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"/></g>'
    if row.state == "complete":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{BLUE}" fill-opacity=".85">{words}</circle>'
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{PAPER}" stroke="{BLUE}" stroke-width="1.5">{words}</circle>'
    )


def _spoken(row: Row, metric: str) -> str:
    head = f"trial {row.number}{f' ({row.label})' if row.label else ''}, {row.state}"
    score = f", {metric} {row.score:.2f}" if row.score is not None else ""
    return escape(f"{head}{score}: " + ", ".join(f"{key} {text(value)}" for key, value in row.values.items()))


def _across(x: Axis, y: float, *, whole: bool = False) -> str:
    ticks = [t for t in x.ticks(12) if not whole or t == int(t)]
    return "".join(_middle(x.at(t), y + 20, short(t)) for t in ticks)


def _middle(x: float, y: float, words: str, *, weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-weight="{weight}">{escape(words)}</text>'
