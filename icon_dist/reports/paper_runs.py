"""Rows of the paper's tables as runs: their names, what is set and their commands; and several trained side by side."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icon_dist import storage
from icon_dist.errors import say
from icon_dist.reports.paper_tables import Recipe, Result


def run_name(recipe: str, cfg: str, seed: int) -> str:
    """Return the name of the run of row ``recipe`` with the preset (name or path) ``cfg`` and ``seed``."""
    return f"{Path(cfg).stem}-{recipe}-s{seed}"


def overrides(recipe: Recipe, cfg: str, *, seed: int, extra: Sequence[str] = ()) -> list[str]:
    """``a.b=c`` of a run: the row's, then the user's; ``@ID`` becomes that run's directory."""
    given = [f"{key}={written(value)}" for key, value in recipe.changes.items()]
    given += [*extra, f"run.seed={seed}", f"run.name={run_name(recipe.id, cfg, seed)}"]
    if not any("=@" in item for item in given):
        return given
    from icon_dist import config as configuration

    runs = configuration.load(cfg, given).run.dir  # a preset may need what is given, a teacher
    out = []
    for item in given:
        key, _, value = item.partition("=")
        out.append(f"{key}={storage.join(runs, run_name(value[1:], cfg, seed))}" if value[:1] == "@" else item)
    return out


def written(value: Any) -> str:
    """A value of a row as ``--set`` takes it."""
    return json.dumps(value) if isinstance(value, list | bool) else str(value)


@dataclass(frozen=True)
class Run:
    """One row on one preset with one seed; ``extra`` are the user's own overrides."""

    recipe: Recipe
    cfg: str
    seed: int
    extra: Sequence[str]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return run_name(self.recipe.id, self.cfg, self.seed)

    @property
    def starts_from(self) -> dict[str, str]:
        """The rows whose weights it starts from or learns from, its ``@ID``, each with the name of its run."""
        values = {key: str(value) for key, value in self.recipe.changes.items()}
        values |= dict(item.split("=", 1) for item in self.extra if "=" in item)
        return {v[1:]: run_name(v[1:], self.cfg, self.seed) for v in values.values() if v[:1] == "@"}

    @property
    def overrides(self) -> list[str]:
        """``a.b=c`` of its config."""
        return overrides(self.recipe, self.cfg, seed=self.seed, extra=self.extra)

    @property
    def command(self) -> list[str]:
        """The words behind ``python`` that train it."""
        return ["-m", "icon_dist.train", "--cfg", self.cfg, *self.overrides]

    def recorded(self, results: Sequence[Result]) -> list[Run]:
        """The runs of this row, preset and ``extra``, of any seed, that are among ``results``."""
        key = (self.recipe.id, self.cfg, shlex.join(self.extra))
        seeds = dict.fromkeys(r.seed for r in results if (r.recipe, r.cfg, r.overrides) == key)
        return [replace(self, seed=seed) for seed in seeds]


def train_all(runs: Sequence[Run], *, jobs: int, done: Callable[[Run], None]) -> None:
    """Train ``runs``, ``jobs`` at a time, each after those that it starts from; ``done`` is told of each.

    One that fails ends the others too, and this process with its exit code. They, and all when this process is
    stopped, keep a checkpoint: the same command goes on. Of several at a time the lines begin with the name of the run.
    """
    waiting, running = [*runs], list[_Training]()
    starter = ThreadPoolExecutor(1)  # signals strike the main thread: no process starts without standing in the list

    def start(run: Run) -> None:
        running.append(_Training(run, jobs))

    try:
        while waiting or running:
            unfinished = {run.name for run in waiting} | {one.run.name for one in running}
            ready = [run for run in waiting if not {*run.starts_from.values()} & (unfinished - {run.name})]
            ready = ready or ([] if running else waiting[:1])  # of a circle: it says what it lacks
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                starter.submit(start, run).result()
            time.sleep(0.1)
            for one in [one for one in running if one.has_ended()]:
                running.remove(one)
                if one.process.returncode:
                    raise SystemExit(one.process.returncode)
                done(one.run)
    finally:
        starter.shutdown()
        for one in running:
            one.process.terminate()
        for one in running:
            one.close()


class _Training:
    """A process that trains ``run``, one of ``jobs``; it has a share of the cores, and its lines bear its name."""

    def __init__(self, run: Run, jobs: int) -> None:
        say(f"\n$ python {shlex.join(run.command)}")
        self.run = run
        alone = jobs == 1  # then its live line is seen as it is
        out, error = (None, None) if alone else (subprocess.PIPE, subprocess.STDOUT)
        share = {} if alone else {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs))}
        command = [sys.executable, *run.command]
        self.process = subprocess.Popen(
            command,
            stdout=out,
            stderr=error,
            env={**share, **os.environ},
            encoding="utf-8",
            errors="replace",
            process_group=0,  # a terminal signals the whole group: with what this process sends it would be the second
        )
        self._reader = threading.Thread(target=self._pass_on)
        self._reader.start()

    def _pass_on(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                say(f"{self.run.name}: {line.rstrip()}", file=sys.stderr)

    def has_ended(self) -> bool:
        """Whether it has, with all its lines shown."""
        if self.process.poll() is not None:
            self.close()
        return self.process.returncode is not None

    def close(self) -> None:
        """Wait for its end."""
        self._reader.join()
        with self.process:  # waits, and closes what it printed to
            pass
