"""What can go wrong, as the user sees it: one line and an exit code.

Raise one of these for the user (what, where, value, fix); use ``assert`` for ourselves.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LONGEST = 2000  # characters of a line


def shorten(text: str, most: int = 100) -> str:
    """``text`` on one line, without its middle if it is long: a message quotes values of any size."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most * 3 // 4]} ... {line[-most // 4 :]}"


def shown(value: object) -> str:
    """``repr`` of a value that somebody else wrote, fit for a message."""
    try:
        return shorten(repr(value))
    except ValueError:  # Python writes out integers of some thousand digits at most
        return "a number of thousands of digits"


class IconError(Exception):
    """Base of every error meant for the user; ``str(error)`` is one line."""

    exit_code = 1


class ConfigError(IconError):
    """Config or command line."""

    exit_code = 2


class DataError(IconError):
    """Annotations, images or shards."""

    exit_code = 3


class CheckpointError(IconError):
    """A checkpoint that is missing, damaged or of another model."""

    exit_code = 4


class StorageError(IconError):
    """S3, disk or network."""

    exit_code = 5


class DivergedError(IconError):
    """The loss, the weights or the predictions are not finite."""

    exit_code = 6


class ClusterError(IconError):
    """Ray, worker processes or versions."""

    exit_code = 7


class TakenError(ClusterError):
    """Another process writes there: one writer at a time."""


class StoppedError(IconError):
    """Asked to leave before its end: nothing went wrong, and the same command goes on."""

    exit_code = 75

    def __init__(self, text: str, *, exit_code: int = exit_code) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def plain(text: str) -> str:
    """One line that is safe to show: data can name things with control characters, and hold very long values.

    Control characters become escapes, passwords in URIs are covered, and of a long line the middle is left out.

    >>> plain("s3://me:secret@bucket/a\\x1b[2J")
    's3://***@bucket/a\\\\x1b[2J'
    """
    line = re.sub(r"(\w://)\S*@", r"\1***@", text)  # to the last @: a password may hold any of @ : /
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 500]} ... {line[-500:]}"


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from ``least`` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or len(text) > 18 or int(text) < least:
            raise ArgumentTypeError(f"{shown(text)} is not a whole number from {least} on")
        return int(text)

    return number


class _Output(io.FileIO):
    """Standard output or error. Once nobody can read it any more, what is written goes nowhere and the work goes on."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for what libraries and child processes write as well
            os.close(null)
            if self.fileno() == 1 and error.errno not in (errno.EPIPE, errno.EIO):  # not the reader's will
                text = f"standard output: {error.strerror}; free some space or write elsewhere"
                raise StorageError(text) from None
            return memoryview(data).nbytes


def _lasting(stream: Any, number: int) -> Any:
    """``stream``, which is ``sys.stdout`` or ``sys.stderr``, as one that outlives its reader."""
    if stream is None:  # the process was started without
        return open(os.devnull, "w")
    if stream not in (sys.__stdout__, sys.__stderr__):  # of a test
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_standard_streams() -> None:
    """A number that was closed would be given to the next file that is opened, and libraries would print into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def run_cli(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run ``main(argv)`` and leave with its exit code; an IconError becomes one line on stderr.

    ``--debug`` anywhere in ``argv`` shows the traceback instead. Ctrl-C leaves with 130. Output that nobody reads any
    more (``| head``, a terminal that is gone) ends nothing and changes no exit code.
    """
    _open_standard_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        code = main(args)
        sys.stdout.flush()
    except StoppedError as stopped:
        print(f"icon_dist: {plain(str(stopped))}", file=sys.stderr)
        raise SystemExit(stopped.exit_code) from None
    except IconError as error:
        if debug:
            raise
        print(f"icon_dist: error: {plain(' '.join(str(error).split()))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("icon_dist: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    raise SystemExit(code or 0)
