"""How far a command is, in one line on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

PATIENCE = 2.0  # s after the first item without a word; what is done by then needs none
EVERY = (0.1, 10.0)  # s between two lines: on a terminal, where each replaces the last, and in a log


def progress_bar(verb: str, unit: str, total: int) -> Callable[[int], None]:
    """``show(done)`` of ``total``: ``predicting 12/500 photos, 0:35 left``, as often as a reader wants to know."""
    file, start = sys.stderr, time.monotonic()
    live = file.isatty()
    following = math.inf

    def show(done: int) -> None:
        """Print the line for ``done`` of ``total``, unless the last one was printed a moment ago."""
        nonlocal following
        now = time.monotonic()
        if following == math.inf:  # the first batch has taken the time of all that are in it
            following = now + PATIENCE
        if now < following:
            return
        following = now + EVERY[not live]
        left = round((now - start) / max(1, done) * max(0, total - done))
        text = f"{verb} {done}/{total} {unit}, {left // 60}:{left % 60:02d} left"
        # On a terminal, whatever is written next begins where this line does.
        print(f"{text:<{60 if live else 0}}", end="\r" if live else "\n", file=file, flush=True)

    return show


def counter(unit: str, *, out: TextIO | None = None) -> Callable[[str, int, int], None]:
    """``show(verb, done, total)`` on stderr: a line rewritten on a terminal, one at every tenth in a log."""
    file, shown = out or sys.stderr, ("", -1)

    def show(verb: str, done: int, total: int) -> None:
        """Print that ``done`` of ``total`` are done, unless the line would say the same as the one before."""
        nonlocal shown
        live = file.isatty()
        if (now := (verb, done if live else 10 * done // total)) != shown:
            shown = now
            end = "\n" if done == total or not live else ""
            print(f"{chr(13) if live else ''}{verb} {done}/{total} {unit}", end=end, file=file, flush=True)

    return show
