"""Which YAML is read at all: plain values, written once, nested as deeply as people write."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 32  # a parser in C has no stack for a hundred thousand brackets


def require_plain(text: str) -> None:
    """YAMLError about aliases, which can grow a few lines to gigabytes, and about nesting that no file needs."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark: Any = event.start_mark  # of two types, says typeshed
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*) is not understood here", problem_mark=mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
