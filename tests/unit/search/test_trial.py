"""A trial tells the sweep its scores in percent, whatever its metric keeps them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune

from icon_dist import config as configuration
from icon_dist.loggers.events import Eval, Start
from icon_dist.search.trial import Teller


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
