"""What can go wrong, as the user sees it: one line and an exit code.

Raise one of these for the user (what, where, value, fix); use ``assert`` for ourselves.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LONGEST = 2000  # characters of a line
READABLE = 700  # characters of several errors in a line
PACKAGES = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # of modules named otherwise
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


def missing_package(error: ImportError) -> ClusterError | None:
    """What to say of a package that is not there or does not load; None if it is our own module that is not."""
    from importlib import metadata  # here, because most commands end without an error

    named = re.search(r"No module named '([\w.]+)'", str(error))
    name = (error.name or (named[1] if named else "")).partition(".")[0]
    if name == "icon_dist":
        return None
    package = PACKAGES.get(name, name)
    try:
        needs = [re.sub(r"\s*;.*", "", line) for line in metadata.requires("icon_dist") or ()]
    except metadata.PackageNotFoundError:
        needs = []
    want = next((need for need in needs if re.match(r"[\w-]+", need)[0].lower() == package), package)  # type: ignore[index]
    what = f"{name} is not installed" if named else f"{name or 'a package'} does not load ({error})"
    return ClusterError(f"{what}; pip install {shlex.quote(want) if want else '-e .'}")


class _Output(io.FileIO):
    """Standard output or error. Once nobody can read it any more, what is written goes nowhere and the work goes on."""

    def write(self, data: ReadableBuffer) -> int:
        """Write ``data`` and return how many of its bytes were taken.

        Once the reader or the terminal is gone, this and all later output go to /dev/null. Raises StorageError where
        standard output cannot be written for another reason, such as a full disk.
        """
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


@contextmanager
def needed_for(what: str, *packages: str) -> Iterator[None]:
    """Around the import of ``packages`` that not every machine has: one line that says how to get them."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        raise ClusterError(f"{what}: needs {name}, which is not here; pip install {' '.join(packages)}") from None


def run_cli(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run ``main(argv)`` and leave with its exit code; an IconError becomes one line on stderr.

    ``--debug`` before any ``--`` shows its traceback too. Ctrl-C leaves with 130; SIGTERM and SIGHUP, unless ``main``
    has handlers of its own, with 75, since the same command goes on. Output that nobody reads any more (``| head``, a
    terminal that is gone) ends nothing and changes no exit code.
    """
    _open_standard_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    own = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:own]
    args = [a for a in args[:own] if a != "--debug"] + args[own:]
    try:
        with _signals_in_order():
            code = _with_packages(main, args)
        sys.stdout.flush()
    except StoppedError as stopped:
        print(f"icon_dist: {plain(str(stopped))}", file=sys.stderr)
        code = stopped.exit_code
    except IconError as error:
        if debug:
            error.args = (covered(str(error)),)
            traceback.print_exc()
        print(f"icon_dist: error: {plain(' '.join(str(error).split()))}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        if debug:
            traceback.print_exc()
        print(f"icon_dist: error: {plain(str(error.filename))}: {error.strerror}; shorten it", file=sys.stderr)
        code = ConfigError.exit_code
    except KeyboardInterrupt:
        print("icon_dist: interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    raise SystemExit(code or 0)


@contextmanager
def _signals_in_order() -> Iterator[None]:
    """A signal ends the block by StoppedError, Ctrl-C by KeyboardInterrupt, wherever it strikes; nohup is respected."""
    main = threading.current_thread() is threading.main_thread()
    default: dict[signal.Signals, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    kinds = [one for one, handler in default.items() if main and signal.getsignal(one) == handler]
    process, struck = os.getpid(), 0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal struck
        if os.getpid() != process and number != signal.SIGINT:  # a child that was forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        struck = number
        raise _ended_by(number)

    for one in kinds:
        signal.signal(one, end)
    try:
        yield
    except BaseException:  # libraries, struck while they load, raise something else or add words of theirs
        if struck:
            raise _ended_by(struck) from None
        raise
    finally:
        for one in kinds:
            signal.signal(one, default[one])


def _ended_by(number: int) -> BaseException:
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    return StoppedError(f"stopped by {signal.Signals(number).name}; the same command goes on")


def _with_packages(main: Callable[[list[str]], int | None], args: list[str]) -> int | None:
    try:
        return main(args)
    except SystemExit as left:  # of argparse, which has printed the help
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except ImportError as error:
        if (told := missing_package(error)) is None:
            raise
        raise told from error
