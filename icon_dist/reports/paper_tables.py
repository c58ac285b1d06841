"""The paper's tables: what each row sets, its numbers, and what was measured here, as lists and as markdown."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from icon_dist import storage
from icon_dist.errors import ConfigError
from icon_dist.storage import local

TABLES = Path(__file__).with_suffix(".yaml")
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
    """One finished run on one set of ``data.val``, a row of the CSV file."""

    recipe: str
    cfg: str
    overrides: str  # beyond the recipe's own
    seed: int
    metric: str  # behind the name of its set where the run has several: val/AP
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

    @property
    def percent(self) -> float:
        """The score in percent, as the paper has AP too."""
        from icon_dist.types import percent  # with torch, which a list of rows does not wait for

        return percent(self.metric, self.score)


def read_recipes() -> tuple[dict[str, str], dict[str, Recipe]]:
    """Titles of the tables, and the rows by id, in the paper's order."""
    document = yaml.safe_load(TABLES.read_text())
    titles = {name: table["title"] for name, table in document["tables"].items()}
    rows = {name: Recipe(name, row["what"], row["set"], row.get("paper", {})) for name, row in document["rows"].items()}
    return titles, rows


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


def append_results(path: Path, results: Sequence[Result]) -> None:
    """The whole file again in one move: an interruption leaves the old one. Two commands may record in one file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([f.name for f in fields(Result)])
    with local.alone_in(path.absolute().parent):
        for row in [*read_results(path), *results]:
            writer.writerow([getattr(row, f.name) for f in fields(Result)])
        storage.write(str(path.absolute()), out.getvalue().encode())


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
            paper = "  ".join(f"{cfg} {figures(value)}".replace(" ", "\0") for cfg, value in recipe.paper.items())
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
                by_setting.setdefault(r.overrides, []).append(r.percent)
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
        line = f"icon-dist paper --run {recipe.id} --cfg {shlex.quote(cfg)} --seeds {seeds}" + (
            f" --set {given}" if given else ""
        )
        scores = [
            f"{name} {spread([r.percent for r in own if r.metric == name])}"
            for name in dict.fromkeys(r.metric for r in own)
        ]
        yield f"{line}  # {', '.join(scores)}"
    if not results:
        yield f"icon-dist paper --run {recipe.id}" + ("" if recipe.paper else " --cfg NAME")


def figures(value: Any) -> str:
    """Return what the paper gives for a row, one number or several, as the list shows it."""
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
                score = spread([r.percent for r in rows])
                lines.append(f"| `{recipe.id}` {recipe.what} | {score} | {' | '.join(health)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _average(values: list[str]) -> str:
    found = [float(v) for v in values if v]
    return f"{statistics.fmean(found):.2f}" if found else ""
