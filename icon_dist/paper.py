"""The paper's tables as runs: ``icon-dist paper`` lists every row, ``--run ID`` launches it.

A row is what to set on top of a preset (``paper.yaml``), so that the same row runs on other data with ``--cfg``.
Runs are repeated over seeds and their figures appended to a CSV file; what is in it already is not run again.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from icon_dist import __version__, storage
from icon_dist.arguments import Once, Parser, at_least, did_you_mean
from icon_dist.cli import run_cli
from icon_dist.errors import ConfigError, DataError, say, tell
from icon_dist.storage import local, segments

RECIPES = Path(__file__).parent / "paper.yaml"
RESULTS = Path(__file__).parents[1] / "results/cpu.csv"  # of a checkout; the installed package brings none
WIDTH = 100  # columns of the list
DIAGNOSTICS = ("gradient_ratio", "purity", "cosine", "over_chance")  # averaged over the last epoch


@dataclass(frozen=True)
class Recipe:
    """One row of a table."""

    id: str  # TABLE.row
    what: str
    changes: Mapping[str, Any]  # dotted keys over a preset; "@ID" = that recipe's run with the same preset and seed
    paper: Mapping[str, Any]  # preset -> the paper's number, or its list of numbers

    @property
    def table(self) -> str:
        """The table that the row belongs to, the part of its id before the first dot."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Result:
    """One finished run, a row of the CSV file."""

    recipe: str
    cfg: str
    overrides: str  # beyond the recipe's own
    seed: int
    metric: str
    score: float
    gradient_ratio: str  # empty without contrast
    purity: str
    cosine: str
    over_chance: str
    steps: int
    seconds: int
    device: str
    commit: str
    command: str


def read_recipes() -> tuple[dict[str, str], dict[str, Recipe]]:
    """Titles of the tables, and the rows by id, in the paper's order."""
    document = yaml.safe_load(RECIPES.read_text())
    titles = {name: table["title"] for name, table in document["tables"].items()}
    rows = {name: Recipe(name, row["what"], row["set"], row.get("paper", {})) for name, row in document["rows"].items()}
    return titles, rows


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


def read_results(path: Path) -> list[Result]:
    """Return the finished runs in the CSV file ``path``, in its order; none if there is no such file.

    Raises ConfigError if the file cannot be read or is no such table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return [_result(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a CSV file of results") from None
    except (TypeError, KeyError, ValueError, csv.Error):
        names = ",".join(f.name for f in fields(Result))
        raise ConfigError(f"{path}: not a table of results; its first line must be {names}") from None


def _result(row: Mapping[str, Any]) -> Result:
    numbers = {name: int(row[name]) for name in ("seed", "steps", "seconds")} | {"score": float(row["score"])}
    return Result(**{**row, **numbers})


def append_result(path: Path, result: Result) -> None:
    """The whole file again in one move: an interruption leaves the old one. Two commands may record in one file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f.name for f in fields(Result)])
    with local.alone_in(path.absolute().parent):
        for row in [*read_results(path), result]:
            writer.writerow([getattr(row, f.name) for f in fields(Result)])
        storage.write(str(path.absolute()), out.getvalue().encode())


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


def spread(scores: Sequence[float]) -> str:
    """``71.2 ± 0.3 (3)``: mean, standard deviation over seeds, number of runs."""
    deviation = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.2f}{deviation} ({len(scores)})"


def listing(titles: dict[str, str], recipes: Sequence[Recipe], results: list[Result], *, commands: bool) -> str:
    """Every row: what it is, the paper's numbers by preset, what was measured; and the ``commands`` that give it."""
    lines: list[str] = []
    for table, title in titles.items():
        rows = [r for r in recipes if r.table == table]
        lines += [""] * bool(lines and rows) + textwrap.wrap(f"{table}  {title}", WIDTH) * bool(rows)
        for recipe in rows:
            own = [r for r in results if r.recipe == recipe.id]
            paper = "  ".join(f"{cfg} {_figures(value)}".replace(" ", "\0") for cfg, value in recipe.paper.items())
            start = f"  {recipe.id:<22}{recipe.what:<26}"
            wrapped = textwrap.wrap(start + paper, WIDTH, subsequent_indent=" " * 50, break_long_words=False)
            lines += [line.replace("\0", " ") for line in wrapped or [start.rstrip()]]
            lines += [f"{'':<24}{line}" for line in measured(own)]
            if commands:
                lines += [f"      $ {line}" for line in _commands(recipe, own)]
    return "\n".join(lines)


def measured(results: Sequence[Result]) -> list[str]:
    """What a row gave, a line for each preset and metric: with its spread, or its range if settings differ."""
    lines = []
    for cfg, metric in dict.fromkeys((r.cfg, r.metric) for r in results):
        by_setting: dict[str, list[float]] = {}
        for r in results:
            if (r.cfg, r.metric) == (cfg, metric):
                by_setting.setdefault(r.overrides, []).append(r.score)
        means = [statistics.fmean(scores) for scores in by_setting.values()]
        found = f"{min(means):.2f} to {max(means):.2f}, {len(means)} settings"
        if len(means) == 1:
            found = spread(next(iter(by_setting.values())))
        lines.append(f"measured: {cfg} {metric} {found}")
    return lines or ["not measured here"]


def _commands(recipe: Recipe, results: Sequence[Result]) -> Iterator[str]:
    """What to type for each setting that was measured, or for the paper's own."""
    for cfg, given in dict.fromkeys((r.cfg, r.overrides) for r in results):
        own = [r for r in results if (r.cfg, r.overrides) == (cfg, given)]
        seeds = " ".join(str(seed) for seed in sorted({r.seed for r in own}))
        line = f"icon-dist paper --run {recipe.id} --cfg {cfg} --seeds {seeds}" + (f" --set {given}" if given else "")
        yield f"{line}  # {own[0].metric} {spread([r.score for r in own])}"
    if not results:
        yield f"icon-dist paper --run {recipe.id}" + ("" if recipe.paper else " --cfg NAME")


def _figures(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(recipes: dict[str, Recipe], results: list[Result]) -> str:
    """What was measured, a table for each preset and what was set on it: for README."""
    blocks = []
    for place in dict.fromkeys((r.cfg, r.overrides, r.metric) for r in results):
        own = [r for r in results if (r.cfg, r.overrides, r.metric) == place]
        cfg, given, metric = place
        where = f"--cfg {cfg} --set {given}" if given else f"--cfg {cfg}"
        lines = [f"| `{where}` | {metric} | gradient ratio | purity | cosine |", "|---|---|---|---|---|"]
        for recipe in recipes.values():
            rows = [r for r in own if r.recipe == recipe.id]
            if rows:
                health = [_average([getattr(r, name) for r in rows]) for name in DIAGNOSTICS[:3]]
                score = spread([r.score for r in rows])
                lines.append(f"| `{recipe.id}` {recipe.what} | {score} | {' | '.join(health)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _average(values: list[str]) -> str:
    found = [float(v) for v in values if v]
    return f"{statistics.fmean(found):.2f}" if found else ""


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
    if not args.run:
        if unused := [
            f"--{name.replace('_', '-')}" for name in ("cfg", "seeds", "set", "dry_run") if getattr(args, name)
        ]:
            raise ConfigError(f"{', '.join(unused)}: nothing is run; name rows or tables with --run ID")
        results = read_results(args.record or RESULTS)
        chosen = select(args.commands, recipes, option="--commands") if args.commands else [*recipes.values()]
        commands = args.commands is not None
        say(markdown(recipes, results) if args.markdown else listing(titles, chosen, results, commands=commands))
        return

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
