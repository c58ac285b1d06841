"""What the loop asks of an engine, the optimizer's side of training, and which engine a run gets.

State leaves as whole tensors under parameter names, whatever the ZeRO stage and world size: a checkpoint of four
workers at stage 3 loads into one worker at stage 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from icon_dist.errors import ClusterError
from icon_dist.training.engine_deepspeed import DeepSpeedEngine
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.optimizer_state import Named


@runtime_checkable
class Engine(Protocol):
    """Gradients are averaged over ranks and over ``accumulation`` micro-batches."""

    module: nn.Module

    def __call__(self, *images: Tensor | None) -> Any:
        """What the module makes of them."""

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of the loss of one micro-batch; the last one of a step averages them over ranks."""

    def finite(self) -> Bool[Tensor, ""]:
        """After the last backward of an accumulation: whether the gradients that this rank holds are finite."""

    def step(self, *, lr: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        """Call after every backward; the parameters move at the last one of an accumulation.

        Where ``skip`` holds they do not, nor does Adam, and the gradients are forgotten.
        """

    def weights(self) -> Named:
        """Whole fp32 parameters and buffers by name, on rank 0. Every rank must call it."""

    def optimizer_state(self) -> Named:
        """Adam's moments as ``exp_avg.NAME`` and ``exp_avg_sq.NAME``, and ``step``, on rank 0. Every rank must call it.

        Empty if Adam has never moved.
        """

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`optimizer_state` gave, on every rank; Adam stays as it is where that was empty."""

    def close(self) -> None:
        """Let go of the module: a process that trains again would else keep every model it has trained."""


def wrap(
    model: nn.Module,
    optimizer: torch.optim.Adam,
    *,
    zero: int,
    micro_batch: int,
    accumulation: int,
    world: int,
    bf16: bool,
    compiled: bool,
) -> Engine:
    """``optimizer`` (optimizer.py) and ``model``, which already sits on its device, in the engine of a ZeRO stage.

    Stage 0 is plain torch, and DeepSpeed partitions what stages 1 to 3 do. A single process has nothing to partition:
    where the deepspeed package is missing (a bare machine), it goes without at any stage, and has the same bits.
    """
    if compiled:
        model.compile()
    absent = importlib.util.find_spec("deepspeed") is None
    if zero == 0 or (absent and world == 1):
        return PlainEngine(model, optimizer, accumulation=accumulation, bf16=bf16)
    if absent:
        raise ClusterError(f"run.zero={zero}: the package deepspeed is missing; install it, or set run.zero=0")
    return DeepSpeedEngine(
        model, optimizer, zero=zero, micro_batch=micro_batch, accumulation=accumulation, world=world, bf16=bf16
    )
