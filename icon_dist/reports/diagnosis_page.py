"""A diagnosis as one web page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from icon_dist.drawing import charts
from icon_dist.drawing.page import template
from icon_dist.metrics.error_analysis import KINDS, MATCHED, WRONG
from icon_dist.metrics.recall import THRESHOLDS
from icon_dist.types import Skeleton, score_text

DEFINITIONS = (("peak", "peak > t"), ("ks", "similarity ≥ t"), ("both", "peak > t, in place"))
MEANING = {
    "jitter": "Near the right joint, but not on it. Often the resolution of the heatmap.",
    "inversion": "Left and right of one person exchanged.",
    "swap": "The joint of somebody else in the photo.",
    "miss": "Far from everybody's joint.",
}


def page(
    diagnosis: Mapping[str, Any],
    skeleton: Skeleton,
    *,
    plane: Float[np.ndarray, "n 2"],
    joint: Int64[np.ndarray, " n"],
    sheets: Mapping[str, bytes],
) -> str:
    """HTML of what ``diagnosis.json`` holds, with the t-SNE ``plane`` of joints and a JPEG sheet for each kind."""
    found, recall = diagnosis["errors"], diagnosis["recall"]
    share = found["share"]
    curves = [
        charts.Curve(title, list(zip(THRESHOLDS, recall[name], strict=True)), style)
        for style, (name, title) in enumerate(DEFINITIONS if recall else ())
    ]
    gained = {kind: 100 * found["ap_gained"][kind] for kind in WRONG}
    return template("icon_dist.reports", "diagnosis.html").render(
        d=diagnosis,
        kinds=KINDS,
        colors=charts.KIND_COLORS,
        matched=MATCHED,
        thresholds=THRESHOLDS,
        definitions=DEFINITIONS,
        percent=lambda value: number(None if value is None else 100 * value, 1),
        number=number,
        signed=lambda value: f"{value:+.1f}",
        heat=heat,
        extra=diagnosis["metric"] if found["metric_gained"] else "",
        cards=[(name, score_text(name, value)) for name, value in diagnosis["scores"].items()],
        stacked=charts.stacked({"joints": {k: share[k] or 0.0 for k in KINDS}}, label=_spoken(share)),
        kinds_legend=charts.kinds_legend(KINDS),
        gains=charts.bars(gained, label="AP gained by correcting each kind of error", unit="AP"),
        recall=recall and charts.plot(curves, title="Recall, percent", x_label="threshold t", y_range=(0, 100)),
        recall_legend=charts.legend(curves),
        tsne=diagnosis["embedding"]
        and charts.scatter(plane, joint, names=skeleton.joints, pairs=skeleton.flips, label="t-SNE by joint"),
        joints_legend=charts.scatter_legend(skeleton.joints, skeleton.flips),
        reliability=reliability(diagnosis.get("calibration")),
        suspects_sheet=sheets.get("suspects"),
        sheets=[(kind, MEANING[kind] if kind in sheets else "None found.", sheets.get(kind)) for kind in WRONG],
    )


def reliability(found: Mapping[str, Any] | None) -> str:
    """The share of right joints over their score, before and after calibration; nothing where it was not measured."""
    if not found:
        return ""
    names = {"before": "heatmap peaks", "after": "calibrated"}
    curves = [
        charts.Curve(
            title, [(b["score"], 100 * b["right"]) for b in sorted(found[name], key=lambda b: b["score"])], style
        )
        for style, (name, title) in enumerate(names.items())
        if found[name]
    ]
    curves.append(charts.Curve("as they should be", [(0.0, 0.0), (1.0, 100.0)], 2))
    drawn = charts.plot(curves, title="Right joints, percent", x_label="score", y_range=(0, 100))
    return drawn + charts.legend(curves)


def number(value: float | None, digits: int) -> str:
    """Nothing where nothing was counted."""
    return "–" if value is None or value == -1 else f"{value:.{digits}f}"


def heat(kind: str, share: float | None) -> str:
    """Background of a cell: the color of its kind, stronger the larger the share."""
    if kind == "good" or not share:
        return ""
    strength = round(60 * min(1.0, 1.6 * share))  # text stays legible
    return f"background: color-mix(in srgb, {charts.KIND_COLORS[kind]} calc({strength}% * var(--heat)), var(--paper))"


def _spoken(share: Mapping[str, float | None]) -> str:
    return "Shares of labelled joints: " + ", ".join(f"{k} {100 * (v or 0):.1f} percent" for k, v in share.items())
