"""The state that a run saves is all of its state: resumed runs equal straight ones bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config
from tests.gang import run_gang, tiny

Tensors = dict[str, dict[str, Tensor]]


def final(config: Config) -> Tensors:
    found = checkpoint.find(f"{config.run.dir}/{config.run.name}", warn=pytest.fail)
    assert found is not None
    names = [n for n in ("model", "optimizer", "bank", "ema") if found.has(n)]
    return {name: found.tensors(name) for name in names}


def assert_equal(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        different = [key for key in a[name] if not torch.equal(a[name][key], b[name][key])]
        assert not different, f"{name}: {different[:5]} of {len(different)} differ"


def losses(config: Config) -> list[float]:
    text = Path(config.run.dir, config.run.name, "metrics.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    return [event["total"] for event in events if event["kind"] == "train"]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_zero_stage_trains_two_workers_and_resumes_bit_for_bit(people: Path, tmp_path: Path, zero: int) -> None:
    straight = tiny(people, tmp_path, run__name="straight", run__zero=zero)
    first = tiny(people, tmp_path, run__name="parts", run__zero=zero, run__stop_after_epoch=1)
    resumed = tiny(people, tmp_path, run__name="parts", run__zero=zero)
    run_gang(straight, first, resumed, scratch=tmp_path)
    assert_equal(final(straight), final(resumed))
    assert losses(straight) == losses(resumed)
    assert len(losses(straight)) == 3 * (64 // 16)
    assert torch.isfinite(torch.tensor(losses(straight))).all()


def test_loss_curves_of_stages_0_and_1_agree(people: Path, tmp_path: Path) -> None:
    configs = [tiny(people, tmp_path, run__name=f"zero{zero}", run__zero=zero) for zero in (0, 1)]
    run_gang(*configs, scratch=tmp_path)
    assert losses(configs[0]) == pytest.approx(losses(configs[1]), rel=1e-5)
