"""Names of tensors by rules: how other code's become ours."""

from __future__ import annotations

import re
from collections.abc import Sequence


def renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Return ``name`` with its beginning as the first of the rules that fits, (pattern, replacement), says.

    A name that no rule fits stays as it is.
    """
    for theirs, ours in rules:
        if found := re.match(theirs, name):
            return found.expand(ours) + name[found.end() :]
    return name
