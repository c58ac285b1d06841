"""A step that is not finite on one rank is skipped on all of them, and leaves no trace.

What a run does is in its name: ``nan-1`` has a NaN in the loss of rank 1 at one micro-batch (ZeRO stage 1),
``grad-1`` a finite loss whose gradient is none, ``forced-1`` skips the same step though nothing is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from icon_dist import distributed
from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config
from icon_dist.loggers.events import Report
from icon_dist.methods.objective import Losses
from icon_dist.methods.supervised import Supervised
from icon_dist.training.state import State
from tests.support.run_results import assert_equal, final
from tests.support.training import run_gang, tiny

STEP = 2  # counted from 0, of four; the bank is in use
SHORT = {
    "optim__epochs": 1,
    "optim__milestones": (),
    "optim__micro_batch": 4,
    "loss__bank__warmup": 1,
    "eval__every": 100,
    "data__val": "",
}  # 2 micro-batches a step


def train(config: Config, *, report: Report, device: str) -> None:
    from icon_dist.training import loop

    kind = config.run.name.partition("-")[0]
    call, agree = Supervised.__call__, State.agree
    seen: list[int] = []

    def spoilt(self: Supervised, forward: Any, batch: Any, *, step: int, **rest: Any) -> Losses:
        losses = call(self, forward, batch, step=step, **rest)
        seen.append(step)
        first = seen.count(step) == 1  # micro-batch of the step
        wrong = first and (step == STEP or (kind == "always" and step > STEP))
        if wrong and distributed.rank() == distributed.world_size() - 1:
            if kind in ("nan", "always"):
                losses.total = losses.total * math.nan
            if kind == "grad":
                weight = next(forward.module.parameters())
                losses.total = losses.total + (0 * weight).sum().sqrt()  # 0, with a slope of 0 * inf
                assert losses.total.isfinite()
        return losses

    def forced(self: State, *flags: Tensor) -> Tensor:
        skip, *others = agree(self, *flags)
        assert not skip
        return torch.stack([torch.tensor(self.step == STEP), *others])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "__call__", spoilt)
        if kind == "forced":
            patch.setattr(State, "agree", forced)
        patch.setattr(loop, "MAX_SKIPPED", 2)
        loop.train(config, report=report, device=device)


def numbers(config: Config) -> dict[str, Any]:
    found = checkpoint.find(f"{config.run.dir}/{config.run.name}", warn=pytest.fail)
    assert found is not None
    return found.state()


def events(config: Config, kind: str) -> list[dict[str, Any]]:
    lines = Path(config.run.dir, config.run.name, "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


class Runs(NamedTuple):
    stages: tuple[int, ...]  # of ZeRO
    of: Callable[[str, int], Config]


@pytest.fixture(scope="module", params=[(1,), pytest.param((0, 2, 3), marks=pytest.mark.slow)], ids=str)
def runs(request: pytest.FixtureRequest, people: Path, module_path: Path) -> Runs:

    def config(kind: str, zero: int) -> Config:
        ema = 0.9 if zero < 3 else 0.0  # stage 3 cannot average weights
        return tiny(people, module_path, **SHORT, optim__ema=ema, run__name=f"{kind}-{zero}", run__zero=zero)

    plan = [(kind, zero) for kind in ("nan", "forced") for zero in request.param]
    plan += [("plain", request.param[0]), ("grad", 2 if 2 in request.param else 1)]
    run_gang(
        *[config(*what) for what in plan], scratch=module_path, loop="tests.runs.training.test_skipped_steps:train"
    )
    return Runs(request.param, config)


def test_a_nan_on_one_rank_skips_the_step_on_all(runs: Runs) -> None:
    for zero in runs.stages:
        spoilt, forced = runs.of("nan", zero), runs.of("forced", zero)
        assert_equal(final(spoilt), final(forced))
        assert numbers(spoilt) == numbers(forced)
        assert numbers(spoilt)["skipped"] == 1
        assert not (final(spoilt)["bank"]["skcc.step"] == STEP).any(), "none of its micro-batches is in the bank"
        assert (final(spoilt)["bank"]["skcc.step"] == STEP - 1).any()


def test_gradients_count_as_the_loss_does(runs: Runs) -> None:
    zero = 2 if 2 in runs.stages else 1
    assert_equal(final(runs.of("grad", zero)), final(runs.of("forced", zero)))


def test_it_is_counted_and_named(runs: Runs) -> None:
    spoilt = runs.of("nan", runs.stages[0])
    assert [(event["step"], event["skipped"]) for event in events(spoilt, "skip")] == [(STEP + 1, 1)]
    assert [event["step"] for event in events(spoilt, "train")] == [1, 2, 4]


def test_a_sound_run_skips_nothing(runs: Runs) -> None:
    sound, hurt = (runs.of(kind, runs.stages[0]) for kind in ("plain", "nan"))
    assert numbers(sound)["skipped"] == 0
    healthy, spoilt = final(sound)["model"], final(hurt)["model"]
    assert any(not torch.equal(healthy[name], spoilt[name]) for name in healthy)


@pytest.mark.slow  # on one rank: test_late_flags.py and test_train_again.py
def test_so_many_in_a_row_end_the_run_and_nothing_broken_is_saved(people: Path, tmp_path: Path) -> None:
    more = {"optim__ema": 0.9, "run__checkpoint_every": 0.25}
    config = tiny(people, tmp_path, **SHORT, **more, run__name="always-1")
    with pytest.raises(ProcessRaisedException, match=rf"DivergedError: step {STEP + 2}: .* 2 steps in a row"):
        run_gang(config, scratch=tmp_path, loop="tests.runs.training.test_skipped_steps:train")
    skipped: list[str] = []
    saved = checkpoint.find(f"{tmp_path}/always-1", warn=skipped.append)
    assert all("half-written" in line for line in skipped), "rank 0 may be ended while it saves"
    assert saved is not None
    assert saved.step in (STEP, STEP + 1)
    for name in ("model", "optimizer", "bank", "ema"):
        assert all(tensor.isfinite().all() for tensor in saved.tensors(name).values())
