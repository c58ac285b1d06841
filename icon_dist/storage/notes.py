"""What storage tells people once a process, however often it meets it."""

from __future__ import annotations

import os

from icon_dist.errors import note

said: set[tuple[int, str]] = set()


def note_once(text: str) -> None:
    """Print ``text`` as a note on stderr, unless this process has printed it before."""
    if (os.getpid(), text) not in said:
        said.add((os.getpid(), text))
        note(text)
