"""How every command ends: in order, with an exit code and at most one line, whatever strikes it."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from icon_dist import cpu
from icon_dist.errors import ClusterError, ConfigError, IconError, StoppedError, StorageError, covered, plain

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PACKAGES = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # of modules named otherwise


def run_cli(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> NoReturn:
    """Run ``main(argv)`` and leave with its exit code; an IconError becomes one line on stderr.

    ``--debug`` before any ``--`` shows its traceback too. Ctrl-C leaves with 130; SIGTERM and SIGHUP, unless ``main``
    has handlers of its own, with 75, since the same command goes on. Output that nobody reads any more (``| head``, a
    terminal that is gone) ends nothing and changes no exit code.
    """
    cpu.let_waiting_threads_sleep()
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
        if (missing := missing_package(error)) is None:
            raise
        raise missing from error


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
