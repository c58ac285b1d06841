"""Run the training loop in this process: debugging, or a machine with one GPU and no Ray."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import os
import pkgutil

import torch

from icon_dist import distributed
from icon_dist.config import Config
from icon_dist.errors import ClusterError, out_of_memory
from icon_dist.launch.signals import Stop
from icon_dist.loggers.events import Event, Stopped
from icon_dist.loggers.logger import Logger


def require_device(config: Config) -> None:
    """ClusterError where the config wants a GPU and this machine has none."""
    if config.run.gpus_per_worker and not torch.cuda.is_available():
        raise ClusterError("run.gpus_per_worker=1: this machine has no GPU that torch can use; set it to 0")


def launch(config: Config, loop: str, logger: Logger) -> None:
    """Call ``loop`` ("module:function") here and now; DeepSpeed gets a process group of one."""
    require_device(config)
    logger.say("loading model and data in this process")
    device = "cuda:0" if config.run.gpus_per_worker else "cpu"
    if importlib.util.find_spec("deepspeed") is not None:
        group_of_one("gloo" if device == "cpu" else "nccl")
    ended_at: list[int] = []

    def report(event: Event) -> None:
        if isinstance(event, Stopped):
            ended_at.append(event.step)
        logger(event)

    with Stop() as stop:
        try:
            with logger:
                pkgutil.resolve_name(loop)(config, report=report, device=device, stop=stop)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error) from None
        finally:
            gc.collect()  # a run refers to itself: its networks and graphs would stay on the GPU in the next trial
        if ended_at:
            raise stop.stopped(ended_at[0])


@functools.cache
def group_of_one(backend: str) -> None:
    """DeepSpeed wants a process group, and remembers the first one for good: it lasts as long as the process."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists
    distributed.init_alone(backend)
    atexit.register(distributed.shut_down)
