"""How fast a worker trains, what share of the time it waits for data, and how much memory it takes.

The figures of a run are recorded (``metrics.jsonl``, TensorBoard) by ``loggers/logger.py``.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar

import torch

from icon_dist.loggers.events import Event, Report, Speed, Tick, Train

T = TypeVar("T")
TICK_EVERY_S = 2.0


class Meter:
    """Stands between a run and its reports: measures steps from where their batches are asked for.

    Every :class:`Train` gets the figures of the steps since the one before. In between, the first step and then one
    every two seconds is told by a :class:`Tick`, so that slow steps are no silence.
    """

    def __init__(
        self, report: Report, *, batch: int, accumulation: int, steps_per_epoch: int, device: str = "cpu"
    ) -> None:
        """``batch`` is global; ``accumulation``: micro-batches of a step."""
        self._report, self._device = report, device
        self._batch, self._accumulation, self._steps_per_epoch = batch, accumulation, steps_per_epoch
        self._since: int | None = None  # step at which what is measured begins
        self._seconds = self._waited = 0.0  # of it, and for data alone
        self._counted_to = self._ticked = float("-inf")

    def report(self, event: Event) -> None:
        """Pass an event on, with figures if it is of training."""
        if isinstance(event, Train):
            event = replace(event, speed=self._speed(event.step))
            self._since, self._seconds, self._waited = event.step, 0.0, 0.0
        self._report(event)

    def watched(self, micros: Iterator[T], *, step: int) -> Iterator[T]:
        """The micro-batches of an epoch from ``step`` on; what happens between two epochs is not measured."""
        self._since = step if self._since is None else self._since
        self._counted_to = time.monotonic()
        for taken in count():
            self._count()
            if taken and taken % self._accumulation == 0 and self._counted_to - self._ticked > TICK_EVERY_S:
                self._ticked, at = self._counted_to, step + taken // self._accumulation
                self._report(Tick(at, at / self._steps_per_epoch, self._speed(at)))
            micro = next(micros, None)
            self._waited += self._count()
            if micro is None:
                return
            yield micro

    def _count(self) -> float:
        """Add the time since the last call to what is measured; returns it."""
        now = time.monotonic()
        passed, self._counted_to = now - self._counted_to, now
        self._seconds += passed
        return passed

    def _speed(self, step: int) -> Speed:
        self._count()
        memory, now = round(self._memory() / 1e6), datetime.now(UTC).isoformat(timespec="seconds")
        steps, seconds = step - (self._since or 0), self._seconds
        if steps <= 0 or seconds <= 0:
            return Speed(memory, now)
        return Speed(
            memory,
            now,
            img_s=self._batch * steps / seconds,
            step_ms=1000 * seconds / steps,
            data_wait=100 * self._waited / seconds,
        )

    def _memory(self) -> int:
        """The most bytes that this process has held so far, on its GPU if it has one."""
        if self._device != "cpu":
            return torch.cuda.max_memory_allocated(self._device)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
