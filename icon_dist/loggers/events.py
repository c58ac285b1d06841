"""What a run tells of itself while it goes on: rank 0 makes these events, the driver shows and records them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Speed:
    """How fast the steps since the last such figures were; without any steps only memory and time are known."""

    memory_mb: int  # the most that the process has held so far
    time: str  # now, ISO 8601 with its zone
    img_s: float | None = None  # people a second
    step_ms: float | None = None
    data_wait: float | None = None  # per cent of the time that was spent waiting for batches

    def figures(self) -> dict[str, float | str]:
        """Those that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Start:
    """Training begins, or goes on, after ``step`` of ``total`` steps."""

    step: int
    total: int


@dataclass(frozen=True)
class Train:
    """A step that is logged."""

    step: int
    epoch: float
    lr: float
    losses: Mapping[str, float]  # and whatever else was measured of the step
    speed: Speed | None = None

    def record(self) -> dict[str, object]:
        """Its line of metrics.jsonl."""
        place = {"kind": "train", "step": self.step, "epoch": self.epoch, "lr": self.lr}
        return {**place, **self.losses, **(self.speed.figures() if self.speed else {})}


@dataclass(frozen=True)
class Eval:
    """Scores after an epoch."""

    step: int
    epoch: int
    what: str  # the conditions that the scores hold under
    headlines: tuple[str, ...]  # the main score of each set; checkpoints are ranked by the first
    scores: Mapping[str, float]

    def record(self) -> dict[str, object]:
        """Its line of metrics.jsonl."""
        place = {"kind": "eval", "step": self.step, "epoch": self.epoch, "what": self.what}
        several = {"headlines": [*self.headlines]} if len(self.headlines) > 1 else {}
        return {**place, "headline": self.headlines[0], "scores": self.scores, **several}


@dataclass(frozen=True)
class Skip:
    """A step whose loss or gradients were not finite."""

    step: int
    skipped: int  # such steps so far

    def record(self) -> dict[str, object]:
        """Its line of metrics.jsonl."""
        return {"kind": "skip", **asdict(self)}


@dataclass(frozen=True)
class Tick:
    """How far training is, between two steps that are logged."""

    step: int
    epoch: float
    speed: Speed | None = None


@dataclass(frozen=True)
class Evaluating:
    """How far an evaluation is, boxes."""

    done: int
    total: int


@dataclass(frozen=True)
class Saving:
    """A checkpoint is about to be written: what was told before belongs to it."""


@dataclass(frozen=True)
class Note:
    """A line for people."""

    text: str


@dataclass(frozen=True)
class Done:
    """The run is over; its last words."""

    text: str


@dataclass(frozen=True)
class Stopped:
    """The run has left before its end, with a checkpoint of this step."""

    step: int


@dataclass(frozen=True)
class Up:
    """A worker has begun, on this node of Ray's."""

    node: str


@dataclass(frozen=True)
class Listening:
    """The loop asks from now on whether it is to stop."""


@dataclass(frozen=True)
class Fatal:
    """An error that ends the run on any worker."""

    error: str  # a class of :mod:`icon_dist.errors`; empty for a bug
    text: str  # of a bug, its traceback


Recorded = Train | Eval | Skip  # what metrics.jsonl holds
Event = Recorded | Start | Tick | Evaluating | Saving | Note | Done | Stopped
Report = Callable[[Event], None]
