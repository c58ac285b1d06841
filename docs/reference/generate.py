"""Write config.md and cli.md, which stand beside this file, from the package: ``python docs/reference/generate.py``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from icon_dist.__main__ import VERBS, dispatch
from icon_dist.cli import Parser
from icon_dist.config import print_config
from icon_dist.config.schema import Config

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by docs/reference/generate.py; a test fails when it is stale. -->"
TABLE = "|---|---|"


def pages() -> dict[str, str]:
    """The text of each generated page, by file name."""
    return {"config.md": "\n".join(config_page()) + "\n", "cli.md": "\n".join(cli_page()) + "\n"}


def config_page() -> Iterator[str]:
    yield from ("# Every config value", "", WRITTEN, "")
    yield "Set a value in a YAML file or as `a.b=c` on the command line. `icon-dist train --cfg coco --print-config`"
    yield "prints those of a preset and marks what is not the default. What a value is for: [training](../training.md),"
    yield "[the method](../method.md), [few labels](../few-labels.md)."
    yield from section(Config(), "")


def section(node: Any, path: str) -> Iterator[str]:
    """The table of one section, then the sections inside it."""
    values = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    inner = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    own = {name: value for name, value in values.items() if name not in inner}
    about = print_config.meanings(type(node))
    if own:
        yield from ("", f"## {path}", "")
        if path and (doc := inspect.getdoc(type(node))) and not doc.startswith(type(node).__name__):
            yield from (doc.replace("``", "`"), "")
        yield from ("| key | default | meaning |", "|---|---|---|")
    for name, value in own.items():
        yield f"| `{path}.{name}` | {code(print_config.written(value))} | {cell(about[name])} |"
    for name, value in inner.items():
        yield from section(value, f"{path}.{name}" if path else name)


def cli_page() -> Iterator[str]:
    yield from ("# Every command", "", WRITTEN, "")
    yield "`icon-dist VERB` and `python -m icon_dist VERB` are the same. Every command takes `--help`, and `--debug`,"
    yield "which shows the traceback of an error. [Exit codes](../troubleshooting.md#exit-codes)."
    for verb, (_, about) in VERBS.items():
        yield from ("", f"## {verb}", "", f"{about[0].upper()}{about[1:]}.".replace("|", "or"), "")
        usage, parsers = captured(verb)
        yield from ("```", usage, "```", "")
        yield from ("| | |", TABLE)
        seen = set()
        for action in (action for parser in parsers for action in parser._actions):
            words = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            if words in seen or action.dest in ("help", "debug"):
                continue
            seen.add(words)
            yield f"| {code(f'{words} {value_of(action)}'.strip())} | {cell(help_of(action))} |"


def captured(verb: str) -> tuple[str, list[Parser]]:
    """The usage line of a verb, and the parser that knows its options."""
    caught: list[Parser] = []
    with (
        mock.patch.object(Parser, "print_help", lambda self, *_: caught.append(self)),
        contextlib.suppress(SystemExit),
    ):
        dispatch([*verb.split(), "--help"])
    words = " ".join(caught[0].format_usage().removeprefix("usage: ").split())
    if caught[0].usage is None:
        words = " ".join([caught[0].prog, "[options]", *map(position, caught[0]._get_positional_actions())])
    return words, caught


def position(action: argparse.Action) -> str:
    """A positional argument as a usage line has it."""
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def value_of(action: argparse.Action) -> str:
    if not action.option_strings or action.nargs == 0:
        return ""
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    name = action.metavar or action.dest.upper()
    one = name if isinstance(name, str) else " ".join(name)
    return f"{one} ..." if action.nargs in ("+", "*") else one


def help_of(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": ""}
    if not action.option_strings and action.choices is not None:
        text = f"{'|'.join(map(str, action.choices))}{'; ' if text else ''}{text}"
    return text


def code(text: str) -> str:
    """Text as code in a cell."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def cell(text: str) -> str:
    """Prose in a cell: nothing in it is markup."""
    for mark in ("\\", "|", "*", "_", "<", ">", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
