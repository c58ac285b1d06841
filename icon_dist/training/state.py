"""All that outlives a step, in one place: a resumed run knows nothing else.

===========  ==========================================================================================================
model        weights and BatchNorm's statistics, of both students if there are two
optimizer    Adam's moments and its count of steps, whole, whatever the ZeRO stage
bank         banks of embeddings, of both students; messages under way are waited for
ema          averaged weights, with ``optim.ema``
step         position in the data, and with it in the schedules of learning rate and contrast
epochs       that are over, evaluation included
best         highest score
skipped      steps that were not finite: all of them, and the last ones in a row
===========  ==========================================================================================================

Randomness has no state: it is a function of (seed, epoch, step, person). A frozen teacher has its sha256 in the
manifest, and is read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from icon_dist import distributed
from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.checkpoints.manifest import OTHER
from icon_dist.checkpoints.weights import require_same_tensors
from icon_dist.errors import CheckpointError, shown
from icon_dist.tensors.torch_compat import foreach_copy_
from icon_dist.training.engine import Engine
from icon_dist.training.optimizer_state import MOMENTS, copied

Named = Mapping[str, Tensor]
LARGEST = 1e18  # of a score


@runtime_checkable
class Stateful(Protocol):
    """A part of a run that outlives a step: banks, averages, what a method remembers."""

    def state_dict(self) -> Named:
        """Its tensors by name."""

    def load_state_dict(self, state: Any) -> object:
        """Take over what :meth:`state_dict` gave. Raises CheckpointError where it does not fit."""


class State:
    """The position and where the tensors are. Made before an engine wraps the module, completed after it."""

    def __init__(self, module: nn.Module, found: Checkpoint | None, *, steps_per_epoch: int) -> None:
        self._found = found
        self.step = self.epochs = 0
        self.best = -math.inf
        self.skipped = self.skipped_in_a_row = 0
        if found is not None:
            self.step = found.step
            numbers = numbers_of(found, steps_per_epoch=steps_per_epoch)
            self.epochs, self.best = numbers.epochs, numbers.best
            self.skipped, self.skipped_in_a_row = numbers.skipped, numbers.skipped_in_a_row
            weights = found.tensors("model")
            require_same_tensors(weights, module.state_dict())
            module.load_state_dict(weights)
            self._moments = moments_of(module)  # before an engine cuts the parameters up

    def complete(self, engine: Engine, *, bank: Stateful, ema: Stateful | None) -> None:
        """Restore the rest, by the names above."""
        self._engine = engine
        self._others: dict[str, Stateful] = {"bank": bank} | ({} if ema is None else {"ema": ema})
        self._buffers = list(engine.module.buffers())
        if self._found is not None:
            moved = self._found.tensors("optimizer")
            _require_moments(moved, self._moments, step=self._found.step)
            engine.load_optimizer_state(moved)
            for name, one in self._others.items():
                one.load_state_dict(self._found.tensors(name))
        self._found = None  # its bytes need not stay in memory
        self._before = [flat(kind) for kind in self._kinds()]

    @property
    def device(self) -> torch.device:
        """On which steps are made."""
        return next(self._engine.module.parameters()).device

    def numbers(self) -> dict[str, int | float | None]:
        """What is not a tensor; the step is in the manifest."""
        best = self.best if math.isfinite(self.best) else None
        skipped = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return {"epochs": self.epochs, "best": best, **skipped}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies in this machine's memory, on rank 0; nothing on the others. Every rank must call it."""
        saved = {"model": self._engine.weights(), "optimizer": self._engine.optimizer_state()}
        if distributed.rank() == 0:
            saved |= {name: copied(one.state_dict()) for name, one in self._others.items()}
        return saved

    @torch.no_grad()
    def agree(self, *flags: Shaped[Tensor, ""]) -> Bool[Tensor, " n"]:
        """Average BatchNorm's statistics over ranks after the last backward pass; return the flags that any raised.

        One all-reduce for both, of numbers that a step moves anyway.
        """
        raised = torch.stack([flag.double() for flag in flags])
        return distributed.mean_buffers(self._engine.module, raised=raised) > 0

    @torch.no_grad()
    def settle(self, skip: Bool[Tensor, ""]) -> None:
        """BatchNorm's statistics and counters, where ``skip`` holds, go back to what they were before the step."""
        for buffers, before in zip(self._kinds(), self._before, strict=True):
            torch.where(skip, before, flat(buffers), out=before)
            parts = torch.split(before, [b.numel() for b in buffers])
            foreach_copy_(buffers, [part.view_as(b) for part, b in zip(parts, buffers, strict=True)])

    def advance(self) -> None:
        """The step is over; one that was skipped counts as well."""
        self.step += 1

    def count(self, *, skipped: bool) -> None:
        """A step was skipped or not, which is known once its flags have arrived."""
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def _kinds(self) -> list[list[Tensor]]:
        """The buffers that are floating, and those that are not: statistics and counts."""
        kinds = ([b for b in self._buffers if b.is_floating_point() == floating] for floating in (True, False))
        return [kind for kind in kinds if kind]


class Numbers(NamedTuple):
    """What ``state.json`` holds."""

    epochs: int
    best: float
    skipped: int
    skipped_in_a_row: int


def numbers_of(found: Checkpoint, *, steps_per_epoch: int) -> Numbers:
    """Those of a checkpoint, each within what its step allows; CheckpointError naming the first that is not."""
    saved, step = found.state(), found.step

    def count(name: str, most: int, absent: int) -> int:
        value = saved.get(name, absent)
        if type(value) is not int or not 0 <= value <= most:
            raise _wrong(found, name, value, f"expected a whole number from 0 to {most} at step {step}")
        return value

    over = step // steps_per_epoch
    epochs, skipped = count("epochs", over, over), count("skipped", step, 0)
    in_a_row = count("skipped_in_a_row", skipped, 0)
    best = saved.get("best", "absent")
    if best is not None and (type(best) not in (int, float) or not abs(best) < LARGEST):
        raise _wrong(found, "best", best, "expected a score, or null")
    return Numbers(epochs, -math.inf if best is None else float(best), skipped, in_a_row)


def _wrong(found: Checkpoint, name: str, value: object, rule: str) -> CheckpointError:
    return CheckpointError(f"{found.uri}: state.json {name}={shown(value)}: {rule}; {OTHER}")


def moments_of(module: nn.Module) -> Named:
    """Names, shapes and types of what Adam remembers of these parameters; no memory is taken."""
    shapes = {name: torch.empty_like(parameter, device="meta") for name, parameter in module.named_parameters()}
    moments = {f"{key}.{name}": shape for key in MOMENTS for name, shape in shapes.items()}
    return {"step": torch.empty((), device="meta"), **moments}


def _require_moments(saved: Named, own: Named, *, step: int) -> None:
    """Refuse moments that Adam cannot have after ``step`` steps; before the first one it has none."""
    if not saved:
        return
    require_same_tensors(saved, own, part="optimizer ")
    if not 0 <= (moved := saved["step"].item()) <= step:
        raise CheckpointError(f"checkpoint: optimizer step is {moved:g}, expected 0 to {step}; {OTHER}")
    if negative := [name for name, tensor in saved.items() if name.startswith("exp_avg_sq.") and (tensor < 0).any()]:
        raise CheckpointError(f"checkpoint: optimizer {negative[0]} has values below 0; {OTHER}")


def flat(tensors: list[Tensor]) -> Tensor:
    """One after the other: a launch or two on a GPU, however many they are."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
