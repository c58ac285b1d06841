"""Run one command on bad input, in this process, and say everything that is wrong with how it ended."""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import runpy
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from icon_dist.command_exit import run_cli
from tests.adversarial.fuzz.cases import Case
from tests.support.paths import ROOT

PATIENCE_S = 60  # of the clock; two seconds of work, on a machine that others use as well
LONGEST = 500  # characters of a message, apart from the paths in it
MEMORY_KB = 200_000


class HangError(Exception):
    pass


def _hang(_: int, frame: FrameType | None) -> NoReturn:
    raise HangError(f"at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else "")


def main_of(script: str) -> Callable[[list[str]], int | None]:
    path = ROOT / "shards" / f"{script}.py"
    if path.is_file():
        found: Callable[[list[str]], int | None] = runpy.run_path(str(path))["main"]
        return found
    return importlib.import_module(f"icon_dist.{script}").main  # type: ignore[no-any-return]


def files(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def run(case: Case, root: Path) -> tuple[int, str, list[str]]:
    """Exit code, all that it says and faults of the command in the folder ``root``."""
    before, out, err = files(root), io.StringIO(), io.StringIO()
    faults, code, memory = [], -1, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    main = main_of(case.script)
    old = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(PATIENCE_S)
    try:
        with contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_cli(main, list(case.arguments))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except HangError as hang:
        faults.append(f"hang {hang}")
    except BaseException as error:
        last = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if str(ROOT) in f.filename and "tests" not in f.filename
        ]
        where = f"{Path(last[-1].filename).name}:{last[-1].lineno}" if last else "?"
        faults.append(f"traceback {type(error).__name__} at {where}: {str(error)[:100]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > MEMORY_KB:
        faults.append("memory")
    shown = err.getvalue()
    if not faults:
        faults += _exit_faults(case, code, shown)
    return code, out.getvalue() + shown, faults + _leftovers(case, code, before, files(root))


def _exit_faults(case: Case, code: int, shown: str) -> list[str]:
    faults = [] if code in case.codes else [f"exit code {code}, expected {sorted(case.codes)}: {shown[-200:]!r}"]
    if "Traceback" in shown:
        faults.append("traceback printed")
    errors = [line for line in shown.splitlines() if "error: " in line]
    if code and (len(errors) != 1 or shown.splitlines()[-1:] != errors):
        faults.append(f"not one line at the end: {shown[-300:]!r}")
    longest = LONGEST + sum(map(len, case.arguments)) + 2 * len(str(Path.cwd()))
    if errors and len(errors[0]) > longest:
        faults.append(f"a line of {len(errors[0])} characters: {errors[0][:200]!r}")
    return faults


def _leftovers(case: Case, code: int, before: dict[str, bytes | None], after: dict[str, bytes | None]) -> list[str]:
    changed = sorted(name for name in before if name not in after or after[name] != before[name])
    new = sorted(after.keys() - before.keys())
    faults = [f"changed {name}" for name in changed]
    faults += [f"leftover {name}" for name in new if name.endswith(".partial")]
    card = case.writes.removesuffix(".safetensors") + ".md"  # of fetch
    own = [name for name in new if case.writes and (name in (case.writes, card) or name.startswith(f"{case.writes}/"))]
    faults += [f"leftover {name}" for name in new if name not in own and not name.endswith(".partial")]
    # a build that stopped at a photo goes on from there: it must not look complete
    unfinished = f"{case.writes}/building.json" in new and f"{case.writes}/manifest.json" not in new
    if code and own and not unfinished:
        faults += [f"leftover {name} of a failure" for name in own]
    return faults
