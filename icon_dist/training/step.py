"""One optimizer step on the device, of one or more micro-batches: it reads nothing back, so a CUDA graph can hold it.

A step whose loss or gradients are not finite (NaN) is skipped; ``loop.py`` ends the run after several in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.methods.objective import Losses
from icon_dist.training.setup import Learner
from icon_dist.types import Batch, DeviceStep


@dataclass(frozen=True, eq=False)
class Position:
    """Where a step stands in the run: numbers of the host, or tensors that are filled before each replay."""

    step: int | DeviceStep  # steps before this one
    after: int | Int64[Tensor, ""]  # steps with this one
    epoch: float
    lr: float | Float[Tensor, ""]
    stop: Callable[[], bool] | Int64[Tensor, ""]  # whether this rank was asked to leave


class Step(NamedTuple):
    """The result of a step."""

    losses: Losses  # of the last micro-batch
    flags: Bool[Tensor, " flags"]  # whether it was skipped; whether any rank was asked to leave


def one_step(learner: Learner, micros: Iterable[Batch], at: Position, *, accumulation: int, diagnose: bool) -> Step:
    """Move the weights by the gradients of these micro-batches, unless a loss or a gradient of any rank is not finite.

    Such a step is skipped: it leaves no trace in weights, moments, statistics, averages and banks. Collective.
    """
    method, engine, state = learner.method, learner.engine, learner.state
    no = torch.zeros((), dtype=torch.bool, device=state.device)
    broken = no
    for micro, batch in enumerate(micros, start=1):
        moves = micro == accumulation  # the micro-batch that completes the step
        losses = method(engine, batch, step=at.step, epoch=at.epoch, diagnose=diagnose and moves)
        broken = broken | ~losses.total.detach().isfinite()
        engine.backward(losses.total)
        if not moves:
            engine.step(lr=at.lr)
    stop = at.stop if isinstance(at.stop, Tensor) else at.stop()
    flags = state.agree(broken | ~engine.finite(), no | stop)
    skip = flags[0]
    engine.step(lr=at.lr, skip=skip)
    state.settle(skip)
    method.commit(~skip)
    if learner.average is not None:
        learner.average.update(at.after, keep=~skip)
    return Step(losses, flags)
