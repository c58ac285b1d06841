"""Phases one after the other, each until its deadline, and whatever happens the figures of those before.

Every figure is in ``results.jsonl`` at once; the last thing printed is one table. Exit code 1 where something that must
hold does not, or where a phase failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from icon_dist.shards.synthetic import Crowd, generate_shards
from tests.gpu.correct import correct
from tests.gpu.data import data
from tests.gpu.graphs import graphs, start_compiling
from tests.gpu.ground import ground
from tests.gpu.predictions import predicted
from tests.gpu.setting import ROOT, Row, Setting, failed, without_deepspeed
from tests.gpu.speed import speed
from tests.gpu.train import train

PHASES = {  # and the share of the time that is gone when each should be over; what one leaves is the next one's
    ground: 0.045,
    correct: 0.165,
    speed: 0.365,
    data: 0.44,
    graphs: 0.56,  # the last one that computes in this process (graphs.py says why)
    train: 0.985,
}


class Late(BaseException):
    """The deadline of a phase has come."""


class Results:
    """Rows on the screen, in a file, and for the table."""

    def __init__(self, file: Path, *, card: str, commit: str) -> None:
        self._file = file.open("a")
        self._began = time.monotonic()
        self._run = {"card": card, "torch": torch.__version__, "commit": commit}
        self.rows: list[tuple[str, Row]] = []

    def add(self, phase: str, row: Row) -> None:
        self.rows.append((phase, row))
        at = round(time.monotonic() - self._began, 1)
        print(json.dumps({"phase": phase, **asdict(row), "at": at, **self._run}), file=self._file, flush=True)
        first = row.note.partition("\n")[0]
        print(f"{at:6.1f} s  {line(phase, row)}  {first}"[:200], flush=True)

    def table(self) -> str:
        """One line a row, with what was predicted of it."""
        card, versions = self._run["card"], f"torch {self._run['torch']}, commit {self._run['commit']}"
        rows = [f"{line(phase, row):<80} {predicted(phase, row.name, card)}".rstrip() for phase, row in self.rows]
        return "\n".join([f"{card}, {versions}; predictions on the right", *rows])


def line(phase: str, row: Row) -> str:
    value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
    verdict = {None: "", True: "ok", False: "WRONG"}[row.ok]
    return f"{phase:8} {row.name:<36} {value:>10} {row.unit:<8} {verdict}".rstrip()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Late inside, when so many seconds are over."""

    def ring(_: int, __: FrameType | None) -> None:
        raise Late

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(phase: Any, setting: Setting, results: Results) -> None:
    """The rows of a phase, as far as they come."""
    name = phase.__name__
    try:
        with deadline(setting.left):
            for row in phase(setting):
                results.add(name, row)
    except Late:
        results.add(name, Row("the rest", "left out", note="the time of this phase was over"))
    except Exception as error:
        results.add(name, failed("phase", error, ok=False))


def main(argv: list[str]) -> int:
    names = [phase.__name__ for phase in PHASES]
    parser = argparse.ArgumentParser(prog="tests/gpu/check.py")
    parser.add_argument("--data", type=Path, help="shards by tests/gpu/prepare.py; without it people are generated")
    parser.add_argument("--out", type=Path, required=True, help="for results.jsonl and the logs")
    parser.add_argument("--budget", type=float, default=550, help="seconds in all; default %(default)g")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: everything small")
    parser.add_argument("--phases", default=",".join(names), help="default %(default)s")
    parser.add_argument("--commit", default=commit(), help="to be named beside the figures")
    args = parser.parse_args(argv)
    if strangers := set(args.phases.split(",")) - set(names):
        parser.error(f"--phases: {', '.join(sorted(strangers))} is none of {', '.join(names)}")
    phases = {phase: end for phase, end in PHASES.items() if phase.__name__ in args.phases.split(",")}
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    without_deepspeed()
    if args.tiny:
        torch.set_num_threads(1)  # several wait for each other on a busy machine
    card = torch.cuda.get_device_name() if args.device != "cpu" else "CPU"
    results = Results(args.out / "results.jsonl", card=card, commit=args.commit)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{scratch}/inductor"
        shards = args.data or generated(Path(scratch))

        def setting(ends: float) -> Setting:
            return Setting(args.device, args.tiny, shards, args.out, Path(scratch), began + ends)

        ahead = [start_compiling(setting(0))] if graphs in phases else []
        try:
            for phase, end in spread(phases).items():
                run(phase, setting(end * args.budget), results)
        finally:
            for child in ahead:
                child.kill()
                child.wait()
    print(results.table())
    return int(any(row.ok is False for _, row in results.rows))


def spread(phases: dict[Any, float]) -> dict[Any, float]:
    """The ends of those phases that run, over all the time."""
    starts = dict(zip(PHASES, [0.0, *PHASES.values()], strict=False))
    lengths = [PHASES[phase] - starts[phase] for phase in phases]
    last = max(PHASES.values()) / sum(lengths)
    return {phase: last * sum(lengths[: i + 1]) for i, phase in enumerate(phases)}


def generated(folder: Path) -> Path:
    for split, people, seed in (("train", 64, 0), ("val", 24, 1)):
        generate_shards(str(folder / "people" / split), Crowd(people=people, seed=seed), split=split)
    return folder / "people"


def commit() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
