"""Events of a run that is shown and recorded, the screens that show it, and what it leaves behind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from icon_dist import storage
from icon_dist.loggers.events import Eval, Start, Train

SCORES = {"PCK@0.2": 61.5, "head": 80.0}


def start(step: int = 0) -> Start:
    return Start(step, 100)


def train(step: int, *, lr: float = 1e-3, **more: float) -> Train:
    losses = {"total": 2.0 / step, "heatmap": 1.0 / step, "skcc": 3.0, "prcc": 4.0, "scale": 0.5}
    return Train(step, step / 10, lr, losses | more)


def evaluation(step: int) -> Eval:
    return Eval(step, 1, "split=val boxes=gt", ("PCK@0.2",), SCORES)


def recorded(run: str) -> list[dict[str, Any]]:
    text = storage.read(f"{run}/metrics.jsonl").decode()
    assert text.endswith("\n") or not text

    def strict(constant: str) -> Any:
        pytest.fail(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=strict) for line in text.splitlines()]


def board(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), purge_orphaned_data=True)
    accumulator.Reload()
    return accumulator


def steps(folder: Path, tag: str) -> list[int]:
    return [scalar.step for scalar in board(folder).Scalars(tag)]


class Log(io.TextIOWrapper):
    """A text file in memory; io.StringIO lacks mode and name, which beartype wants of a TextIO."""

    mode, name = "w", "memory"

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", newline="")

    def text(self) -> str:
        self.flush()
        return self._bytes.getvalue().decode()


class Terminal(Log):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def shown(screen: Log) -> list[str]:
    """The lines a terminal shows: a carriage return starts the line again, longer old text stays behind."""
    lines = []
    for raw in screen.text().split("\n"):
        line = ""
        for part in raw.split("\r"):
            line = part + line[len(part) :]
        lines.append(line.rstrip())
    return lines
