"""Small charts as inline SVG: no library, no network, text that scales and can be read aloud.

Colours are of Okabe and Ito's palette, as in :mod:`icon_dist.drawing.skeletons`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Float, Int64

INK, GRID = "#23232a", "#d9d9d4"
KIND_COLORS = {
    "good": "#b9d3c3",
    "jitter": "#f0e442",
    "inversion": "#56b4e9",
    "swap": "#e69f00",
    "miss": "#c0395e",
}
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73")
DASHES = ("", "7 4", "2 3")
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#6a51a3", "#777777", "#1b7837")


def stacked(shares: Mapping[str, float], *, label: str, width: int = 720, height: int = 46) -> str:
    """One bar of the shares (of 1) by kind, with their names where they fit."""
    parts, x = [], 0.0
    for kind, share in shares.items():
        wide = share * width
        text = f"{kind} {100 * share:.1f} %"
        parts.append(
            f'<rect x="{x:.1f}" y="0" width="{wide:.1f}" height="{height}" fill="{KIND_COLORS[kind]}">'
            f"<title>{text}</title></rect>"
        )
        if wide > 7.2 * len(text):
            fill = "#fff" if kind == "miss" else INK
            parts.append(
                f'<text x="{x + wide / 2:.1f}" y="{height / 2 + 5:.0f}" text-anchor="middle" fill="{fill}">'
                f"{text}</text>"
            )
        x += wide
    return svg("".join(parts), width=width, height=height, label=label)


def bars(values: Mapping[str, float], *, label: str, unit: str, width: int = 720) -> str:
    """One horizontal bar a kind; values below zero are drawn as zero and say what they are."""
    left, line, top = 90, 30, max([*values.values(), 1e-9])
    parts = []
    for row, (kind, value) in enumerate(values.items()):
        y, wide = row * line, max(value, 0.0) / top * (width - left - 90)
        parts.append(
            f'<text x="{left - 10}" y="{y + 20}" text-anchor="end">{escape(kind)}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{wide:.1f}" height="{line - 8}" fill="{KIND_COLORS[kind]}"/>'
            f'<text x="{left + wide + 8:.1f}" y="{y + 20}">{value:+.1f} {escape(unit)}</text>'
        )
    return svg("".join(parts), width=width, height=line * len(values), label=label)


def lines(x: Sequence[float], curves: Mapping[str, Sequence[float]], *, label: str, x_label: str) -> str:
    """Percent over ``x``, one line a curve, told apart by colour and dashes, named at its end."""
    width, height, left, right, top, bottom = 720, 300, 46, 170, 12, 44
    wide, high = width - left - right, height - top - bottom

    def at(value: float, percent: float) -> tuple[float, float]:
        return left + (value - x[0]) / (x[-1] - x[0]) * wide, top + (1 - percent / 100) * high

    parts = []
    for percent in range(0, 101, 20):
        y = at(x[0], percent)[1]
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + wide}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    for value in x:
        place = at(value, 0)[0]
        parts.append(f'<text x="{place:.1f}" y="{top + high + 20}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{left + wide / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    ends = _apart([at(x[-1], curve[-1])[1] for curve in curves.values()], gap=18, lowest=top + high)
    for (name, curve), end, color, dash in zip(curves.items(), ends, LINE_COLORS, DASHES, strict=False):
        points = " ".join("{:.1f},{:.1f}".format(*at(a, b)) for a, b in zip(x, curve, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{left + wide + 10}" y="{end + 4:.1f}" fill="{color}">{escape(name)}</text>')
    return svg("".join(parts), width=width, height=height, label=label)


def scatter(
    points: Float[np.ndarray, "n 2"],
    index: Int64[np.ndarray, " n"],
    *,
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    label: str,
) -> str:
    """Points by class: left and right share a hue, the left ones disks and the right ones triangles."""
    width, height, side, margin = 720, 560, 540, 10
    hue, right = _hues(len(names), pairs)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (side - 2 * margin) / max(float((high - low).max()), 1e-9)
    placed = (points - (low + high) / 2) * scale + side / 2
    parts = [f'<rect x="0" y="0" width="{side}" height="{side}" fill="none" stroke="{GRID}"/>']
    for number in range(len(names)):
        marks = "".join(_mark(x, y, filled=not right[number]) for x, y in placed[index == number].tolist())
        parts.append(f'<g fill="{hue[number]}" fill-opacity=".75"><title>{escape(names[number])}</title>{marks}</g>')
    line = min(26.0, side / len(names))
    for row, name in enumerate(names):
        y = 14 + row * line
        sign = _mark(side + 22, y - 4, filled=not right[row], size=5)
        parts.append(f'<g fill="{hue[row]}">{sign}</g><text x="{side + 36}" y="{y:.1f}">{escape(name)}</text>')
    return svg("".join(parts), width=width, height=height, label=label)


def _hues(classes: int, pairs: Sequence[tuple[int, int]]) -> tuple[list[str], list[bool]]:
    """A hue for each class, one for both of a pair, and which are the second of their pair."""
    first = list(range(classes))
    for a, b in pairs:
        first[max(a, b)] = min(a, b)
    order = sorted(set(first))
    return [HUES[order.index(f) % len(HUES)] for f in first], [f != i for i, f in enumerate(first)]


def _mark(x: float, y: float, *, filled: bool, size: float = 2.6) -> str:
    if filled:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    s = size * 1.25
    return f'<path d="M{x:.1f} {y - s:.1f}l{s:.1f} {1.8 * s:.1f}h{-2 * s:.1f}z"/>'


def _apart(places: Sequence[float], *, gap: float, lowest: float) -> list[float]:
    """The same order from top to ``lowest``, moved up until no two are nearer than ``gap``."""
    moved = [min(place, lowest) for place in places]
    order = sorted(range(len(places)), key=lambda i: -places[i])
    for below, above in itertools.pairwise(order):
        moved[above] = min(moved[above], moved[below] - gap)
    return moved


def svg(inner: str, *, width: int, height: int, label: str) -> str:
    """The picture around its parts; ``label`` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label, quote=True)}" '
        f'font-size="13" fill="{INK}">{inner}</svg>'
    )
