"""A row of the paper's tables is run once and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist import paper
from icon_dist.reports.paper_tables import read_results

TINY = [
    *("data.generate=64", "optim.epochs=1", "optim.milestones=[]", "optim.batch=8", "optim.micro_batch=8"),
    *("loss.bank.warmup=2", "run.log_every=2", "eval.every=1", "eval.limit=8"),
]


def test_a_row_is_run_recorded_and_not_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.csv"
    places = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/val", f"run.dir={tmp_path}/runs"]
    command = ["--run", "T5.skcc", "--cfg", "people", "--seeds", "3", "--record", str(file), "--set", *places, *TINY]
    paper.main(command)
    paper.main(command)
    (result,) = read_results(file)
    assert (result.recipe, result.cfg, result.seed, result.metric) == ("T5.skcc", "people", 3, "PCK@0.2")
    assert 0 <= result.score <= 100
    assert float(result.purity) >= 0
    assert capfd.readouterr().out.count("$ python -m icon_dist.train --cfg people loss.lambda_2=0") == 1
