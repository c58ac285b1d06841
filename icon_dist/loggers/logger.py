"""The logger of a run: one progress line, ``metrics.jsonl`` and TensorBoard files, all written by the driver.

Rank 0 sends small events; nothing here knows where they come from. A resumed run first drops what was recorded after
the step it resumes from, so that the files read like one undisturbed run. Both records are in files of bounded size:
what a flush writes does not grow with the run.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TextIO, runtime_checkable

from icon_dist import storage
from icon_dist.errors import IconError, StorageError, plain, shorten
from icon_dist.loggers.events import Done, Eval, Evaluating, Event, Note, Recorded, Saving, Skip, Start, Tick, Train
from icon_dist.loggers.progress_line import clock, live
from icon_dist.loggers.tensorboard import Board, scalars
from icon_dist.storage import lock
from icon_dist.storage.append_log import AppendLog
from icon_dist.types import score_text


@runtime_checkable
class Reporter(Protocol):
    """A service that people watch their runs with: ``icon_dist.loggers.reporters``."""

    def __call__(self, values: Mapping[str, float], *, step: int) -> None:
        """Tell it the numbers of a recorded event."""

    def close(self) -> None:
        """The last call, also after an error."""


KINDS = ("train", "eval", "skip")  # of the lines of metrics.jsonl
FIGURES = {"img_s": "{:.0f} img/s", "step_ms": "{:.0f} ms", "data_wait": "{:.0f} % data wait", "memory_mb": "{:.0f} MB"}
SHOW_EVERY = 10.0  # s, a line of training in a log
WAITING_S = 5.0  # of silence while Ray or its workers start
FLUSH_EVERY = 30.0  # s at most
OUTAGE_PAUSE = 10.0  # times as long as an attempt that failed, until the next one: training waits for each of them


class Logger:
    """Consumes the events of a run in order, and keeps those that are recorded."""

    def __init__(self, run_uri: str, *, out: TextIO | None = None, reporters: Sequence[Reporter] = ()) -> None:
        """Lines go to ``out``, by default to stderr as it is now; events that are kept, to the ``reporters`` too."""
        self._run_uri = run_uri
        self._metrics_uri = storage.join(run_uri, "metrics.jsonl")
        self._log: AppendLog | None = None
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._open_line = False
        self._reporters = [*reporters]
        self._losses = ""  # of the last step that was logged
        self._last_print = -math.inf
        self._next_flush = time.monotonic() + FLUSH_EVERY
        self._away = False  # the run directory, at the last flush
        self._total = 0
        self._rate: tuple[int, float] | None = None  # (step, time) where this attempt's speed counts from
        self._board: Board | None = None

    def __call__(self, event: Event) -> None:
        """Show and write down one event of the run."""
        match event:
            case Start():
                self._start(event)
            case Train() | Eval() | Skip():
                self._record(event)
                self._show(event)
                self._report(lambda reporter: reporter(scalars(event), step=event.step))
            case Tick():
                self._show_step(event)
            case Evaluating(done, total):
                self._show_line(f"evaluated {done}/{total} boxes")
            case Note(text) | Done(text):
                self.say(text)
        began = time.monotonic()
        due = isinstance(event, Eval | Done) or (isinstance(event, Saving) and not self._away)
        if due or began > self._next_flush:
            try:
                self.flush()
                self._away = False
            except StorageError as error:  # an outage must not end the training it tells of; all is kept for the next
                self.say(f"warning: metrics are not written: {error}")
                self._away, now = True, time.monotonic()
                self._next_flush = now + max(FLUSH_EVERY, OUTAGE_PAUSE * (now - began))

    def say(self, text: str) -> None:
        """A line that stays."""
        self._end_line()
        self._out.write(plain(text) + "\n")
        self._out.flush()

    @contextmanager
    def waiting(self, text: str) -> Iterator[threading.Event]:
        """Say that ``text`` still goes on, again and again until the event is set or the block ends.

        After ``WAITING_S`` seconds at first, later once a minute: nodes may come in hours.
        """
        over, began = threading.Event(), time.monotonic()

        def tell() -> None:
            pause = WAITING_S
            while not over.wait(pause):
                self.say(f"{text}, {time.monotonic() - began:.0f} s so far")
                pause = min(1.3 * pause, 60.0)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield over
        finally:
            over.set()
            teller.join()

    def flush(self) -> None:
        """Write what has been recorded to the run directory."""
        self._next_flush = time.monotonic() + FLUSH_EVERY
        lock.require(self._run_uri)
        if self._log is not None:
            self._log.flush()
        if self._board is not None:
            self._board.upload()

    def close(self) -> None:
        """The last call: all is written, and what comes next begins on a line of its own."""
        self._end_line()
        try:
            self.flush()
        finally:
            if self._board is not None:
                self._board.close()
                self._board = None
            self._report(lambda reporter: reporter.close())
            self._reporters = []

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close. What fails then is only a warning beside the error that ends the run, which decides its exit code."""
        try:
            self.close()
        except IconError as failed:
            if error is None:
                raise
            self.say(f"warning: metrics are not written: {failed}")

    def _report(self, tell: Callable[[Reporter], None]) -> None:
        """To all reporters. One that fails is left out from then on: its service must not end the training."""
        for reporter in [*self._reporters]:
            try:
                tell(reporter)
            except Exception as error:
                self._reporters.remove(reporter)
                name = type(reporter).__module__.rpartition(".")[2]
                self.say(f"warning: {name} is told nothing more: {shorten(str(error) or type(error).__name__, 300)}")

    def _end_line(self) -> None:
        if self._open_line:
            self._out.write("\n")
            self._out.flush()
            self._open_line = False

    def _start(self, event: Start) -> None:
        self.flush()  # of an attempt before this one, steps that its checkpoint holds and the file does not yet
        step = event.step
        log = self._log = AppendLog(self._metrics_uri, lambda line: _is_until(step, line))
        if log.damaged:
            self.say(f"warning: {self._metrics_uri}: {log.damaged} of {log.lines} lines are damaged; left out")
        self._total = event.total
        self._rate = None
        self._last_print = -math.inf
        if self._board is not None:
            self._board.close()
        try:
            self._board = Board(self._run_uri, purge_step=step + 1)
        except ModuleNotFoundError:
            self._board = None
            self.say("note: no TensorBoard files, the package tensorboard is not installed; metrics.jsonl has all")

    def _record(self, event: Recorded) -> None:
        assert self._log is not None, "start comes first"
        self._log.add(json.dumps(_strict(event.record()), allow_nan=False).encode() + b"\n")
        if self._board is not None:
            self._board.add(event)

    def _show(self, event: Recorded) -> None:
        match event:
            case Skip(step, count):
                self.say(f"warning: step {step} is skipped: its loss or gradients are not finite ({count} so far)")
            case Eval():
                scores = "  ".join(f"{name} {score_text(name, event.scores[name])}" for name in event.headlines)
                self.say(f"epoch {event.epoch:g}  {scores}  {event.what}")
            case Train(losses=found):
                losses = [f"heatmap {found['heatmap']:.4f}"]
                losses += [f"{k} {found[k]:.3f}" for k in ("skcc", "prcc") if found["scale"]]
                self._losses = "  ".join(losses)
                self._show_step(event)

    def _show_step(self, event: Train | Tick) -> None:
        """Where the run is, how fast, what it waits for; the first step of an attempt at once."""
        now, step = time.monotonic(), event.step
        self._rate = self._rate or (step, now)
        parts = [f"step {step}/{self._total}", f"epoch {event.epoch:.2f}", self._losses]
        if event.speed is not None:
            known = event.speed.figures()
            parts += [text.format(known[name]) for name, text in FIGURES.items() if name in known]
            parts += [f"{datetime.fromisoformat(event.speed.time).astimezone():%H:%M:%S}"]
        if step > self._rate[0]:
            left = int((now - self._rate[1]) / (step - self._rate[0]) * (self._total - step))
            parts += [f"{clock(left)} left"]
        self._show_line("  ".join(filter(None, parts)), last=step == self._total and isinstance(event, Train))

    def _show_line(self, text: str, *, last: bool = False) -> None:
        """A line that the next one replaces on a terminal, and in a log follows some seconds later, or is the last."""
        now = time.monotonic()
        if not self._live and not last and now - self._last_print < SHOW_EVERY:
            return
        self._last_print = now
        self._out.write(live(text) if self._live else text + "\n")
        self._out.flush()
        self._open_line = self._live


def _is_until(step: int, line: bytes) -> bool | None:
    """Whether an event is of ``step`` or before; None if it is no whole event. Damage in a record ends no run."""
    try:
        event = json.loads(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("kind") not in KINDS or type(event.get("step")) is not int:
        return None
    return bool(event["step"] <= step)


def _strict(value: Any) -> Any:
    """JSON has no nan and no inf: they become null."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
