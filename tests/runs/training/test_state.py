"""Every part of the state is needed: a resumed run that forgets one does not end as the straight run does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icon_dist import distributed
from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config
from icon_dist.loggers.events import Report
from icon_dist.training import state as state_module
from icon_dist.training.state import State
from tests.support.training import run_gang, tiny

STOP_AT = 6  # in the middle of the second of two epochs of 4 steps
PARTS = ["model", "optimizer", "bank", "ema", "step", "best", "skipped"]
SMALL = {"optim__ema": 0.9, "loss__bank__exchange": "async", "optim__epochs": 2, "optim__milestones": (1,)}


class Forgetful:
    """Saves, and does not restore."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def state_dict(self) -> Mapping[str, Tensor]:
        saved: Mapping[str, Tensor] = self._whole.state_dict()
        return saved

    def load_state_dict(self, state: Any) -> None:
        pass


def train(config: Config, *, report: Report, device: str) -> None:
    """``straight``, ``stopped`` at a step, or ``resumed-PART`` from there without a part."""
    from icon_dist.training import loop, validation

    kind, _, part = config.run.name.partition("-")
    if kind == "resumed" and distributed.rank() == 0:
        shutil.copytree(Path(config.run.dir, "stopped"), Path(config.run.dir, config.run.name))
    distributed.gather_objects(None)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return kind == "stopped" and steps == STOP_AT

    init, complete = State.__init__, State.complete

    def forgetful_init(self: State, module: nn.Module, found: Any, *, steps_per_epoch: int) -> None:
        fresh = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        init(self, module, found, steps_per_epoch=steps_per_epoch)
        if part == "model":
            module.load_state_dict(fresh)
        if part == "step":
            self.step = self.epochs = 0
        if part == "best":
            self.best = -torch.inf
        if part == "skipped":
            self.skipped = self.skipped_in_a_row = 0

    def forgetful_complete(self: State, engine: Any, *, bank: Any, ema: Any) -> None:
        if part == "optimizer":
            engine.load_optimizer_state = lambda _: None
        kept_bank, kept_ema = (Forgetful(one) if part == name else one for name, one in (("bank", bank), ("ema", ema)))
        complete(self, engine, bank=kept_bank, ema=kept_ema)

    scores = iter((90.0, 80.0)) if kind != "resumed" else iter((80.0,))

    def falling(*_: Any, **__: Any) -> tuple[dict[str, float], None]:
        return {"PCK@0.2": next(scores, 60.0)}, None

    agree = State.agree

    def skips_one(self: State, *flags: Tensor) -> Tensor:
        skip, *others = agree(self, *flags)
        return torch.stack([skip | (self.step == 2), *others])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "__init__", forgetful_init)
        patch.setattr(State, "complete", forgetful_complete)
        patch.setattr(State, "agree", skips_one)
        patch.setattr(validation, "evaluate", falling)
        loop.train(config, report=report, device=device, stop=stop)


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["alone", "two ranks"])
def ends(request: pytest.FixtureRequest, people: Path, module_path: Path) -> dict[str, list[Any]]:
    """By the name of a run, all that its last checkpoint holds."""
    names = ["straight", "stopped", "resumed", *(f"resumed-{part}" for part in PARTS)]
    world = request.param
    own = {"optim__micro_batch": 16 // world, "run__zero": world - 1}  # the whole batch; one rank without DeepSpeed
    configs = [tiny(people, module_path, **SMALL, **own, run__name=name) for name in names]
    run_gang(*configs, scratch=module_path, world=world, loop="tests.runs.training.test_state:train")
    found = {name: checkpoint.find(str(module_path / name), warn=pytest.fail) for name in names}
    assert found["stopped"] is not None
    assert found["stopped"].step == STOP_AT
    ends = {}
    for name, end in found.items():
        assert end is not None
        files = ("model", "optimizer", "bank", "ema")
        tensors = {f"{file}.{key}": tensor for file in files for key, tensor in end.tensors(file).items()}
        ends[name] = [end.step, end.state(), tensors]
    return ends


def differ(one: list[Any], other: list[Any]) -> list[str]:
    assert one[0] == other[0]
    assert one[2].keys() == other[2].keys()
    numbers = [name for name in one[1] if one[1][name] != other[1][name]]
    return numbers + [name for name in one[2] if not torch.equal(one[2][name], other[2][name])]


def test_a_resumed_run_has_every_bit_of_the_straight_one(ends: dict[str, list[Any]]) -> None:
    assert ends["straight"][1] == {"epochs": 2, "best": 90.0, "skipped": 1, "skipped_in_a_row": 0}
    assert differ(ends["straight"], ends["resumed"]) == []


@pytest.mark.parametrize("part", PARTS)
def test_without_one_part_it_does_not(ends: dict[str, list[Any]], part: str) -> None:
    assert differ(ends["straight"], ends[f"resumed-{part}"])


def test_the_list_in_the_code_is_what_is_saved(ends: dict[str, list[Any]]) -> None:
    assert state_module.__doc__ is not None
    table = re.findall(r"^(\w+)  +\S", state_module.__doc__, re.MULTILINE)
    saved = {name.partition(".")[0] for name in ends["straight"][2]} | {"step", *ends["straight"][1]}
    assert set(table) == saved - {"skipped_in_a_row"}
