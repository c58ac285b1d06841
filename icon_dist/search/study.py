"""A search from beginning to end: check, run, repeat over seeds, write what was found."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import optuna
import ray
from optuna.distributions import BaseDistribution

from icon_dist import config as configuration
from icon_dist.config import Config, sets_of
from icon_dist.datasets import skeleton_from_dict
from icon_dist.datasets.merged_skeleton import merged
from icon_dist.errors import ConfigError, DataError, IconError, note, plural, say, tell
from icon_dist.launch.connect import connect
from icon_dist.launch.signals import RESUMABLE
from icon_dist.search import capacity, results
from icon_dist.search.capacity import Need
from icon_dist.search.early_stopping import first_rung
from icon_dist.search.journal import NAME, Journal, fail_running, finished, open_study, requeue
from icon_dist.search.journal_lines import RESTORE
from icon_dist.search.outputs import publish
from icon_dist.search.progress import Screen
from icon_dist.search.ray_tune import KilledError, Series, Setup, tune_trials
from icon_dist.search.space import (
    Space,
    at_point,
    contains,
    distributions,
    fit,
    point_of,
    require_trainable,
    with_values,
)
from icon_dist.search.spaces import Search
from icon_dist.shards.manifest import read_manifest
from icon_dist.shards.synthetic import draw_missing
from icon_dist.training import precision
from icon_dist.training.driver import anchored, require_lasting
from icon_dist.training.setup import open_data, starts
from icon_dist.training.validation import headlines
from icon_dist.types import Skeleton

REPEATS = "confirm"  # name of the study that repeats the best of "sweep"
REPEATED = "confirm-"  # begins the names of its runs


@dataclass(frozen=True)
class Goal:
    """How far a search goes, and with how much at a time."""

    trials: int  # finished ones, in the end
    confirm: int = 0  # seeds over which the best, the first point and no contrast are repeated
    cost: bool = False  # search for high scores and short steps at once
    workers: int = 1  # of a trial
    gpus: int | None = None  # of a worker; None = ``run.gpus_per_worker``
    max_concurrent: int = 0  # trials at a time; 0 = as many as fit


def run_search(search: Search, cfg: Config, goal: Goal, *, study: str, own: Mapping[str, str] | None = None) -> None:
    """Bring the study at the folder ``study`` (path or s3://) to its goal; again = go on.

    The search's first point is tried first, the config's own second; ``own`` are the values that the user set himself
    (:func:`icon_dist.config.load_own`). Writes best.yaml, sweep.html and trials.csv.
    """
    trials, confirm = goal.trials, goal.confirm
    gpus = cfg.run.gpus_per_worker if goal.gpus is None else goal.gpus
    need = Need(goal.workers, cfg.run.cpus_per_worker, gpus)
    base = _base(cfg, need)
    require_lasting("--study", study)
    if not base.data.val:
        raise ConfigError("data.val is empty: a search needs shards to score on; give data.val=URI")
    distributions(search.space, base)  # what is wrong with it in itself comes first
    notes = configuration.check_short_run(base, own or {})
    if cfg.run.report:
        notes.append("run.report: services are not told of trials; sweep.html and their TensorBoard files show them")
    draw_missing(base.data)
    space, first, changes, unfit = fit(search.space, search.first, base, _skeleton(base))
    base, cfg = at_point(base, changes), at_point(anchored(cfg), changes)
    choices = distributions(space, base)
    first = first_point(first, space, base)
    metric, sets, unusual = _require_runnable(space, base, own or {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Journal(study) as journal, contextlib.ExitStack() as stack:
        cluster, at_once = _cluster(need, base, most=goal.max_concurrent), 0
        if not journal.studies():  # nothing is written of a search that has no room
            at_once = stack.enter_context(cluster)
        for text in (*notes, *unfit, *unusual):
            note(text)
        about = {
            "space": str(dict(space)),
            "objectives": " ".join([metric, "step_ms"][: 1 + goal.cost]),
            "shards": sets,
        }
        sweep = _open_sweep(journal, space, choices, base, first=first, about=about)
        repeats = None
        if confirm or REPEATS in journal.studies():  # what was confirmed once counts, whatever is asked for now
            repeats = open_repeats(journal)

        def to_confirm() -> int:
            """Runs that are left, once the search itself is done."""
            if not confirm or repeats is None:
                return 0
            enqueue_repeats(repeats, results.rows(sweep), first=first, seeds=confirm, base=base)
            journal.push()
            return len(repeats.get_trials(deepcopy=False)) - len(finished(repeats))

        def write() -> list[str]:
            return publish(journal, sweep, repeats, config=cfg, space=space, metric=metric)

        done = len(finished(sweep))
        if not at_once and (done < trials or to_confirm()):
            at_once = stack.enter_context(cluster)
        screen = Screen(metric=metric, trials=trials, done=done, epochs=base.optim.epochs)
        for row in results.ranking(results.rows(sweep)):
            screen.best(row.score or 0.0, row.number)
        rung = base.optim.epochs if goal.cost else first_rung(base)  # a front of score and cost needs whole runs
        early = f"weak ones are stopped from epoch {rung} on" if rung < base.optim.epochs else "none is stopped early"
        now = f"{done} of {plural(trials, 'trial')} done; {min(at_once, trials - done)} at a time, each {need}; {early}"
        if done >= trials:
            now = f"{plural(done, 'trial')} done already; a larger --trials asks for more"
        screen.say(f"{journal.uri}: {now}")
        setup = Setup(journal, base, metric, need, at_once, write)
        try:
            _tune(Series(sweep, choices, rung, "", screen), setup, goal=trials)
            if (left := to_confirm()) and repeats is not None:
                runs, whole = len(repeats.get_trials(deepcopy=False)), base.optim.epochs  # nobody is stopped early
                screen = Screen(metric=metric, trials=runs, done=runs - left, epochs=whole)
                screen.say(f"{plural(left, 'run')} to confirm the best over {plural(confirm, 'seed')}")
                _tune(Series(repeats, {}, whole, REPEATED, screen), setup, goal=runs)
        finally:
            for one in (sweep, repeats):
                if one is not None:
                    requeue(one, journal)
            lines = write()
        say("\n".join(lines))
        if not results.ranking(results.rows(sweep)):
            raise IconError(f"{journal.at('trials.csv')}: no trial has trained to its end; the last column says why")


def first_point(first: Mapping[str, Any], space: Space, base: Config) -> Mapping[str, Any]:
    """What a search begins with and is compared with: of one that names no point, the config's own values.

    Empty where these are not in the space.
    """
    own = point_of(base, space)
    return first or (own if contains(space, own) else {})


def _tune(series: Series, setup: Setup, *, goal: int) -> None:
    """Bring a study to ``goal`` finished trials, with fewer at a time where memory is short."""
    while (left := goal - len(finished(series.study))) > 0:
        try:
            tune_trials(series, setup, count=left)
            return
        except KilledError:
            ray.shutdown()  # with what the trials held
            connect()
        if setup.at_once > 1:
            setup = dataclasses.replace(setup, at_once=setup.at_once - 1)
            series.screen.lost(f"Ray killed a trial's process, out of memory; going on with {setup.at_once} at a time")
        else:
            series.screen.lost("Ray killed the trial's process, out of memory, and it was alone: it counts as failed")
            fail_running(series.study, "out of memory: its process was killed")
        requeue(series.study, setup.journal)


def _base(cfg: Config, need: Need) -> Config:
    """The config that all trials share."""
    launcher = "local" if need.inline else "ray"
    workers = {"run.launcher": launcher, "run.workers": need.workers, "run.gpus_per_worker": need.gpus}
    return with_values(anchored(cfg), workers)


@contextlib.contextmanager
def _cluster(need: Need, base: Config, *, most: int) -> Iterator[int]:
    """Ray, and how many trials it has room for at a time, at most ``most`` where that is not 0."""
    signal.signal(signal.SIGTERM, _preempted)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _preempted)
    address = os.environ.get("RAY_ADDRESS")
    tell(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine")
    try:
        connect()
        at_once = capacity.trials_at_once(need, base.run)
        yield min(at_once, most) if most else at_once
    except SystemExit:
        raise SystemExit(RESUMABLE) from None  # Ray makes a 1 of it where the signal finds it waiting
    finally:
        ray.shutdown()


def _preempted(number: int, _: FrameType | None) -> NoReturn:
    """Not an Exception: Ray Tune would take it for a trial's."""
    print(f"icon_dist: stopped by {signal.Signals(number).name}; the same command goes on", file=sys.stderr)
    raise SystemExit(RESUMABLE)


def _skeleton(base: Config) -> Skeleton:
    uris = sets_of(base.data.train)
    found = [skeleton_from_dict(read_manifest(uri)["skeleton"], source=f"{uri} skeleton") for uri in uris]
    return merged(found, names=uris)


def _require_runnable(space: Space, base: Config, own: Mapping[str, str]) -> tuple[str, str, list[str]]:
    """The metric that trials are compared by, the sets that they are trained and scored on, and notes.

    An error where no trial, or not every one, could train and be scored.
    """
    data = open_data(base, scorable=True)
    notes = configuration.check_short_run(base, own, steps=data.plan.total_steps)
    require_trainable(space, base, shards=data.shards)
    list(starts(base, data))  # raises what trials would
    sets = " ".join(one.index_sha256[:12] for one in (data.shards, *data.val))
    return headlines(data)[0], sets, [*notes, *data.plan.notes]


def _open_sweep(
    journal: Journal,
    space: Space,
    choices: Mapping[str, BaseDistribution],
    base: Config,
    *,
    first: Mapping[str, Any],
    about: dict[str, str],
) -> optuna.Study:
    """The study, new with its first points in the queue, or as it was left."""
    directions = ["maximize", "minimize"][: len(about["objectives"].split())]
    sweep = open_study(journal, "sweep", directions=directions, seed=base.run.seed, about=about, space=choices)
    _require_same_config(sweep, base, journal)
    _require_same_first(sweep, first if contains(space, first) else {}, journal)
    if not sweep.get_trials(deepcopy=False):
        for label, point in ((results.FIRST, dict(first)), ("preset", point_of(base, space))):
            if contains(space, point) and (label == results.FIRST or point != first):
                sweep.enqueue_trial(point, user_attrs={"label": label})
        journal.push()
    return sweep


def open_repeats(journal: Journal) -> optuna.Study:
    """Open the study of repeats; DataError where one does not say what it repeats and with which seed."""
    about = {"of": "sweep"}
    repeats = open_study(journal, REPEATS, directions=["maximize"], seed=0, about=about, space={}, prefix=REPEATED)
    for trial in repeats.get_trials(deepcopy=False):
        attributes = trial.user_attrs
        if "of" not in attributes or type(attributes.get("set", {}).get("run.seed")) is not int:
            where = f"{journal.at(NAME)}: trial {trial.number} of {REPEATS}"
            raise DataError(f"{where}: does not say what it repeats; {RESTORE}")
    return repeats


def _require_same_config(sweep: optuna.Study, base: Config, journal: Journal) -> None:
    """Scores of another config cannot be compared with."""
    known = sweep.user_attrs.get("config")
    if known is None:
        sweep.set_user_attr("config", dataclasses.asdict(base))
        return
    try:
        before = configuration.from_dict(known)
    except ConfigError as error:
        raise DataError(f"{journal.at(NAME)}: config of study sweep: {error}; {RESTORE}") from None
    if changed := [*configuration.changes(before, base), *precision.changed(before.run, base.run)]:
        raise ConfigError(f"{journal.uri}: a study with another config: {', '.join(changed)}; give another --study")


def _require_same_first(sweep: optuna.Study, first: Mapping[str, Any], journal: Journal) -> None:
    """It is tried in the beginning alone, and repeats of another one are no more of it."""
    trials = sweep.get_trials(deepcopy=False)
    queued = next((trial for trial in trials if trial.user_attrs.get("label") == results.FIRST), None)
    tried = {} if queued is None else queued.params or queued.system_attrs.get("fixed_params", {})
    if trials and tried != first:
        text = f"a study whose first point is {tried or 'the preset'}, not {dict(first) or 'the preset'}"
        raise ConfigError(f"{journal.uri}: {text}; give another --study")


def enqueue_repeats(
    repeats: optuna.Study, found: list[results.Row], *, first: Mapping[str, Any], seeds: int, base: Config
) -> None:
    """The best trials, the first point and no contrast, with seeds that the search has not used; each once."""
    points = {f"trial {row.number}": dict(row.values) for row in results.ranking(found)[: results.REPEATED]}
    points = {label: point for label, point in points.items() if point != first}
    points |= {results.FIRST: dict(first), "no contrast": {"loss.lambda_p": 0.0}}
    there = [{name: t.user_attrs[name] for name in ("of", "set")} for t in repeats.get_trials(deepcopy=False)]
    for seed in range(base.run.seed + 1, base.run.seed + 1 + seeds):
        for label, point in points.items():
            attributes = {"of": label, "set": point | {"run.seed": seed}}
            if attributes not in there:
                repeats.enqueue_trial({}, user_attrs=attributes)
