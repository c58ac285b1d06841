"""The command line: one parser for every command. A mistake is one line, with a suggestion where there is one.

``__main__.py`` lists the commands, ``command_exit.py`` has how they end, and ``errors.py`` their exit codes.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import itertools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from icon_dist.errors import ConfigError, shorten, shown

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # that word processors put in the place of a hyphen
NEGATIVE = r"-(\d+|\d*\.\d+)"  # argparse takes such a word for a value
QUIET_S = 1.0  # of an import: what is said after it comes within two seconds of the start
PRESETS = Path(__file__).parent / "config/presets"


@contextmanager
def loading(what: str = "") -> Iterator[None]:
    """Around the import of what does the work of a command, such as torch: an eighth less time without the collector.

    It would look at all that has been imported again and again, and none of it is garbage. ``what`` is said on stderr
    where the import takes longer than ``QUIET_S``.
    """
    enabled = gc.isenabled()
    gc.disable()
    sign = threading.Timer(QUIET_S, print, [f"loading {what}"], {"file": sys.stderr, "flush": True})
    if what:
        sign.start()
    try:
        yield
    finally:
        sign.cancel()
        if enabled:
            gc.enable()


def presets() -> list[str]:
    """The names that ``--cfg`` takes beside a file; here, because ``--help`` lists them without loading the config."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that a misspelt one is most like, or ``""``."""
    lowered = {name.lower(): name for name in known}
    return next((lowered[name] for name in difflib.get_close_matches(word.lower()[:100], lowered, n=1)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean train?"`` to go on with after a misspelt word, or nothing."""
    close = closest(word, known)
    return f"; did you mean {close}?" if close else ""


def text(value: str) -> str:
    """An argparse type: any text but none."""
    if not value.strip():
        raise argparse.ArgumentTypeError(f"{shown(value)} is empty; give a value, or leave the option out")
    return value


def whole(value: str) -> int:
    """An argparse type: a whole number as people write it, because ``int`` reads ``010`` and ``1_0`` as 10."""
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value):
        return int(value)
    try:
        hint = f"; write {int(value)}" if len(value) <= 18 else ""
    except ValueError:
        hint = ""
    raise argparse.ArgumentTypeError(f"{shown(value)} is not a whole number of at most 18 digits 0-9{hint}")


def number(value: str) -> float:
    """An argparse type: a finite number in ASCII digits."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", value, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"{shown(value)} is not a number such as 0.2")
    return float(value)


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from ``least`` on."""

    def from_least(value: str) -> int:
        if (found := whole(value)) < least:
            raise argparse.ArgumentTypeError(f"{found} is too small; expected a whole number from {least} on")
        return found

    return from_least


class Once(argparse.Action):
    """Of an option whose second value would not add to the first, as people may think, but take its place."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keep the value; an error where the option has another one already."""
        if (before := getattr(namespace, self.dest)) not in (None, values):
            parser.error(f"{option_string}: given twice, {shown(before)} and {shown(values)}; give one")
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError and guesses nothing.

    A file with a command is its parser and a ``main`` that imports what does the work once the arguments are right, so
    that help and mistakes come at once.

    Long options are written in full. A value is not empty and a number is a plain one, whatever the option.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        *,
        usage: str | None = None,
        epilog: str | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(
            prog=prog, description=description, usage=usage, epilog=epilog, add_help=add_help, allow_abbrev=False
        )
        for kind, reader in ((None, text), (int, whole), (float, number), (Path, lambda value: Path(text(value)))):
            self.register("type", kind, reader)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")  # run_cli sees to it

    def add_config(self, *, overrides: str = "such as loss.tau=0.1 run.name=mine", required: bool = True) -> None:
        """``--cfg NAME|PATH`` and the values that go on top of it; read them with ``parse_intermixed_args``."""
        about = f"a YAML file (path or s3://), or a preset: {', '.join(presets())}"
        self.add_argument("--cfg", action=Once, required=required, metavar="NAME|PATH", help=about)
        self.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=overrides)

    def add_force(self) -> None:
        """``--force`` of a command that writes files which the user names; :func:`icon_dist.storage.require_new`."""
        text = "replace what is there already; without it an existing file is an error, and stays"
        self.add_argument("--force", action="store_true", help=text)

    def add_evaluation(self) -> None:
        """``--limit``, ``--batch``, ``--loaders`` and ``--device`` of a command that scores checkpoints on shards."""
        self.add_argument("--limit", type=at_least(0), default=0, metavar="N", help="only the first N boxes of the set")
        self.add_argument("--batch", type=at_least(1), default=32, help="default %(default)s")
        cores = max(1, (os.cpu_count() or 1) - 1)
        self.add_argument("--loaders", type=at_least(0), default=cores, help="decoding processes; default %(default)s")
        self.add_argument("--device", help="such as cuda:1; default: cuda where torch can use a GPU, else cpu")

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError with argparse's ``message`` and where the help is, instead of leaving the process."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse_known_args(  # type: ignore[override]  # of typeshed's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Unknown options come first: argparse would say that ``--cfg`` is missing where ``--cgf`` was given."""
        self._require_options(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _require_options(self, words: Sequence[str]) -> None:
        options = {name for action in self._actions for name in action.option_strings}
        required = {name for action in self._actions if action.required for name in action.option_strings}
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            if name in options or (word[:2] in options and word[1] != "-"):  # -oFILE
                continue
            if word[:1] and word[0] in DASHES:
                like = did_you_mean(f"--{name.lstrip(DASHES + '-')}", options)
                self.error(f"{shown(word)} begins with the dash U+{ord(word[0]):04X}, not with a hyphen{like}")
            has_overrides = any(action.dest == "overrides" for action in self._actions)
            if has_overrides and re.fullmatch(r"--?[a-z]\w*(\.\w+)+", name):
                value = f"{name.lstrip('-')}={word.partition('=')[2] or 'VALUE'}"
                self.error(f"{shown(name)}: values of the config are written without dashes: {shorten(value)}")
            if word[:1] == "-" and word != "-" and " " not in word and not re.fullmatch(NEGATIVE, word):
                self.error(f"{shown(name)}: no such option{did_you_mean(name, options)}")
        preset = next((word for word in words if word in presets()), "")
        if preset and "--cfg" in required and not any(word.startswith("--cfg") for word in words):
            self.error(f"{preset}: a preset is given with --cfg {preset}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            like = did_you_mean(str(value), names)
            raise argparse.ArgumentError(action, f"{shown(value)} is none of {', '.join(names)}{like}")
