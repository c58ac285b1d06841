"""Which keys there are and what kind of value each takes: faults of one layer of a config, in the user's words."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from icon_dist.config.schema import Config, choices, get, leaves
from icon_dist.errors import shorten, shown

ODD = re.compile(r"[-+]?(0[0-9_]|0[xXbBoO]|[0-9][0-9.]*_|[0-9]+:)")  # octal 010, 0x10, 1_000, 1:30 = 90
DEFAULTS = Config()
SETS = ("data.train", "data.val")  # each a place, or a list of places
SWITCHES = ("yes", "no", "on", "off", "y", "n")  # truth values of YAML 1.1, and not of 1.2


def default(key: str) -> Any:
    """The default value, or the section, at a dotted key; None if there is no such key."""
    try:
        return get(DEFAULTS, key)
    except AttributeError:
        return None


def faults(node: Any, key: str = "") -> Iterator[str]:
    """Every key that does not exist and every value of a wrong kind in a layer: ``loss.tau='x': expected a number``."""
    there = default(key)
    if not dataclasses.is_dataclass(there):
        if isinstance(node, dict) and node and not isinstance(there, tuple):
            yield f"{key}.{shorten(str(next(iter(node))))}: no such key; {key} has a value and no keys"
        elif expected := _misfit(node, there, key):
            bare = isinstance(node, str) and isinstance(there, str)
            yield f"{key}={shorten(node) if bare else _written(node)}: {expected}"
        return
    names = [f.name for f in dataclasses.fields(there)]
    if not isinstance(node, dict):
        yield f"{key}={_written(node)}: a section, not a value; its keys are {', '.join(names)}"
        return
    for name, value in node.items():
        inner = f"{key}.{name}" if key else str(name)
        if name in names:
            yield from faults(value, inner)
            continue
        while isinstance(value, dict) and len(value) == 1:  # los.tau=1 is about los.tau, not about los
            (deeper, value), *_ = value.items()
            inner += f".{deeper}"
        yield f"{shorten(inner)}: no such key; {_suggestion(inner, key, names)}"


def unclear(node: yaml.Node | None, key: str = "") -> Iterator[tuple[int, str]]:
    """Plain scalars that YAML 1.1 takes for something else than most people write: (line from 1, fault)."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            text = str(name.value)
            yield from unclear(value, f"{key}.{text}" if key else text)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from unclear(value, key)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and not isinstance(default(key), str | None):
        line, text = node.start_mark.line + 1, node.value
        if isinstance(default(key), bool):
            if text.lower() in SWITCHES:
                yield line, f"{key}={text}: expected true or false"
        elif ODD.match(text):
            yield line, f"{key}={shorten(text)}: expected plain decimal digits, such as 10 or 0.001{_read_as(text)}"


def _read_as(text: str) -> str:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return ""
    return f" (YAML would read {shown(value)})" if isinstance(value, int | float) else ""


def _misfit(value: Any, there: Any, key: str) -> str:
    """What was expected in the place of a leaf's ``value``, or nothing if it fits."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        return "'${...}' and '???' are not understood here; write the value itself"
    if key in SETS:
        listed = isinstance(value, list | tuple) and all(type(one) is str for one in value)
        fits = isinstance(value, str) or listed
        return "" if fits else "expected a path or s3://..., or a list of them such as [data/coco, data/lsp]"
    if isinstance(there, str):
        section, _, name = key.rpartition(".")
        names = choices(type(default(section))).get(name, ())
        if names:
            return "" if value in names else f"expected one of {', '.join(names)}"
        return "" if isinstance(value, str) else "expected text; put quotes around it"
    if isinstance(there, bool):
        return "" if str(value).lower() in ("true", "false", "0", "1") else "expected true or false"
    if key == "run.report":
        listed = isinstance(value, list | tuple) and all(type(one) is str for one in value)
        return "" if listed else "expected a list of names, such as [wandb] or []"
    if isinstance(there, tuple):
        listed = isinstance(value, list | tuple) and all(type(one) is int for one in value)
        return "" if listed else "expected a list of whole numbers, such as [170, 200] or []"
    if isinstance(there, int):
        return "" if _is_number(value, int) else "expected a whole number"
    return "" if _is_number(value, float) else "expected a number"


def _is_number(value: Any, kind: type[int] | type[float]) -> bool:
    """Text in quotes may be one too, as long as it is written as numbers are."""
    if isinstance(value, str):
        if not value.isascii() or ODD.match(value) or value != value.strip():
            return False
        try:
            kind(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def _written(value: Any) -> str:
    """A value as it stands in a message: text bare where it is no rival of a number."""
    return "" if value is None else shown(value)


def _suggestion(key: str, section: str, names: list[str]) -> str:
    """The keys that were probably meant, in this section or another one, or else a list of this section's."""
    every, name = [name for name, _ in leaves(DEFAULTS)], key.rpartition(".")[2]
    near = []
    if section and key.count(".") > section.count(".") + 1:  # the name between is wrong, not the last one
        same = [one for one in every if one.startswith(f"{section}.") and one.rpartition(".")[2] == name]
        near = sorted(same, key=lambda one: -difflib.SequenceMatcher(None, key[:100], one).ratio())
    near = near or [f"{section}.{one}".lstrip(".") for one in difflib.get_close_matches(name[:100], names, n=1)]
    near = near or [one for one in every if one.rpartition(".")[2] == name]
    near = near or difflib.get_close_matches(key[:100], every, n=1, cutoff=0.75)
    if near and near[0] == key:  # a dotted key in YAML
        return f"a dot is no level in YAML; write '{key.rpartition('.')[0]}:' and '{name}: ...' indented below it"
    return f"did you mean {' or '.join(near[:2])}?" if near else f"{section or 'top-level'} keys are {', '.join(names)}"
