"""The run-time checker of annotated signatures; an int is a good float, as PEP 484 has it.

A run calls the same functions thousands of times with the same shapes, which took a third of its time. So each
function's first :data:`CALLS` calls in a test are checked; with ``CHECKED=all`` (``make slow``) every one.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

CALLS = 50
_typed = beartype(conf=BeartypeConf(is_pep484_tower=True))
_calls: Counter[tuple[str, str]] = Counter()
_unchecked: list[Any] = []


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which refuses what its annotations do not allow; jaxtyping makes it of a signature."""
    checked = _typed(function)
    if os.environ["CHECKED"] == "all":
        return checked
    name = function.__module__, function.__qualname__

    @functools.wraps(checked)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _calls[name] += 1
        if _calls[name] == 2 * CALLS:  # arguments, and what comes out
            _leave_unchecked(*name)
        return checked(*args, **kwargs)

    return counted


def check_again() -> None:
    """A test begins: every call is the first one again."""
    _calls.clear()
    while _unchecked:
        del _unchecked.pop().__no_type_check__


def _leave_unchecked(module: str, path: str) -> None:
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = vars(found).get(part)
        if found is None:
            return  # made inside of a function: it stays checked
    while callable(found):  # what decorates it and itself; neither property nor class method, which take no attributes
        found.__no_type_check__ = True  # what typing.no_type_check sets, and jaxtyping reads at each call
        _unchecked.append(found)
        found = getattr(found, "__wrapped__", None)
