"""Temporary folders that say whose they are, so that those of killed processes can be told from living ones."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path

CLOCK_SLACK_S = 2.0


def folder(kind: str) -> tempfile.TemporaryDirectory[str]:
    """``icon-KIND-PID-HOST-...`` below TMPDIR: a folder that several hosts may share."""
    prefix = f"icon-{kind}-{os.getpid()}-{socket.gethostname()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def leftovers(root: Path) -> list[Path]:
    """Those of this host whose process is gone."""
    own = re.compile(rf"icon-[a-z]+-(\d+)-{re.escape(socket.gethostname())}-\w+")
    found = []
    for place in sorted(root.glob("icon-*")):
        match = own.fullmatch(place.name)
        if match and place.is_dir() and not place.is_symlink() and not _lives(int(match[1]), place):
            found.append(place)
    return found


def _lives(pid: int, place: Path) -> bool:
    """Whether ``pid`` still is the process that made ``place``: numbers are used again."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except FileNotFoundError:
        return not Path("/proc/stat").exists()  # without /proc nobody can tell
    began = int(boot.split()[1]) + int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return began <= place.stat().st_ctime + CLOCK_SLACK_S
