"""``run.precision``: bf16 under autocast, or fp32, and what a GPU may round products to."""

from __future__ import annotations

import torch

from icon_dist.config import RunConfig


def chosen(precision: str, *, on_gpu: bool) -> str:
    """``fp32`` or ``bf16``: ``auto`` is bf16 on a GPU."""
    return precision if precision != "auto" else "bf16" if on_gpu else "fp32"


def changed(before: RunConfig, after: RunConfig) -> list[str]:
    """``run.precision=bf16 (was fp32)`` where it has changed: beside the seed it decides the result of a run."""
    was, now = (chosen(run.precision, on_gpu=run.gpus_per_worker > 0) for run in (before, after))
    return [f"run.precision={now} (was {was})"] if now != was else []


def use_precision(precision: str) -> None:
    """What a GPU may round products to beside bf16's autocast: nothing for fp32, else the 10 bits of TF32."""
    exact = precision == "fp32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact  # True by default, also where products are exact
    torch.backends.cudnn.benchmark = True  # all batches have one shape: the fastest kernels are looked for once
