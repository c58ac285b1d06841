"""Small charts for web pages, as inline SVG and HTML: no library, no network, text that can be read aloud.

Colors are the variables ``--s0`` to ``--s9`` of ``base.html``, after the palette of Okabe and Ito: each has a value for
light and one for dark screens. Kinds of errors have the same colors on both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int64

from icon_dist.drawing.axes import Axis, around

INK, GRID, PAPER = "currentColor", "var(--line)", "var(--paper)"
KIND_COLORS = {
    "good": "#b9d3c3",
    "jitter": "#f0e442",
    "inversion": "#56b4e9",
    "swap": "#e69f00",
    "miss": "#d9698a",
}
HUES = tuple(f"var(--s{number})" for number in range(10))
LINE_COLORS = HUES[:3]
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 3")
BROAD = 600  # px from which a picture scrolls on a narrow screen
LABEL = 6.5  # rem at the end of the longest bar, for its number
FITS = 0.12  # share of a bar on which its number can be read
MOST_POINTS = 240  # of a curve; of more, means are drawn
MAGNITUDES = 30.0  # between the largest and the smallest value of a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """One line of a plot. Curves of one ``style`` look the same."""

    name: str
    points: Sequence[tuple[float, float]]  # ascending in x
    style: int = 0

    @property
    def color(self) -> str:
        """The CSS color of this curve's style; styles repeat colors after ten, with other dashes."""
        return HUES[self.style % len(HUES)]

    @property
    def dash(self) -> str:
        """The SVG ``stroke-dasharray`` of this curve's style; an empty string is a solid line."""
        return DASHES[(self.style // len(HUES) + self.style) % len(DASHES)]


def plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """Curves over one axis; nothing without a point. ``logarithmic``: by magnitude where values span several."""
    width, height, left, right, top, bottom = 360, 240, 54, 10, 30, 42
    drawn = [Curve(curve.name, thinned(curve.points), curve.style) for curve in curves if curve.points]
    if not drawn:
        return ""
    x = around((px for curve in drawn for px, _ in curve.points), left, width - right, room=0.0)
    y = _y_axis([py for curve in drawn for _, py in curve.points], height - bottom, top, y_range, logarithmic)
    parts = [f'<text x="0" y="14" font-weight="600">{escape(title)}</text>', levels(y, left, width - right, 5, gap=6)]
    parts += [
        f'<text x="{x.at(tick):.1f}" y="{height - bottom + 17}" text-anchor="middle">{short(tick)}</text>'
        for tick in x.ticks(6)
    ]
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts += [_line(curve, x, y) for curve in drawn]
    spoken = "; ".join(
        f"{curve.name} from {short(curve.points[0][1])} to {short(curve.points[-1][1])}" for curve in drawn
    )
    return svg("".join(parts), width=width, height=height, label=f"{title} over {x_label}: {spoken}", size=12)


def levels(y: Axis, left: float, right: float, most: int = 6, *, gap: int = 8) -> str:
    """Lines across a picture at the ticks of ``y``, and ``gap`` px left of each its number."""
    return "".join(
        f'<line x1="{left}" y1="{y.at(tick):.1f}" x2="{right}" y2="{y.at(tick):.1f}" stroke="{GRID}"/>'
        f'<text x="{left - gap}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        for tick in y.ticks(most)
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``MOST_POINTS``: the means of neighbors."""
    if len(points) <= MOST_POINTS:
        return list(points)
    groups = np.array_split(np.array(points, np.float64), MOST_POINTS)
    return [(float(group[:, 0].mean()), float(group[:, 1].mean())) for group in groups]


def _y_axis(
    values: Sequence[float], start: float, end: float, y_range: tuple[float, float] | None, logarithmic: bool
) -> Axis:
    if y_range is not None:
        return Axis(*y_range, start, end)
    low, high = min(values), max(values)
    if logarithmic and low > 0 and high / low > MAGNITUDES:
        return Axis(low / 1.2, high * 1.2, start, end, log=True)
    return around(values, start, end)


def _line(curve: Curve, x: Axis, y: Axis) -> str:
    words = f"<title>{escape(curve.name)}</title>"
    if len(curve.points) == 1:
        px, py = curve.points[0]
        return f'<circle cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="4" fill="{curve.color}">{words}</circle>'
    places = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in curve.points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{curve.color}" stroke-width="1.8" stroke-linejoin="round" '
        f'stroke-dasharray="{curve.dash}">{words}</polyline>'
    )


def legend(curves: Iterable[Curve]) -> str:
    """A list of what each style of line means, each once."""
    by_style = {curve.style: curve for curve in curves}
    return _legend_of(
        (
            curve.name,
            f'<path d="M0 6h30" stroke="{curve.color}" stroke-width="2.5" stroke-dasharray="{curve.dash}"/>',
            30,
        )
        for curve in by_style.values()
    )


def _legend_of(entries: Iterable[tuple[str, str, int]]) -> str:
    """Name, mark as SVG and its width."""
    items = (
        f'<li><svg viewBox="0 0 {width} 12" width="{width}" height="12" aria-hidden="true">{mark}</svg>'
        f"{escape(name)}</li>"
        for name, mark, width in entries
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def stacked(rows: Mapping[str, Mapping[str, float]], *, label: str) -> str:
    """One bar a row, of the shares (of 1) of kinds, all to one scale, with their sum at the end.

    A number stands in its part where it fits; :func:`kinds_legend` and a table have what does not.
    """
    longest = max([sum(parts.values()) for parts in rows.values()] + [1e-9])
    lines = [
        (
            name,
            [(kind, share / longest, f"{100 * share:.1f}", KIND_COLORS[kind]) for kind, share in parts.items()],
            f"{100 * sum(parts.values()):.1f} %",
        )
        for name, parts in rows.items()
    ]
    return _bars(lines, label=label)


def bars(values: Mapping[str, float], *, label: str, unit: str, signed: bool = True) -> str:
    """One bar a name; values below zero are drawn as zero and say what they are."""
    longest = max([*values.values(), 1e-9])
    sign = "+" if signed else ""
    lines = [
        (name, [(name, max(value, 0.0) / longest, "", KIND_COLORS.get(name, HUES[0]))], f"{value:{sign}.1f} {unit}")
        for name, value in values.items()
    ]
    return _bars(lines, label=label)


def _bars(rows: Iterable[tuple[str, Sequence[tuple[str, float, str, str]], str]], *, label: str) -> str:
    """Name, parts (name, share of the longest bar, text, color), and what stands at the end."""
    lines = []
    for name, parts, end in rows:
        drawn = "".join(
            f'<i style="width:calc((100% - {LABEL}rem) * {share:.4f});background:{color}" '
            f'title="{escape(f"{part} {text}".strip())}">'
            f"{text if share > FITS else ''}</i>"
            for part, share, text, color in parts
        )
        lines.append(f'<b>{escape(name)}</b><div class="bar">{drawn}<em>{escape(end)}</em></div>')
    return f'<div class="bars" role="img" aria-label="{escape(label, quote=True)}">{"".join(lines)}</div>'


def intervals(rows: Mapping[str, Sequence[float]], widths: Mapping[str, float], *, label: str) -> str:
    """The mean of each row's values with half the width of its interval, and the values as small dots."""
    width, line, left, right = 480, 42, 8, 14
    means = {name: float(np.mean(values)) for name, values in rows.items()}
    ends = [means[name] + sign * half for name, half in widths.items() if half == half for sign in (-1, 1)]
    x = around([*ends, *(value for values in rows.values() for value in values)], left, width - right)
    height = line * len(rows) + 26
    parts = [
        f'<line x1="{x.at(tick):.1f}" y1="0" x2="{x.at(tick):.1f}" y2="{height - 22}" stroke="{GRID}"/>'
        f'<text x="{x.at(tick):.1f}" y="{height - 6}" text-anchor="middle">{short(tick)}</text>'
        for tick in x.ticks(6)
    ]
    for number, (name, values) in enumerate(rows.items()):
        y, color, half = number * line + 29, HUES[number % len(HUES)], widths.get(name, math.nan)
        parts.append(
            f'<text x="0" y="{y - 14}" stroke="{PAPER}" stroke-width="4" paint-order="stroke">{escape(name)}</text>'
        )
        if half == half:
            low, high = x.at(means[name] - half), x.at(means[name] + half)
            bar = f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}v10M{high:.1f} {y - 5}v10"
            parts.append(f'<path d="{bar}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x.at(v):.1f}" cy="{y}" r="2.5" fill="{INK}" opacity=".55"/>' for v in values]
        parts.append(f'<circle cx="{x.at(means[name]):.1f}" cy="{y}" r="5.5" fill="{color}"/>')
    return svg("".join(parts), width=width, height=height, label=label)


def kinds_legend(kinds: Iterable[str]) -> str:
    """What the colors of :func:`stacked` mean."""
    return _legend_of((kind, f'<rect width="12" height="12" rx="2" fill="{KIND_COLORS[kind]}"/>', 12) for kind in kinds)


def scatter(
    points: Float[np.ndarray, "n 2"],
    index: Int64[np.ndarray, " n"],
    *,
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    label: str,
) -> str:
    """Points by class in a square: left and right share a hue, one of them disks and the other triangles."""
    side, margin = 360, 8
    hue, right = _hues(len(names), pairs)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (side - 2 * margin) / max(float((high - low).max()), 1e-9)
    placed = (points - (low + high) / 2) * scale + side / 2
    parts = [f'<rect x=".5" y=".5" width="{side - 1}" height="{side - 1}" fill="none" stroke="{GRID}"/>']
    for number in range(len(names)):
        marks = "".join(_mark(x, y, disk=not right[number]) for x, y in placed[index == number].tolist())
        parts.append(f'<g fill="{hue[number]}" fill-opacity=".75"><title>{escape(names[number])}</title>{marks}</g>')
    return svg("".join(parts), width=side, height=side, label=label)


def scatter_legend(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """What the marks of :func:`scatter` mean."""
    hue, right = _hues(len(names), pairs)
    return _legend_of(
        (name, f'<g fill="{hue[k]}">{_mark(6, 6, disk=not right[k], size=4.5)}</g>', 12) for k, name in enumerate(names)
    )


def _hues(classes: int, pairs: Sequence[tuple[int, int]]) -> tuple[list[str], list[bool]]:
    """A hue for each class, one for both of a pair, and which are the second of their pair."""
    first = list(range(classes))
    for a, b in pairs:
        first[max(a, b)] = min(a, b)
    order = sorted(set(first))
    return [HUES[order.index(f) % len(HUES)] for f in first], [f != i for i, f in enumerate(first)]


def _mark(x: float, y: float, *, disk: bool, size: float = 2.0) -> str:
    if disk:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    s = size * 1.25
    return f'<path d="M{x:.1f} {y - s:.1f}l{s:.1f} {1.8 * s:.1f}h{-2 * s:.1f}z"/>'


def short(value: float) -> str:
    """A number for an axis: four digits at most."""
    return "0" if abs(value) < 1e-12 else f"{value:.4g}" if math.isfinite(value) else "–"


def svg(inner: str, *, width: int, height: int, label: str, size: int = 13) -> str:
    """The picture around its parts; ``label`` is what a screen reader says, ``size`` that of its text in px."""
    broad = ' class="broad"' if width >= BROAD else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label, quote=True)}" '
        f'font-size="{size}" fill="{INK}"{broad}>{inner}</svg>'
    )
