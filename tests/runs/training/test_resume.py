"""The state that a run saves is all of its state: resumed runs equal straight ones bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
def test_loss_curves_of_stages_0_and_1_agree(people: Path, tmp_path: Path) -> None:
    configs = [tiny(people, tmp_path, run__name=f"zero{zero}", run__zero=zero) for zero in (0, 1)]
    run_gang(*configs, scratch=tmp_path)
    assert losses(configs[0]) == pytest.approx(losses(configs[1]), rel=1e-5)
