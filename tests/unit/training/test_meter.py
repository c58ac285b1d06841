"""How a run is timed: what a step takes, what of it is waiting for data, and what is told in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from icon_dist.loggers.events import Event, Note, Tick, Train
from icon_dist.training import meter as module
from icon_dist.training.meter import Meter


class Clock:
    """Stands still until it is moved."""

    now = 50.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def loaded(clock: Clock, *, count: int, seconds: float) -> Iterator[int]:
    """Micro-batches that take so long to come."""
    for number in range(count):
        clock.now += seconds
        yield number


def test_steps_are_timed_and_what_lies_between_epochs_is_not(clock: Clock) -> None:
    """Two micro-batches a step of 12 people; each is waited for .5 s and takes 1.5 s: a step has 4 s and 3 people a
    second."""
    told: list[Event] = []
    meter = Meter(told.append, batch=12, accumulation=2, steps_per_epoch=4)
    step = 0
    for epoch in range(2):
        for micro in meter.watched(loaded(clock, count=8, seconds=0.5), step=4 * epoch):
            clock.now += 1.5
            if micro % 2:
                step += 1
                if step % 3 == 0:
                    meter.report(Train(step, step / 4, 1e-3, {}))
        clock.now += 1000  # an evaluation
    logged = [event for event in told if isinstance(event, Train)]
    assert [event.step for event in logged] == [3, 6]
    for event in logged:
        assert event.speed is not None
        speed = event.speed
        assert (speed.img_s, speed.step_ms, speed.data_wait) == pytest.approx((3.0, 4000.0, 25.0))
        assert speed.memory_mb > 1
        assert speed.time.endswith("+00:00")
    ticks = [event for event in told if isinstance(event, Tick)]
    assert [(event.step, event.epoch) for event in ticks] == [(step, step / 4) for step in range(1, 9)]
    known = [event.speed.step_ms for event in ticks if event.speed is not None and event.speed.step_ms is not None]
    assert known == pytest.approx([4000] * len(known))
    assert known


def test_fast_steps_are_not_told_one_by_one(clock: Clock) -> None:
    told: list[Event] = []
    meter = Meter(told.append, batch=8, accumulation=1, steps_per_epoch=100)
    for _ in meter.watched(loaded(clock, count=100, seconds=0.0), step=0):
        clock.now += 0.3
    assert [getattr(event, "step", None) for event in told] == [1, *range(8, 101, 7)], "two seconds apart"
    meter.report(Note("as it is"))
    assert told[-1] == Note("as it is")
