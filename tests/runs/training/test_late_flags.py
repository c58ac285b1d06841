"""A GPU's flags are read a step late; on a CPU, made late as well, runs show that this changes no bit of them."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist.checkpoints import checkpoint
from icon_dist.errors import DivergedError
from icon_dist.loggers.events import Event, Skip, Stopped, Train
from icon_dist.methods.objective import Losses
from icon_dist.methods.supervised import Supervised
from icon_dist.training import loop
from icon_dist.training.step_flags import Flags
from tests.support.training import tiny

SHORT = {
    "run__zero": 0,
    "run__workers": 1,
    "eval__every": 100,
    "data__val": "",
    "optim__epochs": 2,
    "optim__ema": 0.9,
    "optim__micro_batch": 16,  # the whole batch: a step of several is in test_skipped_steps.py
}
Events = list[Event]
Run = Callable[..., tuple[Events, dict[str, Any]]]


@pytest.fixture
def trained(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train a run, perhaps with late flags, with losses that are NaN at some steps, asked to stop at another."""
    call = Supervised.__call__

    def one(name: str, *, late: bool, broken: tuple[int, ...] = (), stop_at: int = -1, **values: Any) -> Any:
        events: Events = []
        steps: list[int] = []

        def spoilt(self: Supervised, *args: Any, step: int, **rest: Any) -> Losses:
            losses = call(self, *args, step=step, **rest)
            steps.append(step)
            if step in broken:
                losses.total = losses.total * math.nan
            return losses

        monkeypatch.setattr(Supervised, "__call__", spoilt)
        monkeypatch.setattr(loop, "Flags", lambda **_: Flags(late=late))
        config = tiny(people, tmp_path, **(SHORT | values), run__name=name)
        stop = partial(lambda: len(steps) == stop_at)
        loop.train(config, report=events.append, device="cpu", stop=stop)
        found = checkpoint.find(f"{tmp_path}/{name}", warn=pytest.fail)
        assert found is not None
        parts = {part: found.tensors(part) for part in ("model", "optimizer", "bank", "ema")}
        return events, {"step": found.step, "numbers": found.state(), **parts}

    return one


def differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert (one["step"], one["numbers"]) == (other["step"], other["numbers"])
    parts = ("model", "optimizer", "bank", "ema")
    return [f"{p}.{name}" for p in parts for name in one[p] if not torch.equal(one[p][name], other[p][name])]


def of_kind(events: Events, kind: type[Skip | Train | Stopped]) -> list[int]:
    return [event.step for event in events if isinstance(event, kind)]


def test_a_skipped_step_is_known_late_and_leaves_no_trace(trained: Run) -> None:
    broken = (0, 4)  # the first of all, when the bank is empty, and the first of an epoch
    events, plain = trained("plain", late=False, broken=broken, run__log_every=3)
    late_events, late = trained("late", late=True, broken=broken, run__log_every=3)
    assert differ(late, plain) == []
    assert plain["numbers"]["skipped"] == 2
    assert of_kind(late_events, Skip) == of_kind(events, Skip) == [1, 5]
    assert of_kind(late_events, Train) == of_kind(events, Train) == [3, 6, 8]  # and the last


def test_many_in_a_row_end_the_run_one_step_later(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_SKIPPED", 2)
    ends = []
    for late in (False, True):
        with pytest.raises(DivergedError) as caught:
            trained(f"late-{late}", late=late, broken=(4, 5, 6, 7), run__log_every=100)
        ends.append(str(caught.value))
    assert ends[0] == ends[1]
    assert ends[0].startswith("step 6: ")


def test_who_is_asked_to_stop_leaves_one_step_later_and_resumes(trained: Run) -> None:
    _, straight = trained("straight", late=False, run__log_every=100)
    for late, step in ((False, 2), (True, 3)):
        name = f"stopped-{late}"
        events, stopped = trained(name, late=late, stop_at=2, run__log_every=100)
        assert of_kind(events, Stopped) == [stopped["step"]] == [step]
        assert differ(trained(name, late=late, run__log_every=100)[1], straight) == []


class SeenError(Exception):
    """Ends a run where it would make its model."""


def test_loaders_are_forked_before_there_is_a_model(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that inherits nothing of a GPU cannot free it; the loaders of evaluations are among them."""

    def begin(*_: Any, **__: Any) -> None:
        raise SeenError([child.name for child in multiprocessing.active_children()])

    monkeypatch.setattr(loop, "begin", begin)
    config = tiny(people, tmp_path, run__zero=0, run__workers=1, data__loaders=1)
    with pytest.raises(SeenError) as seen:
        loop.train(config, report=lambda _: None, device="cpu")
    assert seen.value.args[0].count("loader-0") == 2
