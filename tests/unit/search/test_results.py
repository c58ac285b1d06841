"""Statistics against the textbook, choices against plain loops."""

from __future__ import annotations

import csv
import io
import itertools
import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from icon_dist import config as configuration
from icon_dist.metrics.intervals import difference
from icon_dist.search.early_stopping import first_rung
from icon_dist.search.outputs import choose
from icon_dist.search.results import ENOUGH, Confirmed, Row, confirmed, front, importances, ranking, to_csv, unconfirmed


def row(number: int, score: float | None, *, state: str = "complete", step_ms: float = 1.0, **more: Any) -> Row:
    values = {"label": "", "epoch": 1, "seconds": 1.0, "values": {"loss.tau": number}, "run": "", "why": ""} | more
    return Row(number=number, score=score, state=state, step_ms=step_ms, **values)


def test_a_gain_is_of_differences_seed_by_seed() -> None:
    """Seeds differ by ten points and the gain not at all: its interval is small."""
    one = Confirmed("a", {}, {1: 51.0, 2: 61.2, 3: 70.8})
    other = Confirmed("first point", {}, {3: 70.0, 1: 50.0, 2: 60.0})
    gain = difference(one.scores, other.scores)
    assert gain.mean == pytest.approx(1.0)
    assert gain.half_width == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert gain.half_width < one.half_width / 40


def test_only_whole_runs_are_ranked() -> None:
    found = [row(0, 1.0), row(1, 9.0, state="stopped"), row(2, 3.0), row(3, None, state="failed"), row(4, 3.0)]
    assert [r.number for r in ranking(found)] == [2, 4, 0]


def test_the_front_is_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    found = [row(i, float(s), step_ms=float(t)) for i, (s, t) in enumerate(rng.integers(1, 9, (40, 2)))]
    for r in found:
        assert r.score is not None

    def beaten(a: Row) -> bool:
        assert a.score is not None
        assert a.step_ms is not None
        return any(
            b.score >= a.score and b.step_ms <= a.step_ms and (b.score, b.step_ms) != (a.score, a.step_ms)
            for b in found
            if b.score is not None and b.step_ms is not None
        )

    expected = {(r.score, r.step_ms) for r in found if not beaten(r)}
    line = front(found)
    assert {(r.score, r.step_ms) for r in line} == expected
    assert all((a.score or 0) < (b.score or 0) for a, b in itertools.pairwise(line))


def test_the_best_is_confirmed_before_it_is_believed() -> None:
    found = [row(0, 50.0, label="first point"), row(1, 60.0)]
    values, why = choose(found, [], metric="AP") or ({}, [])
    assert values == {"loss.tau": 1}
    assert "one seed" in why[0]
    lucky = Confirmed("trial 1", {"loss.tau": 1}, {1: 48.0, 2: 49.0})
    paper = Confirmed("first point", {"loss.tau": 0}, {1: 50.0, 2: 50.5})
    values, why = choose(found, [paper, lucky], metric="AP") or ({}, [])
    assert values == {"loss.tau": 0}
    assert why[0].startswith("first point: AP 50.25 ± ")
    none = Confirmed("no contrast", {"loss.lambda_p": 0.0}, {1: 40.0, 2: 40.4})
    _, why = choose(found, [lucky, paper, none], metric="AP") or ({}, [])
    assert [line.endswith(", which may be chance") for line in why] == [False, True, False]
    assert choose([row(0, None, state="failed")], [], metric="AP") is None
    single = [Confirmed(label, {}, {1: score}) for label, score in (("trial 1", 50.0), ("first point", 49.0))]
    _, why = choose(found, single, metric="AP") or ({}, [])  # of one seed there is no interval
    assert why == ["trial 1: AP 50.00 over 1 seed", "gain over the first point: +1.00, which may be chance"]


def test_what_is_not_confirmed_is_told() -> None:
    """A point one of whose repeats has failed has no mean over all seeds, and is not left out in silence."""
    repeats = optuna.create_study(direction="maximize")
    for label, seed, score in (
        ("trial 3", 1, 70.0),
        ("first point", 1, 60.0),
        ("trial 3", 2, None),
        ("first point", 2, 61.0),
    ):
        trial = repeats.ask()
        for name, value in (("of", label), ("set", {"run.seed": seed}), ("ended", "complete" if score else "diverged")):
            trial.set_user_attr(name, value)
        repeats.tell(trial, score, state=TrialState.COMPLETE if score else TrialState.PRUNED)
    assert [point.label for point in confirmed(repeats)] == ["first point"]
    assert unconfirmed(repeats) == ["not counted: trial 3, whose run with seed 2 diverged"]
    assert unconfirmed(None) == []


def test_what_makes_a_trial_good_is_not_what_makes_it_bad() -> None:
    """The high end of ``tau`` alone makes the best quarter, the high end of ``lambda_1`` the worst."""
    space = {key: FloatDistribution(0.0, 1.0) for key in ("loss.tau", "loss.lambda_1")}
    study = optuna.create_study(direction="maximize")
    for tau, lambda_1 in itertools.product(np.linspace(0.0, 1.0, 8).tolist(), repeat=2):
        point = {"loss.tau": tau, "loss.lambda_1": lambda_1}
        value = 10.0 * (tau > 0.8) - 5.0 * (lambda_1 > 0.8) + 0.1 * lambda_1 * (tau <= 0.8)
        study.add_trial(optuna.trial.create_trial(params=point, distributions=space, value=value))
        if len(study.trials) == ENOUGH - 1:
            assert importances(study) == {}
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["loss.tau"] > 0.8


def test_csv_has_a_column_for_every_key() -> None:
    found = [row(0, 1.0), row(1, None, state="failed", values={"loss.tau": 1, "loss.points": 4}, why="out, of memory")]
    table = list(csv.DictReader(io.StringIO(to_csv(found, metric="AP").decode())))
    assert [(t["trial"], t["AP"], t["loss.points"], t["why"]) for t in table] == [
        ("0", "1.0", "", ""),
        ("1", "", "4", "out, of memory"),
    ]


@pytest.mark.parametrize(
    ("start", "ramp", "every", "rung"), [(0, 0, 1, 1), (0, 0, 5, 5), (6, 2, 1, 9), (6, 2, 5, 10), (8, 4, 5, 15)]
)
def test_nobody_is_stopped_before_contrast_had_its_say(start: int, ramp: int, every: int, rung: int) -> None:
    config = configuration.load(
        "demo", [f"loss.start_epoch={start}", f"loss.ramp_epochs={ramp}", f"eval.every={every}"]
    )
    assert first_rung(config) == rung
