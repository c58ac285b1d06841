"""The whole optimizer step as CUDA graphs: thousands of launches become one.

A graph replays the same kernels on the same memory. What changes from step to step lies in tensors that are filled
before each replay: the crops, and the step's number with its random keys, learning rate and weight of contrast. There
is one graph before contrast starts and one after. Steps that measure for the log are made one launch at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from icon_dist.config import Config
from icon_dist.losses.sampling import PURPOSES, key_of
from icon_dist.methods.objective import ramp
from icon_dist.training.setup import Learner
from icon_dist.training.step import Position, one_step
from icon_dist.types import Batch, DeviceStep

WARM = 3  # steps made one launch at a time before one is recorded: kernels are chosen, a compiler runs
Flags = Bool[Tensor, " flags"]


class Arguments:
    """The numbers of a step as tensors that stay where they are."""

    def __init__(self, cfg: Config, *, device: str) -> None:
        self._cfg = cfg
        self._whole = torch.zeros(3 + len(PURPOSES), dtype=torch.int64, device=device)
        self._real = torch.zeros(2, dtype=torch.float64, device=device)

    def fill(self, at: Position) -> Position:
        """The same position with its numbers on the device; all but the epoch, which a graph keeps as recorded."""
        assert isinstance(at.step, int)
        assert not isinstance(at.stop, Tensor)
        cfg = self._cfg
        keys = [key_of(cfg.run.seed, at.step, purpose) for purpose in PURPOSES]
        scale = cfg.loss.lambda_p * ramp(at.epoch, cfg.loss)
        _send(torch.tensor([at.step, at.after, int(at.stop()), *keys]), self._whole)
        _send(torch.tensor([at.lr, scale], dtype=torch.float64), self._real)
        before, after, stop, *drawn = self._whole.unbind()
        lr, weight = self._real.unbind()
        step = DeviceStep(before, dict(zip(PURPOSES, drawn, strict=True)), weight)
        return Position(step, after, at.epoch, lr, stop)


class Recorded(NamedTuple):
    """A captured step, which can be replayed."""

    replay: Callable[[], object]
    flags: Flags  # of the step that was replayed last


class GraphedStep:
    """:func:`icon_dist.training.step.one_step` without diagnosis, as a graph once it has been made a few times.

    On a CPU, which has no graphs, the same step is made of the same memory: a rehearsal.
    """

    def __init__(self, cfg: Config, learner: Learner, *, accumulation: int, device: str) -> None:
        self._learner, self._accumulation, self._start = learner, accumulation, cfg.loss.start_epoch
        self._device = device
        self._arguments = Arguments(cfg, device=device)
        self._batches: list[Batch] = []
        self._made = {True: 0, False: 0}  # steps, by whether contrast has started
        self.recorded: dict[bool, Recorded] = {}  # by whether contrast has started
        self._stream = None if device == "cpu" else torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = None if device == "cpu" else torch.cuda.graph_pool_handle()  # one graph runs at a time

    def __call__(self, micros: list[Batch], at: Position) -> Flags:
        """Make the step; whether it was skipped, and whether any rank was asked to stop. Valid until the next call."""
        if self._stream is None:
            return self._step(micros, at)
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            flags = self._step(micros, at)
        main.wait_stream(self._stream)
        return flags

    def _step(self, micros: list[Batch], at: Position) -> Flags:
        self._put(micros)
        position = self._arguments.fill(at)
        contrasts = at.epoch >= self._start
        self._made[contrasts] += 1
        if self._made[contrasts] <= WARM:
            return self._make(position)
        if contrasts not in self.recorded:
            self.recorded[contrasts] = self._record(lambda: self._make(position))
        recorded = self.recorded[contrasts]
        recorded.replay()
        return recorded.flags

    def _put(self, micros: list[Batch]) -> None:
        """The crops, from wherever they are, to where the graph reads them."""
        if not self._batches:
            empty = [{k: torch.empty_like(v, device=self._device) for k, v in vars(one).items()} for one in micros]
            self._batches = [Batch(**tensors) for tensors in empty]
        for there, here in zip(self._batches, micros, strict=True):
            for name, tensor in vars(there).items():
                tensor.copy_(getattr(here, name), non_blocking=True)

    def _make(self, position: Position) -> Flags:
        step = one_step(self._learner, self._batches, position, accumulation=self._accumulation, diagnose=False)
        return step.flags

    def _record(self, make: Callable[[], Flags]) -> Recorded:
        """Nothing is computed while kernels are recorded."""
        if self._stream is None:
            flags = torch.zeros(2, dtype=torch.bool)
            return Recorded(lambda: flags.copy_(make()), flags)
        graph = torch.cuda.CUDAGraph()
        # Other threads may pin memory meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            flags = make()
        return Recorded(graph.replay, flags)


def _send(here: Tensor, there: Tensor) -> None:
    """Without waiting; the pinned memory is used again only after the copy."""
    there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)
