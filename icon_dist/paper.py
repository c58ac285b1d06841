"""The paper's tables as runs: ``icon-dist paper`` lists every row, ``--run ID`` launches it.

A row is what to set on top of a preset (``reports/paper_tables.yaml``), so that the same row runs on other data
with ``--cfg``. Runs are repeated over seeds and their figures appended to a CSV file; what is in it already is not run
again.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_dist import __version__, storage
from icon_dist.arguments import Once, Parser, at_least, did_you_mean
from icon_dist.cli import run_cli
from icon_dist.errors import ConfigError, DataError, say, tell
from icon_dist.reports.paper_tables import (
    DIAGNOSTICS,
    Recipe,
    Result,
    append_result,
    listing,
    markdown,
    read_recipes,
    read_results,
)
from icon_dist.storage import segments

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


def run(recipe: Recipe, cfg: str, *, seed: int, extra: Sequence[str]) -> Result:
    """Train it, or go on with it, and read its figures."""
    import torch

    from icon_dist import config as configuration
    from icon_dist.training.loop import run_directory

    given, command = overrides(recipe, cfg, seed=seed, extra=extra), command_of(recipe, cfg, seed=seed, extra=extra)
    say(f"\n$ python {shlex.join(command)}")
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    run_uri = run_directory(configuration.load(cfg, given))
    log = storage.join(run_uri, "metrics.jsonl")
    try:
        events = [json.loads(line) for line in segments.read(log).splitlines()]
    except ValueError:
        raise DataError(f"{log}: a line of it is damaged; resume the run, which leaves it out") from None
    scored = [e for e in events if e["kind"] == "eval"]
    if not scored:
        raise ConfigError(f"{cfg}: has no data.val, so there is no score to record")
    last = scored[-1]
    late = [e for e in events if e["kind"] == "train" and e["epoch"] > last["epoch"] - 1]
    return Result(
        recipe=recipe.id,
        cfg=cfg,
        overrides=shlex.join(extra),
        seed=seed,
        metric=last["headline"],
        score=last["scores"][last["headline"]],
        steps=last["step"],
        seconds=round(time.monotonic() - started),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        commit=_commit(),
        command=f"python {shlex.join(command)}",
        **{name: _mean(late, name) for name in DIAGNOSTICS},
    )


def command_of(recipe: Recipe, cfg: str, *, seed: int, extra: Sequence[str]) -> list[str]:
    """The words behind ``python`` that train it."""
    return ["-m", "icon_dist.train", "--cfg", cfg, *overrides(recipe, cfg, seed=seed, extra=extra)]


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
    if unused := [f"--{name.replace('_', '-')}" for name in ("cfg", "seeds", "set", "dry_run") if getattr(args, name)]:
        raise ConfigError(f"{', '.join(unused)}: nothing is run; name rows or tables with --run ID")
    results = read_results(args.record or RESULTS)
    chosen = select(args.commands, recipes, option="--commands") if args.commands else [*recipes.values()]
    commands = args.commands is not None
    say(markdown(recipes, results) if args.markdown else listing(titles, chosen, results, commands=commands))


def _run_rows(args: Namespace, recipes: dict[str, Recipe]) -> None:
    """Run the chosen rows in turn, or print their commands, but for those that ``--record`` holds already."""
    from icon_dist import config as configuration

    if args.record:
        storage.require_place(str(args.record.absolute()))
    chosen = select(args.run, recipes)
    todo = [(recipe, preset_of(recipe, args.cfg), seed) for seed in args.seeds or [0] for recipe in chosen]
    for recipe, cfg, seed in todo:
        configuration.load(cfg, overrides(recipe, cfg, seed=seed, extra=args.set))  # mistakes show before the first run
    for recipe, cfg, seed in todo:
        key = (recipe.id, cfg, shlex.join(args.set), seed)
        if args.record and any((r.recipe, r.cfg, r.overrides, r.seed) == key for r in read_results(args.record)):
            tell(f"{run_name(recipe.id, cfg, seed)} is recorded already")
            continue
        if args.dry_run:
            _, _, *words = command_of(recipe, cfg, seed=seed, extra=args.set)  # of python -m icon_dist.train
            say(shlex.join(["icon-dist", "train", *words]))
            continue
        result = run(recipe, cfg, seed=seed, extra=args.set)
        say(f"{recipe.id} on {cfg}, seed {seed}: {result.metric} {result.score:.2f}")
        if args.record:
            append_result(args.record, result)


if __name__ == "__main__":
    run_cli(main)
