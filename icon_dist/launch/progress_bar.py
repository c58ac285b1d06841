"""How far a command is, and how long it still takes, in one line on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

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
