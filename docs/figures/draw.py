"""Draw the figures of the documentation: ``python docs/figures/draw.py``. They follow a light or dark scheme.

After ``icon-dist sweep lambdas --cfg demo --trials 4``, ``draw.py runs/demo-lambdas/sweep.html`` draws sweep.svg.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from html import escape
from pathlib import Path

from scipy import stats

HERE = Path(__file__).parent
STYLE = """
text{font:13px sans-serif;fill:#1f2328} .small{font-size:11px;fill:#59636e} .title{font-weight:600}
rect,circle,path,line{stroke:#59636e;fill:none;stroke-width:1.3} .box{fill:#f6f8fa} .a{fill:#cfe3f7;stroke:#0072b2}
.b{fill:#fbdcc8;stroke:#d55e00} .c{fill:#cdeee2;stroke:#009e73} .d{fill:#f3d7e7;stroke:#cc79a7}
.dash{stroke-dasharray:4 3} .bold{stroke-width:2.5} .head{fill:#59636e;stroke:none}
@media (prefers-color-scheme:dark){text{fill:#e6edf3} .small{fill:#9198a1} rect,circle,path,line{stroke:#9198a1}
.box{fill:#21262d} .a{fill:#0b3a5c;stroke:#56b4e9} .b{fill:#5a2a0c;stroke:#e69f00} .c{fill:#0b4634;stroke:#2fbf8f}
.d{fill:#54304a;stroke:#e0a3c8} .head{fill:#9198a1}}
"""


class Figure:
    """An SVG picture that grows by what is drawn into it; all lengths are px, y grows downwards."""

    def __init__(self, width: int, height: int, about: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(about, quote=True)}">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path class="head" d="M0 0L10 5L0 10z"/></marker></defs>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, words: str = "", kind: str = "box") -> None:
        """A rectangle; each line of ``words`` is centered in it, the first one bold where there are several."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{kind}"/>')
        lines = words.split("\n") if words else []
        first = y + height / 2 + 4.5 - 8 * (len(lines) - 1)
        for row, line in enumerate(lines):
            kind = "title" if row == 0 else "small"
            self.text(x + width / 2, first + 16 * row, line, kind, "middle")

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="M{path}" class="{kind}" marker-end="url(#arrow)"/>')

    def line(self, x0: float, y0: float, x1: float, y1: float, kind: str = "") -> None:
        self.parts.append(f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" class="{kind}"/>')

    def circle(self, x: float, y: float, radius: float, kind: str = "") -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>')

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>\n"])


def pipeline() -> str:
    """From photos to a loss, and where a run is kept."""
    f = Figure(940, 300, "Photos are packed into shards, loaders cut crops, the network gives heatmaps and embeddings")
    f.box(10, 60, 120, 60, "photos\n+ labels")
    f.box(170, 60, 130, 60, "shards\non disk or s3://", "a")
    f.box(340, 60, 130, 60, "loaders\none affine, uint8")
    f.box(510, 60, 120, 60, "network\nin DeepSpeed", "c")
    f.box(680, 20, 110, 50, "heatmaps\nMSE")
    f.box(680, 110, 110, 50, "embeddings\nat joints", "b")
    f.box(830, 60, 100, 60, "loss\nEq. 5", "d")
    f.box(640, 220, 190, 60, "memory bank\nthe same bits on every rank", "b")
    f.box(380, 220, 190, 60, "checkpoints\nmanifest written last", "a")
    for a, b in (((130, 90), (170, 90)), ((300, 90), (340, 90)), ((470, 90), (510, 90))):
        f.arrow(a, b)
    f.arrow((630, 80), (680, 45))
    f.arrow((630, 100), (680, 135))
    f.arrow((790, 45), (830, 75))
    f.arrow((790, 135), (830, 105))
    f.arrow((720, 160), (720, 220))
    f.arrow((755, 220), (755, 160))
    f.text(764, 196, "SKCC, PRCC", "small")
    f.text(714, 196, "all-gather", "small", "end")
    f.arrow((560, 120), (500, 220))
    f.text(150, 52, "shards build", "small", "middle")
    return f.svg()


def bank() -> str:
    """One step of contrast on two ranks."""
    f = Figure(900, 300, "Every rank gathers the embeddings of all and compares its own with them and with the bank")
    for rank in (0, 1):
        y = 30 + 140 * rank
        f.box(10, y, 150, 90, f"rank {rank}\ncrops, network", "c")
        f.text(185, y + 24, "its tokens", "small")
        for i in range(4):
            f.circle(195 + 24 * i, y + 52, 9, "a" if rank == 0 else "b")
        f.arrow((160, y + 52), (182, y + 52))
        f.arrow((285, y + 52), (345, 150))
    f.box(345, 115, 110, 70, "all-gather\n1 message a step", "box")
    f.arrow((455, 150), (490, 150))
    f.text(560, 128, "tokens of all ranks", "small", "middle")
    for i in range(8):
        f.circle(497 + 18 * i, 150, 8, "a" if i < 4 else "b")
    f.arrow((560, 165), (560, 215))
    f.text(568, 196, "after the step", "small")
    f.box(480, 215, 160, 60, "bank\nnewest slots a category", "d")
    f.box(720, 110, 170, 80, "Eq. 1\nown queries against\nall tokens and the bank", "box")
    f.arrow((640, 150), (720, 150))
    f.arrow((640, 245), (760, 190))
    return f.svg()


def window() -> str:
    """What of a photo a shard keeps."""
    f = Figure(720, 320, "The stored window is the rectangle around all that augmentation can ask for")
    f.box(10, 10, 400, 300, "", "box")
    f.text(20, 30, "photo", "small")
    f.box(70, 25, 280, 270, "", "c")
    f.circle(210, 160, 134, "dash")
    f.box(165, 85, 90, 150, "", "a")
    f.box(140, 72, 140, 176, "", "dash")
    for x, y, kind, words in (
        (420, 90, "a", "the annotated box"),
        (420, 140, "dash", "padded by 1.25, to the input's shape"),
        (420, 215, "dash", "enlarged by 1.35, turned by any angle"),
        (420, 265, "c", "stored: the rectangle around it"),
    ):
        f.box(x, y - 11, 14, 14, "", kind)
        f.text(x + 22, y, words)
    return f.svg()


def streams() -> str:
    """Who reads what, with two workers and with four."""
    f = Figure(860, 300, "Virtual streams: the same global batches with any number of workers")
    f.text(70, 24, "shards, permuted", "title", "middle")
    f.text(300, 24, "V = 4 virtual streams", "title", "middle")
    f.text(505, 24, "global batch", "title", "middle")
    f.text(655, 24, "2 workers", "title", "middle")
    f.text(790, 24, "4 workers", "title", "middle")
    kinds = ("a", "b", "c", "d")
    for i, kind in enumerate(kinds):
        y = 45 + 60 * i
        f.box(20, y, 100, 40, f"shard {(3, 0, 2, 1)[i]}", kind)
        f.arrow((120, y + 20), (170, y + 20))
        for j in range(8):
            f.box(175 + 31 * j, y + 8, 26, 24, "", kind)
        f.box(480, y + 2, 50, 36, "8 / V", kind)
        f.arrow((426, y + 20), (478, y + 20))
        f.box(740, y + 2, 100, 36, f"rank {i}", kind)
    for rank in (0, 1):
        f.box(600, 47 + 120 * rank, 110, 96, f"rank {rank}", "box")
        for j in (0, 1):
            f.box(610 + 75 * j, 57 + 120 * rank, 15, 15, "", kinds[2 * rank + j])
    f.text(
        20,
        290,
        "The order is a function of seed and epoch alone: a resume, or another number of workers, reads on.",
        "small",
    )
    return f.svg()


def results(rows: Iterable[dict[str, str]]) -> str:
    """Gains of the rows of Table 5 over no contrast, seed by seed, with 95 % intervals."""
    scores: dict[tuple[str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for row in rows:
        scores[row["cfg"], row["metric"], row["recipe"]][row["overrides"], row["seed"]] = float(row["score"])
    whole, target = "results/lspet_10.yaml", "partial/PCK@0.2"
    groups = [  # preset, score, what the overrides begin with, title
        (whole, target, "", "whole schedules: 394 people of Leeds Sports Pose Extended"),
        (whole, target, "data.labelled=0.05 run.dir=runs_5", "... 197 people"),
        (whole, target, "data.labelled=0.3 ", "... 1,184 people"),
        ("people", "PCK@0.2", "model.pretrained", "a trained baseline goes on: generated people"),
        ("people_hard", "PCK@0.2", "model.pretrained", "... generated, hard"),
        ("lsp_light", "PCK@0.2", "data.train=data/lsp14_128", "... Leeds Sports Pose"),
    ]
    arms = {"T5.intra": "intra-image", "T5.skcc": "SKCC", "T5.prcc": "PRCC", "T5.both": "SKCC + PRCC"}
    f = Figure(700, 562, "Gain of contrast over no contrast in PCK@0.2, with 95 % intervals")

    def at(gain: float) -> float:
        return 330 + 150 * gain

    f.text(10, 20, "Gain over no contrast, PCK@0.2 points, paired by seed, 95 % interval", "title")
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        f.line(at(tick), 32, at(tick), 532, "dash" if tick else "")
        f.text(at(tick), 549, f"{tick:+.1f}" if tick else "0", "small", "middle")
    y = 42
    for cfg, metric, begin, name in groups:
        f.text(10, y + 8, name, "title")
        for arm, label in arms.items():
            gains = paired(scores[cfg, metric, arm], scores[cfg, metric, "T5.base"], begin)
            if len(gains) < 3:
                continue
            y += 18
            mean, half = statistics.fmean(gains), interval(gains)
            kind = "bold " + {"T5.intra": "", "T5.skcc": "a", "T5.prcc": "b", "T5.both": "d"}[arm]
            f.text(150, y + 12, label, "small", "end")
            f.line(at(max(mean - half, -1.1)), y + 8, at(min(mean + half, 1.1)), y + 8, kind)
            f.circle(at(mean), y + 8, 4, kind)
            f.text(690, y + 12, f"{mean:+.2f} ± {half:.2f}, {len(gains)} seeds", "small", "end")
        y += 26
    return f.svg()


Scores = dict[tuple[str, str], float]  # of runs of one preset, by overrides and seed


def paired(arm: Scores, base: Scores, begin: str) -> list[float]:
    """Differences of runs that have seed and overrides in common, which begin like this; none for an empty one."""
    both = sorted(arm.keys() & base.keys())
    return [arm[run] - base[run] for run in both if run[0].startswith(begin) and bool(run[0]) == bool(begin)]


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of a mean (Student)."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def sweep(page: str) -> str:
    """The first two pictures of a sweep's page under their headings, in the colors of the page."""
    colors = page[page.index(":root") : page.index("body {")]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 {}" role="img" aria-label="The page of a sweep">'
    parts, y = [], 0
    found = re.findall(r'<h2>([^<]*)</h2>\s*<figure[^>]*>(<svg viewBox="0 0 980 (\d+)".*?</svg>)', page)
    for words, picture, height in found:
        parts.append(f'<text x="8" y="{y + 26}" font-size="18" font-weight="600" fill="currentColor">{words}</text>')
        parts.append(picture.replace("<svg ", f'<svg y="{y + 40}" height="{height}" ', 1))
        y += 60 + int(height)
    style = f"<style>{colors} svg{{color:var(--ink);font-family:sans-serif}}</style>"
    paper = f'<rect width="980" height="{y}" fill="var(--paper)"/>'
    return "\n".join([head.format(y), style, paper, *parts, "</svg>", ""])


def figures() -> dict[str, str]:
    """All figures by file name."""
    with (HERE.parents[1] / "results/cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "pipeline.svg": pipeline(),
        "bank.svg": bank(),
        "window.svg": window(),
        "streams.svg": streams(),
        "results.svg": results(rows),
    }


if __name__ == "__main__":
    drawn = {"sweep.svg": sweep(Path(sys.argv[1]).read_text())} if len(sys.argv) > 1 else figures()
    for name, svg in drawn.items():
        (HERE / name).write_text(svg)
