"""What a sweep searches, as YAML: ``about``, ``space`` and ``first``. The files beside this one ship with the package.

A value of ``space`` is a range, ``{low: 0.01, high: 1.0, log: true}``, or a list of choices. ``first`` is the point
tried first; a file without it begins with the config's own values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from icon_dist.cli import did_you_mean
from icon_dist.config.safe_yaml import read_plain
from icon_dist.errors import ConfigError, shorten, shown
from icon_dist.search.space import Range, Space

SHIPPED = Path(__file__).parent
MOST = 1 << 16  # bytes of a file
KEYS = ("about", "space", "first")


@dataclass(frozen=True)
class Search:
    """A space to search, and where to begin."""

    name: str  # the end of the study's folder
    about: str
    space: Space
    first: Mapping[str, Any]  # a point of the space, or empty


def names() -> list[str]:
    """Return the names of the searches that ship with the package, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_search(name_or_path: str) -> Search:
    """A shipped search, or that of a YAML file (a name with a slash or a .yaml suffix); else ConfigError."""
    path = Path(name_or_path).expanduser()
    if "/" not in name_or_path and path.suffix not in (".yaml", ".yml"):
        if name_or_path not in names():
            like = did_you_mean(name_or_path, names())
            text = f"no such search{like}; expected one of {', '.join(names())}, or a YAML file"
            raise ConfigError(f"{shown(name_or_path)}: {text}")
        path = SHIPPED / f"{name_or_path}.yaml"
    if not re.fullmatch(r"[\w.-]{1,64}", path.stem):
        raise ConfigError(f"{path}: the study is named after the file; use letters, digits, '.', '_' and '-'")
    fields = _fields(path)
    if faults := list(_faults(fields)):
        raise ConfigError(f"{path}: {'; '.join(faults)}")
    space = {key: Range(**v) if isinstance(v, dict) else tuple(v) for key, v in fields["space"].items()}
    first = fields.get("first") or {}
    wrong = [key for key in {**space, **first} if key not in space or first.get(key) not in space[key]]
    if first and wrong:
        raise ConfigError(f"{path}: first: {', '.join(map(str, wrong))}: expected every key of space, in its range")
    return Search(path.stem, fields.get("about", f"Search {path.stem}."), space, first)


def _fields(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a file; give a YAML file with about, space and first")
        if path.stat().st_size > MOST:
            raise ConfigError(f"{path}: larger than {MOST >> 10} KiB; a search space is a few lines")
        fields = read_plain(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; shipped searches are {', '.join(names())}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML: {shorten(str(error), 200)}") from None
    if type(fields) is not dict or type(fields.get("space")) is not dict or not fields["space"]:
        raise ConfigError(f"{path}: expected 'space:' with config keys below it, and what each may be")
    return fields


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """All that is wrong, but for what the config says of keys and values."""
    for key in fields:
        if key not in KEYS:
            yield f"unknown key {shown(key)}{did_you_mean(str(key), KEYS)}"
    if type(fields.get("about", "")) is not str or not str(fields.get("about", "-")).isprintable():
        yield "about: expected one line of text"
    if type(fields.get("first") or {}) is not dict:
        yield "first: expected config keys with one value each"
    for key, values in fields["space"].items():
        if type(key) is not str or not key.isprintable():
            yield f"space: {shown(key)}: expected a config key such as loss.tau"
        elif type(values) is list:
            if not values or not all(type(value) in (int, float, str, bool) for value in values):
                yield f"space: {key}={shown(values)}: expected choices, one value each"
            elif len({(type(value), value) for value in values}) < len(values):
                yield f"space: {key}={shown(values)}: a choice is there twice"
        elif type(values) is not dict or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
            yield f"space: {key}={shown(values)}: expected {{low: 0.1, high: 1.0}} (and log: true), or a list"
        elif not all(_is_number(values[end]) for end in ("low", "high")):
            yield f"space: {key}={shown(values)}: low and high: expected numbers (in YAML write 0.001 or 1.0e-3)"
        elif type(values.get("log", False)) is not bool:
            yield f"space: {key}={shown(values)}: log: expected true or false"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) and abs(value) < 1e15
