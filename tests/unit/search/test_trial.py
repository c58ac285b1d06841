"""A trial tells the sweep its scores in percent, whatever its metric keeps them in, and the time of its steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.datasets import load_skeleton
from icon_dist.loggers.events import Eval, Speed, Start, Train
from icon_dist.search.trial import Teller
from tests.support.run_folders import write_run


@pytest.mark.parametrize(("metric", "score", "percent"), [("AP", 0.4567, 45.67), ("PCK@0.2", 61.2, 61.2)])
def test_scores_are_told_in_percent(
    metric: str, score: float, percent: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    cfg = configuration.load("people", [f"run.dir={tmp_path}", "optim.epochs=4", "optim.milestones=[]"])
    teller = Teller(cfg, metric=metric, whole=False)
    teller(Start(0, 40))
    teller(Eval(10, 1, "split=val", (metric,), {metric: score, "AR": 0.9}))
    teller.close()
    assert told[0] == {"kind": "train", "epoch": 0.0}
    assert told[1:] == [{"kind": "eval", "epoch": 1, "score": pytest.approx(percent), "rung": 1}]


def test_the_time_of_a_step_is_known_however_seldom_numbers_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an evaluation between any two of them there was no time, and `--cost` took all trials for equally fast."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    teller = Teller(configuration.load("people", [f"run.dir={tmp_path}"]), metric="AP", whole=False)
    teller(Start(6, 20))
    for step, ms in ((8, 900.0), (12, 50.0), (20, 80.0)):
        teller(
            Train(step, step / 4, 1e-3, {"heatmap": 1.0, "scale": 0.0}, Speed(1, "2026-01-01T00:00:00+00:00", 1.0, ms))
        )
        teller(Eval(step, step // 4, "split=val", ("AP",), {"AP": 0.5}))
    teller.close()
    times = [one.get("step_ms") for one in told if one["kind"] == "eval"]
    assert times == [900.0, 50.0, pytest.approx((4 * 50.0 + 8 * 80.0) / 12)]  # without the first, once there are others


def test_an_attempt_that_was_not_heard_had_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time was 0 ms, and with `--cost` nothing is faster."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    run = write_run(f"{tmp_path}/people", scores=[{"PCK@0.2": 7.0}] * 4, skeleton=load_skeleton("lsp"))
    lines = [json.loads(line) for line in storage.read(f"{run}/metrics.jsonl").splitlines()]
    events = [line | {"step_ms": 10.0 * line["epoch"]} if line["kind"] == "train" else line for line in lines]
    storage.write(f"{run}/metrics.jsonl", b"".join(json.dumps(event).encode() + b"\n" for event in events))
    cfg = configuration.load("people", [f"run.dir={tmp_path}", "optim.epochs=4", "optim.milestones=[]"])
    teller = Teller(cfg, metric="PCK@0.2", whole=True)
    teller.retell(since=1)
    teller.close()
    assert told == [{"kind": "eval", "epoch": 4.0, "score": 7.0, "step_ms": 35.0}]  # of epochs 2, 3, 4 the last two
