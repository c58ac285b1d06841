"""What a study leaves beside its journal: best.yaml, sweep.html and trials.csv, written again after every trial."""

from __future__ import annotations

import functools
import math
import re

import optuna

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.config import Config
from icon_dist.errors import plural
from icon_dist.metrics.intervals import difference
from icon_dist.search import results
from icon_dist.search.journal import Journal
from icon_dist.search.page import page
from icon_dist.search.space import Space, at_point, text


def publish(
    journal: Journal,
    sweep: optuna.Study,
    repeats: optuna.Study | None,
    *,
    config: Config,
    space: Space,
    metric: str,
) -> list[str]:
    """Write them; return the lines to print."""
    found, repeated = results.rows(sweep), results.rows(repeats, prefix="confirm-") if repeats is not None else []
    confirmed = results.confirmed(repeats)
    lines, names = [], ["sweep.html", "trials.csv"]
    chosen = choose(found, confirmed, metric=metric)
    if chosen is not None:
        values, why = chosen
        lines = [
            *why,
            *results.unconfirmed(repeats),
            "  ".join(f"{key}={text(value)}" for key, value in values.items()),
        ]
        comments = [*lines, "icon-dist train --cfg " + journal.at("best.yaml")]
        head = "".join(f"# {line}\n" for line in comments)
        best = _best(config, tuple({**values, "run.name": _run_name(journal.uri)}.items()))
        storage.write(journal.at("best.yaml"), (head + best).encode())
        names.insert(0, "best.yaml")
    storage.write(journal.at("trials.csv"), results.to_csv([*found, *repeated], metric=metric))
    html = page(
        found,
        confirmed,
        title=journal.uri.rsplit("/", 1)[-1],
        space=space,
        metric=metric,
        why=lines,
        importances=results.importances(sweep),
        cost=len(sweep.directions) > 1,
    )
    storage.write(journal.at("sweep.html"), html.encode())
    return [*lines, *(journal.at(name) for name in names)]


@functools.lru_cache(maxsize=1)  # few trials are the best so far, and all are published
def _best(config: Config, values: tuple[tuple[str, object], ...]) -> str:
    """The whole config with these values, as YAML."""
    return configuration.to_yaml(at_point(config, dict(values)))


def _run_name(study: str) -> str:
    """Of what ``best.yaml`` trains: the study's, so that two searches of one config do not share a run."""
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', study.rsplit('/', 1)[-1])[:100]}-best".lstrip("._-")


def _interval(mean: float, half_width: float, *, sign: str = "") -> str:
    """A mean with half of its interval; of one seed there is none."""
    return f"{mean:{sign}.2f}" + (f" ± {half_width:.2f} (95 %)" if math.isfinite(half_width) else "")


def choose(
    found: list[results.Row], confirmed: list[results.Confirmed], *, metric: str
) -> tuple[dict[str, object], list[str]] | None:
    """The values to train with and the reasons: the highest mean over seeds, or, unconfirmed, the highest score."""
    if confirmed:
        best = confirmed[0]
        seeds = plural(len(best.scores), "seed")
        why = [f"{best.label}: {metric} {_interval(best.mean, best.half_width)} over {seeds}"]
        for other in confirmed[1:]:
            if other.label in (results.FIRST, "no contrast"):
                gain = difference(best.scores, other.scores)
                name = f"the {results.FIRST}" if other.label == results.FIRST else "no contrast"
                doubt = "" if abs(gain.mean) > gain.half_width else ", which may be chance"
                why.append(f"gain over {name}: {_interval(gain.mean, gain.half_width, sign='+')}{doubt}")
        return dict(best.values), why
    ranked = results.ranking(found)
    if not ranked:
        return None
    row = ranked[0]
    why = [f"trial {row.number}: {metric} {row.score:.2f}, one seed, the best of {plural(len(ranked), 'whole run')}"]
    why.append("--confirm 3 repeats it over seeds, which one should before believing it")
    return dict(row.values), why
