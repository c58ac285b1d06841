"""The state that a run saves is all of its state: resumed runs equal straight ones bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from icon_dist.checkpoints import checkpoint
from tests.support.run_results import assert_equal, final, losses
from tests.support.training import run_gang, tiny


@pytest.mark.parametrize("zero", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2, 3))])
def test_every_zero_stage_trains_two_workers_and_resumes_bit_for_bit(people: Path, tmp_path: Path, zero: int) -> None:
    short = {"run__zero": zero, "optim__epochs": 2, "optim__milestones": (1,), "eval__every": 2}
    straight = tiny(people, tmp_path, run__name="straight", **short)
    first = tiny(people, tmp_path, run__name="parts", **short, run__stop_after_epoch=1)
    resumed = tiny(people, tmp_path, run__name="parts", **short)
    run_gang(straight, first, resumed, scratch=tmp_path)
    assert_equal(final(straight), final(resumed))
    assert losses(straight) == losses(resumed)
    assert len(losses(straight)) == 2 * (64 // 16)
    assert torch.isfinite(torch.tensor(losses(straight))).all()


def test_the_best_is_of_the_scores_that_can_be_compared(people: Path, tmp_path: Path) -> None:
    """Of those before `eval.limit` changed the highest was the best for good, also under what is scored now."""
    short = {"run__zero": 0, "optim__epochs": 4, "optim__milestones": (3,), "run__keep": 1, "optim__micro_batch": 16}
    first = tiny(people, tmp_path, run__name="one", **short, run__stop_after_epoch=2)
    spoilt = short | {"optim__lr": 1e3, "loss__lambda_p": 0.03, "eval__limit": 3}  # whose scores are lower
    run_gang(first, scratch=tmp_path, world=1)
    before = checkpoint.find(str(tmp_path / "one"), which="best", warn=print)
    assert before is not None
    assert before.step in (4, 8)
    run_gang(tiny(people, tmp_path, run__name="one", **spoilt), scratch=tmp_path, world=1)

    after = checkpoint.find(str(tmp_path / "one"), which="best", warn=print)
    last = checkpoint.find(str(tmp_path / "one"), warn=print)
    assert after is not None
    assert last is not None
    assert after.step in (12, 16)
    assert json.loads((tmp_path / "one" / "best.json").read_text())["step"] == after.step
    told = json.loads(Path(last.uri, "state.json").read_text())["best"]
    assert told == after.manifest["score"] < before.manifest["score"]
    steps = {entry.step for entry in checkpoint.entries(str(tmp_path / "one"))}
    assert steps == {before.step, after.step, 16}  # the best of each way of scoring, and the newest


@pytest.mark.slow
def test_loss_curves_of_stages_0_and_1_agree(people: Path, tmp_path: Path) -> None:
    configs = [tiny(people, tmp_path, run__name=f"zero{zero}", run__zero=zero) for zero in (0, 1)]
    run_gang(*configs, scratch=tmp_path)
    assert losses(configs[0]) == pytest.approx(losses(configs[1]), rel=1e-5)
