"""JSON that knows itself: a sha256 of everything else in it, so that no flipped digit is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MOST = 64 << 20  # bytes of a sealed document
MOST_VALUES = 1 << 20  # lists and objects in it: some bytes each in the file, a hundred in memory


class BrokenSealError(Exception):
    """What is wrong with a file, as the end of a sentence that its name begins."""


def sealed(document: Mapping[str, Any]) -> bytes:
    """The one spelling of ``document``, with the seal as its ``sha256``; a seal it had before does not count."""
    body = json.loads(json.dumps({key: value for key, value in document.items() if key != "sha256"}))
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, sort_keys=True, indent=1).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """What was sealed, its ``sha256`` included, if not a byte has changed since; or BrokenSealError."""
    if data.count(b"[") + data.count(b"{") > MOST_VALUES or len(data) > MOST:
        raise BrokenSealError("is larger than any manifest")
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or "sha256" not in document:
            raise BrokenSealError("has no seal (sha256)")
        whole = sealed(document) == data
    except (ValueError, RecursionError):
        raise BrokenSealError("is not JSON") from None
    if not whole:
        raise BrokenSealError("was altered: its seal (sha256) does not hold")
    return document


def holds(data: bytes) -> bool:
    """Whether ``unsealed`` would take them."""
    try:
        unsealed(data)
    except BrokenSealError:
        return False
    return True
