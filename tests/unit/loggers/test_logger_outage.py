"""A run directory that cannot be written for a while does not end the training it tells of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icon_dist.errors import StorageError
from icon_dist.loggers.events import Eval, Start
from icon_dist.loggers.logger import Logger


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
