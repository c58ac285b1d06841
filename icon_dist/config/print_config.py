"""A config to read: ``--print-config``. Every key has its comment, and what is not its default says so."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import tokenize
from collections.abc import Iterator
from typing import Any

import yaml

from icon_dist.config import schema
from icon_dist.config.schema import Config

COLUMN = 40  # where comments begin, if the value leaves room


def to_commented_yaml(config: Config) -> str:
    """YAML that says what ``config`` says, and can be given back as ``--cfg``."""
    return "".join(f"{line}\n" for line in _lines(config, Config(), indent=""))


def _lines(node: Any, default: Any, *, indent: str) -> Iterator[str]:
    meaning = meanings(type(node))
    for field in dataclasses.fields(node):
        value, usual = getattr(node, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:"
            yield from _lines(value, usual, indent=indent + "  ")
            continue
        about = meaning[field.name]
        if value != usual:
            about = f"[default {written(usual)}] {about}".rstrip()
        line = f"{indent}{field.name}: {written(value)}"
        yield f"{line:<{COLUMN}}  # {about}" if about else line


def written(value: Any) -> str:
    """A value in YAML, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump([plain], default_flow_style=True, width=10**9, allow_unicode=True)
    return text.strip()[1:-1]


def meanings(section: type) -> dict[str, str]:
    """What each field of a section means: what there is to choose from, and its comment; empty where neither is."""
    comments, names = _comments()[section.__name__], schema.choices(section)
    return {
        field.name: "; ".join(filter(None, (" | ".join(names.get(field.name, ())), comments.get(field.name, ""))))
        for field in dataclasses.fields(section)
    }


@functools.cache
def _comments() -> dict[str, dict[str, str]]:
    """The comment behind each field of each section, as it stands in ``schema.py``."""
    source = inspect.getsource(schema)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    on_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {
        section.name: {
            field.target.id: on_line[field.lineno]
            for field in section.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.lineno in on_line
        }
        for section in ast.parse(source).body
        if isinstance(section, ast.ClassDef)
    }
