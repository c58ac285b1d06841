"""What can go wrong, as the user sees it: one line and an exit code.

Raise one of these for the user (what, where, value, fix); use ``assert`` for ourselves.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

LONGEST = 2000  # characters of a line
READABLE = 700  # characters of several errors in a line
SECRETS = (
    (re.compile(r"(\w://)\S*@"), r"\1***@"),  # to the last @: a password may hold any of @ : /
    (
        re.compile(r"([?&;][\w-]*(?:signature|credential|token|secret|password|sig|key)[\w-]*=)[^\s&;'\"]+", re.I),
        r"\1***",
    ),
    (re.compile(r"(\b\w*(?:SECRET|TOKEN|PASSWORD)\w*=['\"]?)[^\s'\"]+", re.I), r"\1***"),  # variables
    (re.compile(r"(\bBearer )\S+"), r"\1***"),
)


def covered(text: str) -> str:
    """``text`` without the secrets that people put into URIs and command lines.

    >>> covered("s3://me:secret@bucket/a AWS_SECRET_ACCESS_KEY=abc https://h/x?X-Amz-Signature=f00&b=1")
    's3://***@bucket/a AWS_SECRET_ACCESS_KEY=*** https://h/x?X-Amz-Signature=***&b=1'
    """
    for secret, cover in SECRETS:
        text = secret.sub(cover, text)
    return text


def holds_secret(uri: str) -> bool:
    """Whether ``uri`` has a user, a password or a signature in it; an @ in the path of a place is none."""
    user = re.match(r"\w[\w+.-]*://[^/]*@|\w[\w+.-]*://[^/@]*:.*@", uri)
    return user is not None or SECRETS[1][0].search(uri) is not None


def shorten(text: str, most: int = 100) -> str:
    """``text`` on one line, without its middle if it is long: a message quotes values of any size."""
    line = " ".join(covered(text).split())
    return line if len(line) <= most else f"{line[: most * 3 // 4]} ... {line[-most // 4 :]}"


def shown(value: object) -> str:
    """``repr`` of a value that somebody else wrote, fit for a message."""
    try:
        return shorten(repr(value))
    except ValueError:  # Python writes out integers of some thousand digits at most
        return "a number of thousands of digits"


IRREGULAR = {"person": "people", "category": "categories", "box": "boxes", "query": "queries", "entry": "entries"}


def plural(count: int, noun: str, plural: str | None = None) -> str:
    """``count`` with its noun, as a message says it; ``plural`` where it is neither regular nor in ``IRREGULAR``.

    >>> plural(1, "person"), plural(2, "person"), plural(0, "image")
    ('1 person', '2 people', '0 images')
    """
    return f"{count} {noun if count == 1 else plural or IRREGULAR.get(noun, noun + 's')}"


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


class TooLargeError(StorageError):
    """A file that is larger than one of its kind can be; nothing of it was read."""

    def __init__(self, place: str, *, most: int) -> None:
        amount = f"{most >> 20} MiB" if most >> 20 else f"{most} bytes"
        super().__init__(f"{place}: is larger than {amount}, the most such a file may have; give the right file")


class DivergedError(IconError):
    """The loss, the weights or the predictions are not finite."""

    exit_code = 6


class ClusterError(IconError):
    """Ray, worker processes or versions."""

    exit_code = 7


def out_of_memory(error: Exception) -> ClusterError:
    """What to say of torch's OutOfMemoryError, whose own text goes on about its allocator."""
    what, free, _ = str(error).splitlines()[0].partition(" is free.")
    return ClusterError(f"{what}{free} Lower optim.micro_batch; the same command resumes")


class TakenError(ClusterError):
    """Another process writes there: one writer at a time."""


class StoppedError(IconError):
    """Asked to leave before its end: nothing went wrong, and the same command goes on."""

    exit_code = 75

    def __init__(self, text: str, *, exit_code: int = exit_code) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def raise_all(errors: Sequence[IconError], *, most: int = READABLE) -> None:
    """One error of all that are wrong at once, of the kind of the first; nothing where nothing is wrong.

    The line has as many of them as fit in ``most`` characters, and counts the others.
    """
    if not errors:
        return
    text, *others = map(str, errors)
    while others and len(text) + len(others[0]) < most:
        text += f"; also {others.pop(0)}"
    raise type(errors[0])(f"{text}; and {len(others)} more" if others else text)


@contextmanager
def gathering(errors: list[IconError]) -> Iterator[None]:
    """An error of the block goes into the list, to be raised with others."""
    try:
        yield
    except StoppedError:
        raise
    except IconError as error:
        errors.append(error)


@contextmanager
def naming(what: str, fix: str = "") -> Iterator[None]:
    """An error of the block begins with ``what`` it is about, such as a config key, and ends with ``fix``."""
    try:
        yield
    except StoppedError:
        raise
    except IconError as error:
        error.args = (f"{what}: {error}{fix}",)
        raise


def tell(text: str) -> None:
    """A line of ours on stderr while a command goes on."""
    print(f"icon_dist: {plain(text)}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line on stderr about something unusual with which the command goes on."""
    tell(f"note: {text}")


noted: set[tuple[int, str]] = set()  # by process


def note_once(text: str) -> None:
    """:func:`note`, unless this process has printed it before."""
    if (os.getpid(), text) not in noted:
        noted.add((os.getpid(), text))
        note(text)


def safe(text: str) -> str:
    """One line for a terminal: data can name things with control characters, which become escapes; secrets are covered.

    >>> safe("s3://me:secret@bucket/a\\x1b[2J")
    's3://***@bucket/a\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in covered(text))


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print lines of which data may be a part, each as :func:`safe` has it."""
    print("\n".join(map(safe, text.split("\n"))), file=file, flush=True)


def plain(text: str) -> str:
    """One line as :func:`safe` has it, without its middle if it is long: a message may quote very long values."""
    line = safe(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 500]} ... {line[-500:]}"


@contextmanager
def needed_for(what: str, *packages: str) -> Iterator[None]:
    """Around the import of ``packages`` that not every machine has: one line that says how to get them."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise ClusterError(f"{what}: needs {name}, which is not here; pip install {' '.join(packages)}") from None
