"""Choose the engine of a run, the optimizer's side of training. Its interface is that of :class:`PlainEngine`.

State is saved as whole tensors under parameter names, whatever the ZeRO stage and world size: a checkpoint of four
workers at stage 3 loads into one worker at stage 0.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn

from icon_dist.errors import ClusterError
from icon_dist.training.engine_deepspeed import DeepSpeedEngine
from icon_dist.training.engine_plain import PlainEngine

Engine = PlainEngine | DeepSpeedEngine


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
