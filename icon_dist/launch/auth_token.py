"""Ray's token, which opens a cluster to whoever has it: Ray itself writes it for every user of the machine to read."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

MODE = 0o600


def find() -> str:
    """The token as Ray looks for it: two variables, then the file; empty where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def refused(token: str) -> str:
    """What a cluster says that does not take ``token``, and the fix."""
    said = "refuses this token" if token else "wants a token"
    return f"{said}; copy ~/.ray/auth_token of the user who started the head, mode 0600"


def keep_private() -> None:
    """Before Ray starts a cluster here: its token in ``~/.ray``, made now if there is none, is for its owner alone.

    One that is given by ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` is somebody else's affair, and the doctor's.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path("~/.ray/auth_token").expanduser()
    with suppress(OSError):  # a home that cannot be written or is another's: Ray says it better
        if not file.exists():
            _make(file)
        file.chmod(MODE)


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, whole = tempfile.mkstemp(dir=file.parent)  # of mode 0600
    try:
        with open(handle, "w") as text:
            text.write(secrets.token_hex(32))  # as many bits as Ray draws
        with suppress(FileExistsError):  # of two drivers the first one's counts
            os.link(whole, file)
    finally:
        os.unlink(whole)
