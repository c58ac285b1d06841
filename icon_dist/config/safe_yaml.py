"""Which YAML is read at all: plain values, written once, nested as deeply as people write."""

from __future__ import annotations

from collections import Counter
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


def read_plain(text: str) -> Any:
    """What plain YAML says; YAMLError, or ValueError about a number or a date that is none."""
    require_plain(text)
    return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506  (a SafeLoader)


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build the dict of a YAML mapping; raise a ConstructorError that names the keys which are given twice."""
        times = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [str(key) for key, count in times.items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep=deep)
