"""A training step on the ``meta`` device, of shapes without values: what waits for a GPU would fail here.

Reading a value (``item``, ``tolist``, a mask as an index) raises. Tensors made of numbers of the host would be copied
to a GPU, which waits for it and which no CUDA graph can capture: such copies are counted.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.datasets import load_skeleton
from icon_dist.losses.sampling import PURPOSES
from icon_dist.methods.from_config import method_of
from icon_dist.models import from_config
from icon_dist.training.ema import Average
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.state import State
from icon_dist.types import Batch, DeviceStep, number_of
from tests.gpu.strategies import STRATEGIES, named

COCO = load_skeleton("coco")
PEOPLE, SIDE = 4, 64
TINY = {
    "data.input": f"{SIDE}x{SIDE}",
    "model.backbone": "resnet18",  # of the fewest operations
    "model.embedding": 16,
    "loss.start_epoch": 0,
    "loss.bank.slots": 32,
    "loss.bank.warmup": 1,
    "optim.batch": PEOPLE,
    "run.workers": 1,
    "run.launcher": "local",
}


class Copies(TorchDispatchMode):
    """Tensors that come from the host: made of Python numbers, or copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        from_host = any(isinstance(a, Tensor) and a.device.type == "cpu" and a.dim() for a in args)
        if name == "lift_fresh" or (name in ("_to_copy", "copy_") and from_host):
            self.found.append(str(function))
        return out


def batch(people: int = PEOPLE) -> Batch:
    joints = COCO.num_joints
    with torch.device("meta"):
        return Batch(
            image=torch.empty(people, SIDE, SIDE, 3, dtype=torch.uint8),
            joints=torch.empty(people, joints, 2),
            labelled=torch.empty(people, joints, dtype=torch.bool),
            visible=torch.empty(people, joints, dtype=torch.bool),
            instance=torch.empty(people, dtype=torch.int64),
            image_id=torch.empty(people, dtype=torch.int64),
            row=torch.empty(people, dtype=torch.int64),
            to_photo=torch.empty(people, 2, 3),
        )


def config(**values: Any) -> Config:
    return configuration.load("coco", TINY | {key.replace("__", "."): value for key, value in values.items()})


SEMI: list[dict[str, Any]] = [
    {"semi__method": "pseudo", "semi__teacher": "somewhere", "data__labelled": 0.5},
    {"semi__method": "sspose", "data__labelled": 0.5},
]


def position(step: int) -> DeviceStep:
    with torch.device("meta"):
        number = torch.full((), step)
        return DeviceStep(number, dict.fromkeys(PURPOSES, number), torch.ones((), dtype=torch.float64))


FEW = [0, 3, 5, 11]  # of the strategies: every query, negative and kind of product; the others take seconds each


@pytest.mark.parametrize(
    "values",
    [values if i in FEW else pytest.param(values, marks=pytest.mark.slow) for i, values in enumerate(STRATEGIES)],
    ids=named,
)
def test_a_step_reads_no_value_and_copies_nothing_from_the_host(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_steps(values, monkeypatch, graph=False)


@pytest.mark.parametrize(
    "values",
    [STRATEGIES[5], SEMI[0], *(pytest.param(v, marks=pytest.mark.slow) for v in (STRATEGIES[3], SEMI[1]))],
    ids=named,
)
def test_nor_does_one_whose_numbers_are_tensors(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_steps(values, monkeypatch, graph=True)


def make_steps(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, graph: bool) -> None:
    """Forward, loss, backward, and what a skipped step must not change; Adam on a GPU is one fused operation."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    cfg = config(**values)
    with torch.device("meta"):
        model = from_config.build_trained(cfg, COCO).train()
        teacher = from_config.build(cfg, COCO).eval() if cfg.semi.method == "pseudo" else None
    method = method_of(cfg, COCO, model, micro_batch=PEOPLE, teacher=teacher)
    engine = PlainEngine(model, torch.optim.Adam(model.parameters()), accumulation=1, bf16=False)
    state, average = State(model, None, steps_per_epoch=1), Average(model, decay=0.9)
    state.complete(engine, bank=method, ema=average)
    for step in range(3):
        at = position(step) if graph else step
        with Copies() as copies:
            losses = method(engine, batch(), step=at, epoch=1.0, diagnose=False)
            engine.backward(losses.total)
            (skip,) = state.agree(~engine.finite())
            state.settle(skip)
            method.commit(~skip)
            average.update(number_of(at) + 1, keep=~skip)
            model.zero_grad()
        assert skip.device.type == "meta"
        if step >= 2:  # what is made once, at the first step or the first with the bank, is copied once
            assert copies.found == []
