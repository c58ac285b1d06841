"""What a run tells people: one progress line, ``metrics.jsonl`` and TensorBoard files, all written by the driver.

Rank 0 sends small events; nothing here knows where they come from. A resumed run first drops what was recorded after
the step it resumes from, so that the files read like one undisturbed run.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from icon_dist import storage
from icon_dist.errors import StorageError, plain
from icon_dist.launch import tempdirs
from icon_dist.storage import lock

Event = dict[str, Any]
Report = Callable[[Event], None]

RECORDED = ("train", "eval", "skip")  # kinds of events that metrics.jsonl holds
SHOW_EVERY = 10.0  # s, a line of training in a log
FLUSH_EVERY = 30.0  # s: what a driver that is killed may lose of metrics.jsonl


class Progress:
    """Consumes events ``{"kind": "start" | "train" | "eval" | "skip" | "note" | "done", ...}`` in order."""

    def __init__(self, run_uri: str, *, out: TextIO | None = None) -> None:
        """Lines go to ``out``, by default to stderr as it is now."""
        self._run_uri = run_uri
        self._metrics_uri = storage.join(run_uri, "metrics.jsonl")
        self._lines: list[str] | None = None
        self._out = out or sys.stderr
        self._live = self._out.isatty()
        self._open_line = False
        self._last_print = -math.inf
        self._last_flush = time.monotonic()
        self._total = self._batch = 0
        self._rate: tuple[int, float] | None = None  # (step, time) where this attempt's speed counts from
        self._board: _Board | None = None

    def __call__(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "start":
            self._start(event)
        elif kind in RECORDED:
            self._record(event)
            self._show(event)
        elif kind in ("note", "done"):
            self.say(event["text"])
        if kind in ("eval", "done") or time.monotonic() - self._last_flush > FLUSH_EVERY:
            try:
                self.flush()
            except StorageError as error:  # an outage must not end the training it tells of; all is kept for the next
                self.say(f"warning: metrics are not written: {error}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._end_line()
        self._out.write(plain(text) + "\n")
        self._out.flush()

    def flush(self) -> None:
        """Write what has been recorded to the run directory."""
        self._last_flush = time.monotonic()
        lock.require(self._run_uri)
        if self._lines is not None:
            storage.write(self._metrics_uri, "".join(self._lines).encode())
        if self._board is not None:
            self._board.upload()

    def close(self) -> None:
        """The last call, also after an error: all is written, and what comes next begins on a line of its own."""
        self._end_line()
        self.flush()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _end_line(self) -> None:
        if self._open_line:
            self._out.write("\n")
            self._out.flush()
            self._open_line = False

    def _start(self, event: Event) -> None:
        self.flush()  # of an attempt before this one, steps that its checkpoint holds and the file does not yet
        step = event["step"]
        raw = storage.read(self._metrics_uri) if storage.exists(self._metrics_uri) else b""
        found = [(line, _step(line)) for line in raw.splitlines(keepends=True)]
        self._lines = [line.decode() for line, at in found if at is not None and at <= step]
        if damaged := sum(at is None for _, at in found):
            self.say(f"warning: {self._metrics_uri}: {damaged} of {len(found)} lines are damaged; left out")
        self._total, self._batch = event["total"], event["batch"]
        self._rate = None
        if self._board is not None:
            self._board.close()
        try:
            self._board = _Board(self._run_uri, purge_step=step + 1)
        except ModuleNotFoundError:
            self._board = None
            self.say("note: no TensorBoard files, the package tensorboard is not installed; metrics.jsonl has all")

    def _record(self, event: Event) -> None:
        assert self._lines is not None, "start comes first"
        self._lines.append(json.dumps(_strict(event), allow_nan=False) + "\n")
        if self._board is not None:
            self._board.add(event)

    def _show(self, event: Event) -> None:
        now = time.monotonic()
        step = event["step"]
        if event["kind"] == "skip":
            count = event["skipped"]
            self.say(f"warning: step {step} is skipped: its loss or gradients are not finite ({count} so far)")
            return
        if event["kind"] == "eval":
            name = event["headline"]
            self.say(f"epoch {event['epoch']:g}  {name} {event['scores'][name]:.4g}  {event['what']}")
            return
        if self._rate is None:
            self._rate = (step, now)
            return
        if now - self._rate[1] < 1 or (not self._live and now - self._last_print < SHOW_EVERY):
            return  # events come in heaps, and say little of the speed at first
        self._last_print = now
        per_step = (now - self._rate[1]) / max(1, step - self._rate[0])
        left = int(per_step * (self._total - step))
        parts = [f"step {step}/{self._total}", f"epoch {event['epoch']:.2f}", f"heatmap {event['heatmap']:.4f}"]
        parts += [f"{k} {event[k]:.3f}" for k in ("skcc", "prcc") if event["scale"]]
        parts += [f"{self._batch / max(per_step, 1e-9):.0f} img/s", f"{left // 60}:{left % 60:02d} left"]
        text = "  ".join(parts)
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and the next one not replace it
        self._out.write(f"\r{text[:width]:<{width}}" if self._live else text + "\n")
        self._out.flush()
        self._open_line = self._live


def _step(line: bytes) -> int | None:
    """Of a recorded event; None if this is not a whole one. The record is for people: damage in it ends no run."""
    try:
        event = json.loads(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("kind") not in RECORDED:
        return None
    step = event.get("step")
    return step if type(step) is int else None


def _strict(value: Any) -> Any:
    """JSON has no nan and no inf: they become null."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Board:
    """TensorBoard event files: written locally, copied to the run directory at every flush."""

    def __init__(self, run_uri: str, *, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._target = storage.join(run_uri, "tensorboard")
        self._scratch = tempdirs.Folder("board")
        self._writer = SummaryWriter(self._scratch.name, purge_step=purge_step)

    def add(self, event: Event) -> None:
        values = event.get("scores", event)
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(f"{event['kind']}/{name}", value, event["step"])

    def upload(self) -> None:
        self._writer.flush()
        for path in Path(self._scratch.name).iterdir():
            storage.write(storage.join(self._target, path.name), path)

    def close(self) -> None:
        self.upload()
        self._writer.close()
        self._scratch.cleanup()


def counter(unit: str, *, out: TextIO | None = None) -> Callable[[str, int, int], None]:
    """``show(verb, done, total)`` on stderr: a line rewritten on a terminal, one at every tenth in a log."""
    file, shown = out or sys.stderr, ("", -1)

    def show(verb: str, done: int, total: int) -> None:
        nonlocal shown
        live = file.isatty()
        if (now := (verb, done if live else 10 * done // total)) != shown:
            shown = now
            end = "\n" if done == total or not live else ""
            print(f"{chr(13) if live else ''}{verb} {done}/{total} {unit}", end=end, file=file, flush=True)

    return show
