"""What runs on a Ray Train worker around the loop, which is ``training/loop.py``."""

from __future__ import annotations

import contextlib
import pkgutil
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from icon_dist import config as configuration
from icon_dist import errors, storage
from icon_dist.loggers.events import Event, Fatal, Listening, Up
from icon_dist.storage import lock

DELIVERY_S = 30  # of the last words of a worker that fails
ASK_EVERY_S = 0.25  # whether the driver wants the run to stop


class _Asked:
    """Whether the mailbox asks to stop, as a thread learns it: the loop never waits for an answer."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox, self._heard = mailbox, False
        self._asked = threading.Event()
        threading.Thread(target=self._watch, name="asked", daemon=True).start()

    def __call__(self) -> bool:
        if not self._heard:
            self._heard = True
            self._mailbox.put.remote(Listening())
        return self._asked.is_set()

    def _watch(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone, and soon this process
            while not ray.get(self._mailbox.asked_to_stop.remote()):
                time.sleep(ASK_EVERY_S)
            storage.leaving = True
            self._asked.set()


def work(payload: Mapping[str, Any]) -> None:
    """One worker's life: ``loop(config, report=..., device=..., stop=...)``."""
    lock.adopt(payload["locks"])
    loop = pkgutil.resolve_name(payload["loop"])
    mailbox = payload["mailbox"]
    first = ray.train.get_context().get_world_rank() == 0
    mailbox.put.remote(Up(ray.get_runtime_context().get_node_id()))

    def report(event: Event) -> None:
        if first:
            mailbox.put.remote(event)

    try:
        loop(
            configuration.from_dict(payload["config"]),
            report=report,
            device=str(ray.train.torch.get_device()),
            stop=_Asked(mailbox) if first else lambda: False,
        )
    except Exception as error:
        # Where a worker is lost, Ray ends the group of the others under their feet: whatever fails then is no fault.
        event = fatal(error) if torch.distributed.is_initialized() else None
        last = mailbox.asked_to_stop.remote() if event is None else mailbox.put.remote(event)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(last, timeout=DELIVERY_S)  # and with it all that was told before
        raise


def fatal(error: Exception) -> Fatal | None:
    """What ends the run; None for a lost process and for what the others see of it: worth another start."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, torch.OutOfMemoryError):
        kind, text = "ClusterError", str(errors.out_of_memory(error))
    elif isinstance(error, torch.AcceleratorError):  # the process has lost its GPU for good, and the next one may too
        kind, text = "ClusterError", f"{text.splitlines()[0]}; look at the GPU (nvidia-smi), then resume"
    elif isinstance(error, errors.ClusterError | RuntimeError | OSError) and not isinstance(error, errors.TakenError):
        return None
    elif not isinstance(error, errors.IconError):
        kind, text = "", "".join(traceback.format_exception(error))
    return Fatal(kind, text)
