"""Pages of sweeps that were made up."""

from __future__ import annotations

from icon_dist.search.page import page
from icon_dist.search.results import FIRST, Confirmed, Row
from icon_dist.search.space import Range, Space

ENDS = ("complete", "stopped", "diverged", "failed", "running", "waiting")
SPACE: Space = {
    "loss.tau": Range(0.03, 0.5, log=True),
    "loss.bank.slots": (128, 256),
    "loss.skcc.query": ("a", "<b>"),
}


def row(number: int, state: str, score: float | None) -> Row:
    values = {"loss.tau": 0.03 + 0.02 * number, "loss.bank.slots": 128, "loss.skcc.query": "<b>"}
    return Row(
        number=number,
        label=FIRST if number == 0 else "",
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


def written(count: int, *, cost: bool = False, seeds: int = 2) -> str:
    scores = {"trial 1": {1: 60.0, 2: 61.0}, FIRST: {1: 58.0, 2: 58.5}}
    points = [Confirmed(label, {}, dict([*of.items()][:seeds])) for label, of in scores.items()]
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
