"""Run the training loop in this process: debugging, or a box with one GPU and no Ray."""

from __future__ import annotations

import importlib.util
import os
import pkgutil

import torch

from icon_dist import distributed
from icon_dist.config import Config
from icon_dist.engine.progress import Progress
from icon_dist.errors import ClusterError


def launch(config: Config, loop: str, progress: Progress) -> None:
    """Call ``loop`` ("module:function") here and now; DeepSpeed gets a process group of one."""
    if config.run.gpus_per_worker and not torch.cuda.is_available():
        raise ClusterError("run.gpus_per_worker=1: this machine has no GPU that torch can use; set it to 0")
    device = "cuda" if config.run.gpus_per_worker else "cpu"
    alone = importlib.util.find_spec("deepspeed") is None
    if not alone:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists
        distributed.init_alone("nccl" if device == "cuda" else "gloo")
    try:
        pkgutil.resolve_name(loop)(config, report=progress, device=device)
    finally:
        progress.close()
        if not alone:
            distributed.shut_down()
