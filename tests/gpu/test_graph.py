"""The step that a graph records, of tensors that are filled before each replay, makes the bits of the plain loop."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from icon_dist.checkpoints import checkpoint
from icon_dist.loggers.events import Event, Skip, Train
from icon_dist.training import loop
from icon_dist.training.cuda_graph import Arguments, GraphedStep
from icon_dist.training.step import Position
from tests.gpu.correct import different, small, whole
from tests.gpu.setting import STEPS, Learning, Setting, crops
from tests.gpu.strategies import named
from tests.support.training import tiny

HERE = Setting("cpu", True, Path(), Path(), Path(), math.inf)
MEASURED = {"memory_mb", "time", "img_s", "step_ms", "data_wait"}  # of the machine
LATE = 4 / STEPS  # epochs: contrast starts with the fifth step
SIZES = {"data__input": "32x32", "optim__batch": 4, "optim__micro_batch": 4}
CASES: list[dict[str, Any]] = [
    {"optim__ema": 0.9, "optim__milestones": (1,), "optim__warmup_steps": 5},
    {"loss__start_epoch": LATE, "loss__ramp_epochs": LATE, "loss__bank__warmup": 2},
    {"loss__max_queries": 8, "loss__max_negatives": 8, "loss__bank__budget": 4},
    {"loss__skcc__query": "random", "loss__skcc__negative": "random", "loss__prcc__negative": "random"},
]


def spoil(method: Any, *, at: int) -> None:
    """Make its loss no number at one call."""
    calls = itertools.count(1)

    class Spoilt(type(method)):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            losses = super().__call__(*arguments, **keywords)
            if next(calls) == at:
                losses.total = losses.total * math.nan
            return losses

    method.__class__ = Spoilt


def ends(values: dict[str, Any], *, graph: bool) -> tuple[Learning, list[dict[str, Tensor]]]:
    """All that a checkpoint would hold after each of nine steps, the seventh of which is skipped."""
    learning = small(HERE, "cpu", **(SIZES | values))
    spoil(learning.method, at=7)
    if graph:
        learning.graphed = GraphedStep(learning.cfg, learning.learner, accumulation=1, device="cpu")
    states = []
    for i in range(9):
        learning.step(crops(learning.cfg, 4, device="cpu", seed=i))
        states.append(whole(learning))
    return learning, states


SLOW = [pytest.param(values, marks=pytest.mark.slow) for values in CASES[2:]]  # their branches are in the meta step


@pytest.mark.parametrize("values", [*CASES[:2], *SLOW], ids=named)
def test_replayed_steps_have_the_bits_of_the_loop(values: dict[str, Any]) -> None:
    plain, right = ends(values, graph=False)
    graphed, found = ends(values, graph=True)
    assert [different(a, b) for a, b in zip(found, right, strict=True)] == [0] * 9
    assert different(right[6], right[5]) == 0, "a skipped step leaves no trace"
    assert different(right[7], right[6]) > 0
    assert plain.events == graphed.events == [Skip(7, 1)]


def test_a_run_with_graphs_has_the_bits_of_one_without(people: Path, tmp_path: Path) -> None:
    """Through the loop: two micro-batches a step, and every third step measured for the log, one launch at a time."""
    ended = []
    for graph in (False, True):
        short = {"optim__epochs": 2, "run__zero": 0, "run__workers": 1, "data__val": "", "run__log_every": 3}
        config = tiny(people, tmp_path, **short, run__name=f"graph-{graph}")
        events: list[Event] = []
        run = replace(config.run, graph=graph)  # which the rules refuse without a GPU
        loop.train(replace(config, run=run), report=events.append, device="cpu")
        found = checkpoint.find(f"{tmp_path}/{config.run.name}", warn=pytest.fail)
        assert found is not None
        tensors = {f"{p}.{n}": t for p in ("model", "optimizer", "bank") for n, t in found.tensors(p).items()}
        lines = [event.record() for event in events if isinstance(event, Train)]
        ended.append((tensors, [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]))
    assert different(ended[0][0], ended[1][0]) == 0
    assert ended[0][1] == ended[1][1] != []


def test_one_graph_before_contrast_and_one_after() -> None:
    late = {"loss__start_epoch": LATE}
    learning, _ = ends(late, graph=True)
    assert learning.graphed is not None
    assert set(learning.graphed.recorded) == {False, True}


class Mark:
    """Lives as long as the node that holds it."""


def test_no_step_leaves_anything_of_its_autograd_graph() -> None:
    """Else the next step would take over its nodes that sum up gradients. They keep the stream on which they were made,
    that of a logged step for one, and a graph cannot record what waits for another stream."""
    learning = small(HERE, "cpu", **SIZES, run__log_every=2)
    weight, marks = learning.model.final_layer.weight, list[weakref.ref[Mark]]()

    def mark(*_: object) -> None:
        held = Mark()
        get_gradient_edge(weight).node.metadata["mark"] = held
        marks.append(weakref.ref(held))

    learning.model.final_layer.register_forward_hook(mark)
    gc.disable()  # what refers to itself would live on until it is collected
    try:
        for i in range(4):
            learning.step(crops(learning.cfg, 4, device="cpu", seed=i))
        assert [one() for one in marks] == [None] * 4
        outputs = learning.engine(crops(learning.cfg, 4, device="cpu").image)
        assert marks[4]() is not None
        del outputs
    finally:
        gc.enable()


def test_what_a_replay_reads_is_filled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is recorded at one position and made at others: with the numbers of the first it would differ."""
    learning = small(HERE, "cpu", **SIZES)
    graphed = GraphedStep(learning.cfg, learning.learner, accumulation=1, device="cpu")
    learning.graphed = graphed
    for i in range(5):
        learning.step(crops(learning.cfg, 4, device="cpu", seed=i))
    fill, filled = Arguments.fill, list[Position]()

    def fill_once(self: Arguments, at: Position) -> Position:
        filled[:] = filled or [fill(self, at)]
        return filled[0]

    monkeypatch.setattr(Arguments, "fill", fill_once)
    for i in range(5, 7):
        learning.step(crops(learning.cfg, 4, device="cpu", seed=i))
    straight = small(HERE, "cpu", **SIZES)
    for i in range(7):
        straight.step(crops(straight.cfg, 4, device="cpu", seed=i))
    assert different(whole(learning), whole(straight)) > 0
