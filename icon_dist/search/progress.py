"""What a sweep says while it runs: a line for every trial that begins or ends, and one live line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from icon_dist.errors import plain
from icon_dist.loggers.progress_line import clock, live
from icon_dist.search.space import text as spoken

REFRESH_S = 1.0


class Screen:
    """The lines that a running sweep prints on stderr.

    ``metric`` names the score. The sweep has ``trials`` trials in the end, of which ``done`` have ended before; each
    trains for ``epochs`` epochs.
    """

    def __init__(self, *, metric: str, trials: int, done: int, epochs: int) -> None:
        self._metric, self._trials, self._done, self._epochs = metric, trials, done, epochs
        self._out = sys.stderr
        self._terminal = self._out.isatty()
        self._running: dict[int, tuple[float, float]] = {}  # number -> epoch reached, when it began
        self._best: tuple[float, int] | None = None
        self._shown = 0.0
        self._open = False

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._open:
            self._out.write(live("") + "\r")
            self._open = False
        self._out.write(plain(line) + "\n")
        self._out.flush()

    def best(self, score: float, number: int) -> None:
        """Take in a score; the best is that of all trials, those of earlier drivers too."""
        if self._best is None or score > self._best[0]:
            self._best = (score, number)

    def began(self, number: int, values: Mapping[str, Any], *, label: str) -> None:
        """Print that trial ``number`` begins with these config ``values``.

        ``label`` says what a special trial is, such as the first point; else it is empty.
        """
        self._running[number] = (0.0, time.monotonic())
        name = f"trial {number}{f' ({label})' if label else ''}"
        self.say(f"{name} begins: " + "  ".join(f"{key}={spoken(value)}" for key, value in values.items()))

    def at(self, number: int, *, epoch: float, score: float | None) -> None:
        """Note that trial ``number`` has reached ``epoch``, which may be part of one.

        Prints a line if it was evaluated there, with ``score``, before its last epoch.
        """
        self._running[number] = (epoch, self._running[number][1])
        if score is not None and epoch < self._epochs:
            self.say(f"trial {number} at epoch {epoch:g} of {self._epochs}: {self._metric} {score:.4g}")
        self.refresh()

    def ended(self, number: int, how: str, *, score: float | None, text: str) -> None:
        """Print that trial ``number`` is over, with its duration and the state of the sweep.

        ``how`` is complete, stopped, diverged or failed; ``score`` is its last one, if any; ``text`` is the reason, or
        empty.
        """
        _, began = self._running.pop(number)
        self._done += 1
        parts = [f"trial {number} {how}"]
        if score is not None:
            parts.append(f"{self._metric} {score:.4g}")
            if how == "complete":
                self.best(score, number)
        parts.append(clock(int(time.monotonic() - began)))
        if text:
            parts.append(text)
        self.say(", ".join(parts) + f"  [{self._status()}]")

    def lost(self, line: str) -> None:
        """Print ``line``: all running trials are lost at once."""
        self._running.clear()
        self.say(line)

    def refresh(self) -> None:
        """The live line, at most once a second."""
        now = time.monotonic()
        if not self._terminal or not self._running or now - self._shown < REFRESH_S:
            return
        self._shown = now
        running = "  ".join(
            f"#{number} {epoch / self._epochs:.0%} {clock(int(now - began))}"
            for number, (epoch, began) in self._running.items()
        )
        self._out.write(live(f"{self._status()}  {running}"))
        self._out.flush()
        self._open = True

    def _status(self) -> str:
        best = f", best {self._best[0]:.4g} (trial {self._best[1]})" if self._best else ""
        return f"{self._done} of {self._trials} done, {len(self._running)} running{best}"
