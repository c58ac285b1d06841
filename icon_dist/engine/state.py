"""All that outlives a step, in one place: what is not named here, a resumed run does not know (RELIABILITY 1).

===========  ==========================================================================================================
model        weights and BatchNorm's statistics, of both students if there are two
optimizer    Adam's moments and its count of steps, whole, whatever the ZeRO stage
bank         banks of embeddings, of both students; what still travels to other ranks is waited for
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
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from icon_dist import distributed
from icon_dist.engine.checkpoint import Checkpoint, require_same_tensors
from icon_dist.engine.deepspeed import Engine

Named = Mapping[str, Tensor]


@runtime_checkable
class Stateful(Protocol):
    def state_dict(self) -> Named: ...
    def load_state_dict(self, state: Any) -> object: ...


class State:
    """The position and where the tensors are. Made before an engine wraps the module, completed after it."""

    def __init__(self, module: nn.Module, found: Checkpoint | None, *, steps_per_epoch: int) -> None:
        self._found = found
        self.step = self.epochs = 0
        self.best = -math.inf
        self.skipped = self.skipped_in_a_row = 0
        if found is not None:
            self.step = found.step
            self._load_numbers(found.state(), steps_per_epoch)
            weights = found.tensors("model")
            require_same_tensors(weights, module.state_dict())
            module.load_state_dict(weights)

    def complete(self, engine: Engine, *, bank: Stateful, ema: Stateful | None) -> None:
        """Restore the rest, by the names above."""
        self._engine = engine
        self._others: dict[str, Stateful] = {"bank": bank} | ({} if ema is None else {"ema": ema})
        self._buffers = list(engine.module.buffers())
        if self._found is not None:
            engine.load_optimizer_state(self._found.tensors("optimizer"))
            for name, one in self._others.items():
                one.load_state_dict(self._found.tensors(name))
        self._found = None  # its bytes need not stay in memory
        self._before = [b.detach().clone() for b in self._buffers]

    def numbers(self) -> dict[str, Any]:
        """What is not a tensor; the step is in the manifest."""
        best = self.best if math.isfinite(self.best) else None
        skipped = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return {"epochs": self.epochs, "best": best, **skipped}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies in this machine's memory, on rank 0; nothing on the others. Every rank must call it."""
        saved = {"model": self._engine.weights(), "optimizer": self._engine.optimizer_state()}
        if distributed.rank() == 0:
            saved |= {name: on_host(one.state_dict()) for name, one in self._others.items()}
        return saved

    @torch.no_grad()
    def agree(self, *flags: bool | Tensor) -> list[bool]:
        """After every backward pass: average BatchNorm's statistics over ranks; which flags any rank has raised.

        One all-reduce for both, of numbers that a step moves anyway.
        """
        device = self._before[0].device if self._before else "cpu"
        raised = torch.stack([torch.as_tensor(flag, device=device).double() for flag in flags])
        return [count > 0 for count in distributed.mean_buffers(self._engine.module, raised=raised).tolist()]

    @torch.no_grad()
    def advance(self, *, skipped: bool) -> None:
        """The step is over. One that is skipped leaves no trace but its number."""
        self.step += 1
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        copy(self._before, self._buffers) if skipped else copy(self._buffers, self._before)

    def _load_numbers(self, saved: Mapping[str, Any], steps_per_epoch: int) -> None:
        self.epochs = saved.get("epochs", self.step // steps_per_epoch)
        self.best = -math.inf if saved["best"] is None else saved["best"]
        self.skipped, self.skipped_in_a_row = saved.get("skipped", 0), saved.get("skipped_in_a_row", 0)


def on_host(tensors: Named) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def copy(source: list[Tensor], target: list[Tensor]) -> None:
    """A launch or two on a GPU: statistics are floating, counts of batches are not."""
    for floating in (True, False):
        mine = [i for i, tensor in enumerate(source) if tensor.is_floating_point() == floating]
        if mine:
            torch._foreach_copy_([target[i] for i in mine], [source[i] for i in mine])
