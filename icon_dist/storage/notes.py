"""What storage tells people while a command goes on: one line on stderr, each text once a process."""

from __future__ import annotations

import os
import sys

from icon_dist.errors import plain

_said: set[tuple[int, str]] = set()


def say(text: str) -> None:
    print(f"icon_dist: {plain(text)}", file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    if (os.getpid(), text) not in _said:
        _said.add((os.getpid(), text))
        say(f"note: {text}")
