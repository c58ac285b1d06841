"""The page of a sweep: nothing from outside, and nothing that data could smuggle in."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from icon_dist.search.page import page
from icon_dist.search.results import Confirmed, Row
from icon_dist.search.space import Range, Space

SPACE: Space = {
    "loss.tau": Range(0.03, 0.5, log=True),
    "loss.bank.slots": (128, 256),
    "loss.skcc.query": ("a", "<b>"),
}
ENDS = ("complete", "stopped", "diverged", "failed", "running", "waiting")


def row(number: int, state: str, score: float | None) -> Row:
    values = {"loss.tau": 0.03 + 0.02 * number, "loss.bank.slots": 128, "loss.skcc.query": "<b>"}
    return Row(
        number=number,
        label="paper" if number == 0 else "",
        state=state,
        score=score,
        step_ms=100.0 + number,
        epoch=5,
        seconds=3.0,
        values=values,
        run=f"trials/{number:04d}",
        why="</td><script>alert(1)</script>",
    )


def rows(count: int) -> list[Row]:
    """A few whole runs around 60, and others that ended early, far below or without a score."""
    states = [ENDS[i % len(ENDS)] if i > 2 else "complete" for i in range(count)]
    scores = {"complete": 60.0, "stopped": 9.0}
    return [row(i, state, scores[state] + 0.1 * i if state in scores else None) for i, state in enumerate(states)]


def written(count: int, *, cost: bool = False) -> str:
    points = [Confirmed("trial 1", {}, {1: 60.0, 2: 61.0}), Confirmed("paper", {}, {1: 58.0, 2: 58.5})]
    return page(
        rows(count),
        points[: count // 2],
        title="<i>",
        space=SPACE,
        metric="AP",
        why=["the <best>"] if count else [],
        importances={"loss.tau": 0.7, "loss.bank.slots": 0.3} if count > 8 else {},
        cost=cost,
    )


@pytest.mark.parametrize("count", [0, 1, 2, 20])
@pytest.mark.parametrize("cost", [False, True])
def test_it_needs_nobody_and_runs_nothing(count: int, cost: bool) -> None:
    html = written(count, cost=cost)
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|<script|<i>|<b></|@import|url\(|src=", html)
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == {0: 0, 1: 4, 2: 6, 20: 6}[count] + (cost and count > 0)
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert ("It takes 8 whole runs" in html) == (count < 9)


def test_whole_runs_set_the_scale() -> None:
    """A trial that was stopped at a score of 9 does not push those around 60 into one line."""
    found = rows(12)
    history = written(12).split("<h2>History</h2>")[1].split("</svg>")[0]
    height = {
        int(re.findall(r"\d+", title)[0]): float(y)
        for y, title in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"[^>]*><title>(trial \d+)', history)
    }
    whole = [height[r.number] for r in found if r.state == "complete" and r.number]
    assert max(whole) - min(whole) > 150
    assert all(height[r.number] > max(whole) for r in found if r.state == "stopped")
