"""A run directory that cannot be written for a while does not end the training it tells of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icon_dist.errors import DivergedError, StorageError
from icon_dist.loggers import logger as module
from icon_dist.loggers.events import Eval, Saving, Start
from icon_dist.loggers.logger import Logger
from icon_dist.storage import lock
from tests.support.progress import Clock, train


def evaluation(step: int) -> Eval:
    return Eval(step, 1, "", ("AP",), {"AP": 0.5})


def test_metrics_wait_for_storage_to_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = tmp_path / "metrics.jsonl"
    logger = Logger(str(tmp_path))
    logger(Start(0, 9))
    metrics.mkdir()  # in the way
    logger(evaluation(1))
    assert "warning: metrics are not written" in capsys.readouterr().err
    with pytest.raises(StorageError):  # at the very end it is an error
        logger.flush()
    metrics.rmdir()
    logger(evaluation(2))
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]
    logger.close()


def test_an_outage_does_not_cost_most_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of a second beside a store that gives up after a minute: an attempt in ten minutes."""
    clock, attempts = Clock(), 0

    def away(_: str) -> None:
        nonlocal attempts
        attempts += 1
        clock.now += 62.0
        raise StorageError("does not answer")

    with monkeypatch.context() as outage:
        outage.setattr(module, "time", clock)
        logger = Logger(str(tmp_path))
        logger(Start(0, 9999))
        outage.setattr(lock, "require", away)
        for step in range(1, 3600):
            clock.now += 1.0
            logger(train(step))
            logger(Saving())
    assert attempts == capsys.readouterr().err.count("warning: metrics are not written") == 6
    logger(evaluation(3600))
    logger.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3600


def test_what_ended_a_run_is_what_is_said_and_not_that_its_metrics_are_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *, ended_by: Exception | None) -> None:
        with Logger(str(tmp_path / name)) as logger:
            logger(Start(0, 9))
            (tmp_path / name / "metrics.jsonl").mkdir(parents=True)  # in the way
            logger(train(1))
            if ended_by:
                raise ended_by

    with pytest.raises(DivergedError, match="five in a row"):
        run("diverged", ended_by=DivergedError("five in a row"))
    assert "warning: metrics are not written" in capsys.readouterr().err
    with pytest.raises(StorageError):
        run("complete", ended_by=None)
