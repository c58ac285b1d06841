"""The paper's tables as runs: ``icon-dist paper`` lists every row, ``--run ID`` launches it.

A row is what to set on top of a preset (``reports/paper_tables.yaml``), so that the same row runs on other data
with ``--cfg``. Runs are repeated over seeds and their figures appended to a CSV file; what is in it already is not run
again.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icon_dist import __version__, storage
from icon_dist.arguments import Once, Parser, at_least, did_you_mean
from icon_dist.cli import run_cli
from icon_dist.errors import ConfigError, DataError, say, tell
from icon_dist.reports.paper_tables import (
    DIAGNOSTICS,
    Recipe,
    Result,
    append_results,
    listing,
    markdown,
    read_recipes,
    read_results,
)
from icon_dist.storage import segments

if TYPE_CHECKING:
    from icon_dist.config import Config

RESULTS = Path(__file__).parents[1] / "results/cpu.csv"  # of a checkout; the installed package brings none


def select(names: Sequence[str], recipes: dict[str, Recipe], *, option: str = "--run") -> list[Recipe]:
    """Rows by id, or by the name of their table, as the user gave them with ``option``."""
    known = {*recipes, *(r.table for r in recipes.values())}
    for name in names:
        if name not in known:
            text = f"no such row or table{did_you_mean(name, sorted(known))}; icon-dist paper lists them"
            raise ConfigError(f"{option} {name}: {text}")
    return [r for r in recipes.values() if r.id in names or r.table in names]


def preset_of(recipe: Recipe, cfg: str | None) -> str:
    """The preset to run a row on: the one asked for, or the first that the paper has."""
    if cfg is None and not recipe.paper:
        raise ConfigError(f"--run {recipe.id}: the paper has no such run; give a preset with --cfg NAME")
    return cfg or next(iter(recipe.paper))


def run_name(recipe: str, cfg: str, seed: int) -> str:
    """Return the name of the run of row ``recipe`` with the preset (name or path) ``cfg`` and ``seed``."""
    return f"{Path(cfg).stem}-{recipe}-s{seed}"


def overrides(recipe: Recipe, cfg: str, *, seed: int, extra: Sequence[str] = ()) -> list[str]:
    """``a.b=c`` of a run: the row's, then the user's; ``@ID`` becomes that run's directory."""
    given = [f"{key}={_text(value)}" for key, value in recipe.changes.items()]
    given += [*extra, f"run.seed={seed}", f"run.name={run_name(recipe.id, cfg, seed)}"]
    if not any("=@" in item for item in given):
        return given
    from icon_dist import config as configuration

    runs = configuration.load(cfg, [item for item in extra if item.startswith("run.dir=")]).run.dir
    out = []
    for item in given:
        key, _, value = item.partition("=")
        out.append(f"{key}={storage.join(runs, run_name(value[1:], cfg, seed))}" if value[:1] == "@" else item)
    return out


def _text(value: Any) -> str:
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
    def starts_from(self) -> set[str]:
        """The names of the runs whose weights it starts from or learns from, its ``@ID``."""
        values = [*map(str, self.recipe.changes.values()), *(item.partition("=")[2] for item in self.extra)]
        return {run_name(value[1:], self.cfg, self.seed) for value in values if value[:1] == "@"}

    @property
    def overrides(self) -> list[str]:
        """``a.b=c`` of its config."""
        return overrides(self.recipe, self.cfg, seed=self.seed, extra=self.extra)

    @property
    def command(self) -> list[str]:
        """The words behind ``python`` that train it."""
        return ["-m", "icon_dist.train", "--cfg", self.cfg, *self.overrides]

    def is_recorded(self, results: Sequence[Result]) -> bool:
        """Whether one of ``results`` is of this run."""
        key = (self.recipe.id, self.cfg, shlex.join(self.extra), self.seed)
        return any((r.recipe, r.cfg, r.overrides, r.seed) == key for r in results)


def train_all(runs: Sequence[Run], *, jobs: int, done: Callable[[Run, float], None]) -> None:
    """Train ``runs``, ``jobs`` at a time, each after those that it starts from; ``done`` is told each and its seconds.

    One that fails ends the others too, and this process with its exit code. They, and all when this process is
    stopped, keep a checkpoint: the same command goes on. Of several at a time the lines begin with the name of the run.
    """
    waiting, running = [*runs], list[_Training]()
    try:
        while waiting or running:
            unfinished = {run.name for run in waiting} | {one.run.name for one in running}
            ready = [run for run in waiting if not run.starts_from & (unfinished - {run.name})]
            ready = ready or ([] if running else waiting[:1])  # of a circle: it says what it lacks
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running.append(_Training(run, jobs))
            time.sleep(0.1)
            for one in [one for one in running if one.has_ended()]:
                running.remove(one)
                if one.process.returncode:
                    raise SystemExit(one.process.returncode)
                done(one.run, time.monotonic() - one.started)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.close()


class _Training:
    """A process that trains ``run``, one of ``jobs``; it has a share of the cores, and its lines bear its name."""

    def __init__(self, run: Run, jobs: int) -> None:
        say(f"\n$ python {shlex.join(run.command)}")
        self.run, self.started = run, time.monotonic()
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


def figures(run: Run, config: Config, *, seconds: float) -> list[Result]:
    """What a finished run has measured on each set of ``data.val``, ``config`` being its own; it took ``seconds``."""
    import torch

    from icon_dist.training.loop import run_directory

    log = storage.join(run_directory(config), "metrics.jsonl")
    try:
        events = [json.loads(line) for line in segments.read(log).splitlines()]
    except ValueError:
        raise DataError(f"{log}: a line of it is damaged; resume the run, which leaves it out") from None
    scored = [e for e in events if e["kind"] == "eval"]
    if not scored:
        raise ConfigError(f"{run.cfg}: has no data.val, so there is no score to record")
    last = scored[-1]
    late = [e for e in events if e["kind"] == "train" and e["epoch"] > last["epoch"] - 1]
    first = Result(
        recipe=run.recipe.id,
        cfg=run.cfg,
        overrides=shlex.join(run.extra),
        seed=run.seed,
        metric=last["headline"],
        score=last["scores"][last["headline"]],
        steps=last["step"],
        seconds=round(seconds),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        commit=_commit(),
        command=f"python {shlex.join(run.command)}",
        **{name: _mean(late, name) for name in DIAGNOSTICS},
    )
    others = last.get("headlines", [])[1:]
    return [first, *(replace(first, metric=name, score=last["scores"][name]) for name in others)]


def _mean(events: list[Mapping[str, Any]], name: str) -> str:
    """Mean over the events, and over the terms where each has its own; empty where there is none."""
    values = [e[k] for e in events for k in (name, f"skcc_{name}", f"prcc_{name}") if e.get(k) is not None]
    return f"{statistics.fmean(values):.4g}" if values else ""


def _commit() -> str:
    """Of the checkout this runs from; of an installed package, its version."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return found


def main(argv: list[str]) -> None:
    """Run ``icon-dist paper`` with these words: list the rows of the tables, or launch the chosen ones in a row.

    All configs are checked before the first run starts; raises ConfigError for a mistake in them or in the words.
    """
    assert __doc__ is not None
    parser = Parser("icon-dist paper", __doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--run",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="rows (T5.skcc) or tables (T5); again = resume",
    )
    add(
        "--cfg", action=Once, metavar="NAME|PATH", help="run them on this preset; default: the first that the paper has"
    )
    add("--seeds", type=at_least(0), nargs="+", action="extend", metavar="N", help="seeds to run; default 0")
    add("--record", type=Path, metavar="FILE.csv", help="append the figures here and skip the runs that it holds")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="a.b=c",
        help="more overrides; @ID is the run of another row",
    )
    add("--jobs", type=at_least(1), action=Once, metavar="N", help="runs at a time; default 1")
    add("--dry-run", action="store_true", help="print the commands that --run would start, and leave")
    add("--commands", nargs="*", metavar="ID", help="list these rows, or all, with the command of every measurement")
    add("--markdown", action="store_true", help="print what was measured as tables")
    args = parser.parse_args(argv)
    titles, recipes = read_recipes()
    if args.run:
        _run_rows(args, recipes)
    else:
        _list_rows(args, titles, recipes)


def _list_rows(args: Namespace, titles: dict[str, str], recipes: dict[str, Recipe]) -> None:
    """Print the rows and what was measured of them; ConfigError of words that are for runs."""
    if unused := [
        f"--{name.replace('_', '-')}" for name in ("cfg", "seeds", "set", "jobs", "dry_run") if getattr(args, name)
    ]:
        raise ConfigError(f"{', '.join(unused)}: nothing is run; name rows or tables with --run ID")
    results = read_results(args.record or RESULTS)
    chosen = select(args.commands, recipes, option="--commands") if args.commands else [*recipes.values()]
    commands = args.commands is not None
    say(markdown(recipes, results) if args.markdown else listing(titles, chosen, results, commands=commands))


def _run_rows(args: Namespace, recipes: dict[str, Recipe]) -> None:
    """Run the chosen rows, or print their commands, but for those that ``--record`` holds already."""
    from icon_dist import config as configuration
    from icon_dist.launch.progress_line import ProgressLine
    from icon_dist.shards.synthetic import draw_missing

    if args.record:
        storage.require_place(str(args.record.absolute()))
    rows = [(recipe, preset_of(recipe, args.cfg)) for recipe in select(args.run, recipes)]
    runs = [Run(recipe, cfg, seed, args.set) for seed in dict.fromkeys(args.seeds or [0]) for recipe, cfg in rows]
    configs = {run.name: configuration.load(run.cfg, run.overrides) for run in runs}  # mistakes show before the first
    known = read_results(args.record) if args.record else []
    todo = []
    for run in runs:
        if run.is_recorded(known):
            tell(f"{run.name} is recorded already")
        else:
            todo.append(run)
    if args.dry_run:
        for run in todo:
            say(shlex.join(["icon-dist", "train", *run.command[2:]]))
        return

    for run in todo:
        draw_missing(configs[run.name].data, jobs=os.cpu_count() or 1, progress=partial(ProgressLine, unit="people"))

    def done(run: Run, seconds: float) -> None:
        results = figures(run, configs[run.name], seconds=seconds)
        scores = ", ".join(f"{result.metric} {result.percent:.2f}" for result in results)
        say(f"{run.recipe.id} on {run.cfg}, seed {run.seed}: {scores}")
        if args.record:
            append_results(args.record, results)

    train_all(todo, jobs=args.jobs or 1, done=done)


if __name__ == "__main__":
    run_cli(main)
