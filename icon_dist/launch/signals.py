"""SIGTERM, SIGHUP, Ctrl-C, preemption: the first request lets a run save and leave, a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.errors import StoppedError
from icon_dist.storage import lock

RESUMABLE = StoppedError.exit_code
T = TypeVar("T")


class Stop:
    """What the driver was asked. Calling it tells the loop whether to end after this step.

    Until the first call of an attempt nothing can be lost that is not in the newest checkpoint, so a signal then ends
    the run where it stands: while it compiles, or waits for nodes.
    """

    def __init__(self) -> None:
        self.reason = ""  # who asked: SIGTERM, Ctrl-C ...
        self.exit_code = RESUMABLE
        self.heard = False  # by a loop that will act on it
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
            if self._handlers[signal.SIGHUP] == signal.SIG_IGN:
                del self._handlers[signal.SIGHUP]  # nohup
            for one in self._handlers:
                signal.signal(one, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        storage.leaving = False
        for one, handler in self._handlers.items():
            signal.signal(one, handler)

    def __call__(self) -> bool:
        """Whether the run was asked to leave. Raises ClusterError where its lock went to another command."""
        lock.check()
        self.heard = True
        return bool(self.reason)

    def ask(self, reason: str, *, exit_code: int = RESUMABLE) -> None:
        """Ask the run to save and leave after the current step.

        ``reason`` is named in its last line (SIGTERM, Ctrl-C ...); ``exit_code`` is what the process leaves with.
        """
        self.reason, self.exit_code, storage.leaving = reason, exit_code, True

    def stopped(self, step: int | None) -> StoppedError:
        """What the run says when it ends: after ``step``, or before it took one."""
        where = "before its first step" if step is None else f"at step {step}, checkpoint committed"
        return StoppedError(f"stopped by {self.reason} {where}; the same command resumes", exit_code=self.exit_code)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.reason:
            os._exit(128 + number)
        if number == signal.SIGINT:
            self.ask("Ctrl-C", exit_code=128 + number)
        else:
            self.ask(signal.Signals(number).name)
        if not self.heard:
            raise self.stopped(None)


class LeavingError(Exception):
    """Ends an epoch, or its evaluation, in the middle: on all ranks at the same batch."""


def unless(stop: Callable[[], bool], forward: Callable[[Tensor], T], *, device: str) -> Callable[[Tensor], T]:
    """``forward``, until ``stop`` is true on any rank; every rank must call it equally often."""

    def watched(image: Tensor) -> T:
        """Return the outputs of ``forward``; raise LeavingError on every rank if one of them is to stop."""
        if distributed.sum_over_ranks(torch.tensor(float(stop()), device=device)) > 0:
            raise LeavingError
        return forward(image)

    return watched
