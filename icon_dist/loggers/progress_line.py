"""How far a command is, in one line on stderr."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import TextIO

PATIENCE = 2.0  # s without a word: what is done by then needs none
EVERY = (0.1, 10.0)  # s between two lines: on a terminal, where each replaces the last, and in a log


class ProgressLine:
    """``line(done, total)`` shows ``packed 12/500 people, 93/s, 0:05 left``, as often as a reader wants to know.

    The first call says what was done before: it is no part of the rate.
    """

    def __init__(self, verb: str, unit: str, *, out: TextIO | None = None) -> None:
        self.found: int | None = None  # what was done before
        self._verb, self._unit, self._out = verb, unit, out or sys.stderr
        self._start, self._next, self._shown = 0.0, math.inf, False

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are finished, unless a line was shown a moment ago."""
        now, live = time.monotonic(), self._out.isatty()
        if self.found is None:
            self.found, self._start, self._next = done, now, now + PATIENCE
        ended = self._shown and done >= total
        if now < self._next and not ended:
            return
        self._next, self._shown = now + EVERY[not live], not ended
        rate = (done - self.found) / max(now - self._start, 1e-9)
        left = f", {clock((total - done) / rate)} left" if rate and not ended else ""
        text = f"{self._verb} {done}/{total} {self._unit}, {rate:.0f}/s{left}"
        # On a terminal, whatever is written next begins where this line does.
        print(f"{text:<{60 if live else 0}}", end="\r" if live and not ended else "\n", file=self._out, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:05."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def live(text: str) -> str:
    """``text`` as a line of a terminal that takes the place of the one before; what is too long for it is cut."""
    width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and the next one not replace it
    return f"\r{text[:width]:<{width}}"
