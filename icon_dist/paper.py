"""The paper's tables as runs: ``icon-dist paper`` lists every row, ``--run ID`` launches it.

A row is what to set on top of a preset (``reports/paper_tables.yaml``), so that the same row runs on other data
with ``--cfg``. Runs are repeated over seeds and their figures appended to a CSV file; what is in it already is not run
again.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icon_dist import __version__, storage
from icon_dist.cli import Once, Parser, at_least, did_you_mean
from icon_dist.command_exit import run_cli
from icon_dist.errors import CheckpointError, ConfigError, DataError, IconError, gathering, note, raise_all, say, tell
from icon_dist.reports.paper_runs import Run, train_all, written
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


def figures(run: Run, config: Config) -> list[Result]:
    """What a finished run has measured on each set of ``data.val``, ``config`` being its own."""
    import torch

    from icon_dist.reports.runs import read_runs
    from icon_dist.training.loop import run_directory

    (found,) = read_runs([run_directory(config)])
    last = next((e for e in found.evals if e["step"] == found.step), None)
    if last is None:
        fix = "remove its newest checkpoint, and the same command trains from the one before"
        raise DataError(f"{found.uri}: metrics.jsonl has no score of its last step, {found.step}; {fix}")
    for line in found.changed:
        note(f"{run.name}: was trained with other values on its way; {line}")
    late = [e for e in found.train if e["epoch"] > last["epoch"] - 1]
    on_gpu = config.run.gpus_per_worker and torch.cuda.is_available()
    first = Result(
        recipe=run.recipe.id,
        cfg=run.cfg,
        overrides=shlex.join(run.extra),
        seed=run.seed,
        metric=last["headline"],
        score=last["scores"][last["headline"]],
        steps=last["step"],
        seconds=_seconds(found.train),
        device=torch.cuda.get_device_name() if on_gpu else "cpu",
        commit=_commit(),
        command=f"python {shlex.join(run.command)}",
        **{name: _mean(late, name) for name in DIAGNOSTICS},
    )
    return [first, *(replace(first, metric=name, score=last["scores"][name]) for name in found.metrics[1:])]


def _seconds(lines: Sequence[Mapping[str, Any]]) -> int:
    """What the steps of a run took, by what its lines say of a step since the line before; stops do not count."""
    steps = [0, *(line["step"] for line in lines)]
    passed = zip(pairwise(steps), lines, strict=True)
    return int(sum((to - at) * line["step_ms"] for (at, to), line in passed) / 1e3)


def _mean(events: Sequence[Mapping[str, Any]], name: str) -> str:
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
    parser = Parser("icon-dist paper", __doc__.splitlines()[0])
    add = parser.add_argument
    text = "rows (T5.skcc) or tables (T5); again = resume"
    add("--run", nargs="+", action="extend", default=[], metavar="ID", help=text)
    text = "run them on this preset; default: the first that the paper has"
    add("--cfg", action=Once, metavar="NAME|PATH", help=text)
    add("--seeds", type=at_least(0), nargs="+", action="extend", metavar="N", help="seeds to run; default 0")
    add("--record", type=Path, metavar="FILE.csv", help="append the figures here and skip the runs that it holds")
    text = "more overrides; @ID is the run of another row"
    add("--set", nargs="+", action="extend", default=[], metavar="a.b=c", help=text)
    add("--jobs", type=at_least(1), action=Once, metavar="N", help="runs at a time; default 1")
    add("--dry-run", action="store_true", help="print the commands that --run would start, and leave")
    add("--commands", nargs="*", metavar="ID", help="list these rows, or all, with the command of every measurement")
    add("--markdown", action="store_true", help="print what was measured as tables")
    args = parser.parse_args(argv)
    titles, recipes = read_recipes()
    if args.run and (args.commands is not None or args.markdown):
        raise ConfigError("--commands, --markdown: list what was measured; see what --run would start with --dry-run")
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
    if args.record and not args.record.exists():
        raise ConfigError(f"--record {args.record}: no such file; icon-dist paper --run ID --record FILE.csv makes one")
    results = read_results(args.record or RESULTS)
    chosen = select(args.commands, recipes, option="--commands") if args.commands else [*recipes.values()]
    commands = args.commands is not None
    say(markdown(recipes, results) if args.markdown else listing(titles, chosen, results, commands=commands))


def _run_rows(args: Namespace, recipes: dict[str, Recipe]) -> None:
    """Run the chosen rows, or print their commands, but for those that ``--record`` holds already."""
    from icon_dist import config as configuration
    from icon_dist.shards.synthetic import draw_missing

    if args.record:
        storage.require_place(str(args.record.absolute()))
    path = args.cfg is not None and args.cfg.endswith((".yaml", ".yml"))
    given = str(Path(args.cfg)) if path else args.cfg  # ./mine.yaml and mine.yaml are one preset, and one record
    rows = [(recipe, preset_of(recipe, given)) for recipe in select(args.run, recipes)]
    _judge_own(args.set, [recipe for recipe, _ in rows])
    runs = [Run(recipe, cfg, seed, args.set) for seed in dict.fromkeys(args.seeds or [0]) for recipe, cfg in rows]
    known = read_results(args.record) if args.record else []
    every = {one.name: one for run in runs for one in (*run.recorded(known), run)}  # and what these are averaged with
    configs = {name: configuration.load(one.cfg, one.overrides) for name, one in every.items()}  # mistakes first
    todo = []
    for run in runs:
        if any(one.seed == run.seed for one in run.recorded(known)):
            kept = _folder(configs[run.name], run.name)
            here = storage.exists(storage.join(kept, "config.yaml"))
            tell(f"{run.name} is recorded already" + ("" if here else f"; its run is not here: {kept}"))
        else:
            todo.append(run)
    if args.dry_run:
        for run in todo:
            say(shlex.join(["icon-dist", "train", *run.command[2:]]))
        return

    for run in todo:
        if not configs[run.name].data.val:
            raise ConfigError(f"{run.cfg}: has no data.val, so there would be no score to record; set data.val")
    _require_same_values(configs, todo)
    _require_starts(todo, configs, recipes)
    _require_same_starts([*every.values()], configs)
    for run in todo:
        draw_missing(configs[run.name].data)

    def done(run: Run) -> None:
        results = figures(run, configs[run.name])
        scores = ", ".join(f"{result.metric} {result.percent:.2f}" for result in results)
        say(f"{run.recipe.id} on {run.cfg}, seed {run.seed}: {scores}")
        if args.record:
            append_results(args.record, results)

    train_all(todo, jobs=args.jobs or 1, done=done)


def _folder(config: Config, name: str) -> str:
    """Where the run ``name`` stands beside that of ``config``; without torch, which ``run_directory`` brings."""
    return storage.join(storage.absolute(config.run.dir), name)


def _judge_own(given: Sequence[str], recipes: Sequence[Recipe]) -> None:
    """ConfigError of ``--set`` where a run would not get it; a note where a row is then no longer what it is called."""
    for item in given:
        key, _, value = item.partition("=")
        if key == "run.seed":
            raise ConfigError(f"--set {item}: the seeds of rows are given with --seeds")
        if key == "run.name":
            raise ConfigError(f"--set {item}: rows name their runs, PRESET-ID-sSEED; set run.dir for another folder")
        for recipe in recipes:
            if key in recipe.changes and value != (own := written(recipe.changes[key])):
                note(f"{recipe.id}, {recipe.what}: --set {item} replaces the row's own {key}={own}")


def _require_starts(runs: Sequence[Run], configs: Mapping[str, Config], recipes: Mapping[str, Recipe]) -> None:
    """Refuse runs whose ``@ID`` is neither among them nor there and over."""
    from icon_dist.reports.runs import read_runs

    here = {run.name for run in runs}
    for run in runs:
        for row, start in run.starts_from.items():
            if row not in recipes:
                like = did_you_mean(row, sorted(recipes))
                raise ConfigError(f"@{row}: no such row{like}; icon-dist paper lists them")
            if start in here:
                continue
            place = _folder(configs[run.name], start)
            if not storage.exists(place):
                raise ConfigError(f"{run.name}: @{row} is {place}, which is not there; run {row} first")
            (found,) = read_runs([place])
            if found.epoch < (epochs := found.config.optim.epochs):
                stands = f"stands at epoch {found.epoch:.3g} of {epochs}"
                fix = "bring it to its end first, or set its folder instead"
                raise ConfigError(f"{run.name}: @{row} is {place}, which {stands}; {fix}")


def _require_same_starts(runs: Sequence[Run], configs: Mapping[str, Config]) -> None:
    """Refuse seeds of a row that start from runs of other values: they would be averaged."""
    from icon_dist import config as configuration
    from icon_dist.reports.run_groups import SEEDED
    from icon_dist.reports.runs import trained_with

    first: dict[tuple[str, str], tuple[str, Config]] = {}
    for run in runs:
        for row, start in run.starts_from.items():
            place = _folder(configs[run.name], start)
            with suppress(CheckpointError):  # it is trained with the others, gone, or of another version
                before, values = first.setdefault((run.recipe.id, row), (place, trained_with(place)))
                changed = configuration.changes(values, trained_with(place))
                if changed := [one for one in changed if not one.startswith(("run.seed=", *SEEDED))]:
                    text = f"was trained with other values than {before}: {', '.join(changed)}"
                    raise ConfigError(f"{run.name}: its @{row}, {place}, {text}; add run.dir=DIR to --set")


def _require_same_values(configs: Mapping[str, Config], todo: Sequence[Run]) -> None:
    """Refuse runs that were trained with other values: their scores would count as those of these ``configs``.

    The name of a row's run does not depend on ``--set``, nor on what a preset says today. Runs that are recorded, and
    not ``todo``, may be gone, or of another version.
    """
    from icon_dist import config as configuration
    from icon_dist.reports.runs import trained_with
    from icon_dist.training import precision
    from icon_dist.training.driver import anchored
    from icon_dist.training.loop import run_directory

    errors: list[IconError] = []
    for name, config in configs.items():
        run = run_directory(config)
        unread = () if any(one.name == name for one in todo) else (CheckpointError,)
        with gathering(errors), suppress(*unread):
            if not storage.exists(storage.join(run, "config.yaml")):
                continue
            before = trained_with(run)
            changed = configuration.changes(before, anchored(config))
            if changed := [*changed, *precision.changed(before.run, config.run)]:
                raise ConfigError(
                    f"{run}: was trained with other values: {', '.join(changed)}; add run.dir=DIR to --set"
                )
    raise_all(errors)


if __name__ == "__main__":
    run_cli(main)
