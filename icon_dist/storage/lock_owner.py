"""Who holds a lock: a record of a process, and whether that process still lives, as far as this machine can see."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from icon_dist import storage
from icon_dist.errors import plain, shorten


def this_process() -> dict[str, str | int]:
    """Return the record of this process: host, pid, machine, start time in ticks since boot, command."""
    pid = os.getpid()
    command = shlex.join([os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]) if sys.orig_argv else ""
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": machine(),
        "born": process_stat(pid)[1],
        "command": shorten(plain(command), 200),
    }


def machine() -> str:
    """Return within which a process number means something: a boot and a PID namespace of it. Empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def process_stat(pid: int) -> tuple[str, str]:
    """Return the state and the start time in ticks of a process; empty where nothing can be seen of it."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return after_name[0], after_name[19]
    except (OSError, IndexError):
        return "", ""


def state(owner: Mapping[str, object]) -> str:
    """Return of an owner's record: ``lives``, ``gone``, or ``unseen``, which is elsewhere or stopped."""
    pid, born = owner.get("pid"), owner.get("born")
    if type(pid) is not int or pid <= 0 or not machine() or owner.get("machine") != machine():
        return "unseen"
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "gone"
    except PermissionError:  # of another user, who may hide it
        pass
    doing, began = process_stat(pid)
    if doing in ("Z", "X") or (began and began != born):  # its number is used again
        return "gone"
    return "unseen" if doing in ("T", "t") else "lives"


def described(raw: bytes) -> str:
    """Return in words whose lock this is, for a message; whatever the bytes are."""
    owner = parsed(raw)
    if not owner:
        return f"somebody whose {storage.LOCK} cannot be read"
    began = ""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        then = time.localtime(float(str(owner["since"])))
        today = time.strftime("%F", then) == time.strftime("%F")
        began = f" since {time.strftime('%R' if today else '%F %R', then)}"
    pid, host, command = (shorten(str(owner.get(key, "?")), 200) for key in ("pid", "host", "command"))
    return f"pid {pid} on {host}{began} ({command})"


def parsed(raw: bytes) -> dict[str, object]:
    """Return the record that a lock holds; empty where it holds none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
