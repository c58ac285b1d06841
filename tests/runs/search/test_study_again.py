"""A sweep that is started again: what is left to do, and on what. Its trials are made up, and so is Ray."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icon_dist.errors import ConfigError
from icon_dist.search import capacity, study
from icon_dist.search.ray_tune import Series, Setup
from icon_dist.search.spaces import read_search
from icon_dist.search.study import Goal, run_search
from tests.support.training import tiny


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many trials and repeats each start of Ray has run."""
    counts: list[int] = []

    def run(series: Series, setup: Setup, *, count: int) -> None:
        del setup
        for _ in range(count):
            counts[-1] += 1
            trial = series.study.ask(dict(series.space))
            for name, value in {"ended": "complete", "epoch": 2, "score": 0.5}.items():
                trial.set_user_attr(name, value)
            series.study.tell(trial, 0.5)

    monkeypatch.setattr(study, "connect", lambda: counts.append(0))
    monkeypatch.setattr(study, "tune_trials", run)
    monkeypatch.setattr(capacity, "trials_at_once", lambda *_: 2)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield counts
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def sweep(people: Path, tmp_path: Path) -> Callable[..., None]:
    val = str(shutil.copytree(people / "val", tmp_path / "val"))

    def run(trials: int, *, confirm: int = 0, **changes: Any) -> None:
        cfg = tiny(people, tmp_path, data__val=val, **changes)
        run_search(read_search("lambdas"), cfg, Goal(trials, confirm=confirm), study=str(tmp_path / "study"))

    return run


def test_ray_is_started_for_what_is_left_alone(
    sweep: Callable[..., None], started: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(3)
    assert started == [3]
    first = capsys.readouterr().out
    sweep(3)
    sweep(2)
    assert started == [3]
    said = capsys.readouterr()
    assert said.out == 2 * first
    assert said.err.count("3 trials done already; a larger --trials asks for more") == 2
    sweep(4)
    assert started == [3, 1]
    sweep(4, confirm=2)
    points = started[2] // 2  # the first one, no contrast, and the best where these are others
    assert points in (3, 4, 5)
    sweep(4, confirm=2)
    assert started == [3, 1, 2 * points]
    sweep(4, confirm=3)
    assert started == [3, 1, 2 * points, points]


def test_another_config_and_other_people_are_another_study(
    sweep: Callable[..., None], started: list[int], people: Path, tmp_path: Path
) -> None:
    """Refused before Ray starts: scores of these cannot be compared."""
    sweep(1)
    with pytest.raises(ConfigError, match=r"a study with another config: optim.lr=0.5 \(was"):
        sweep(2, optim__lr=0.5)
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(people / "train", tmp_path / "val")
    with pytest.raises(ConfigError, match=r"a study with shards .*; give another --study"):
        sweep(2)
    assert started == [1]
