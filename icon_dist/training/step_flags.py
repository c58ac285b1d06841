"""The flags of steps on their way to the host, which reads them a step later and so never waits for a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor


class Flags:
    """Flags of steps, first in, first out."""

    def __init__(self, *, late: bool) -> None:
        """``late``: those of the newest step are still on their way, as on a GPU; else all arrive at once."""
        self._late = late
        self._under_way: deque[tuple[int, Tensor, Any]] = deque()

    def send(self, step: int, flags: Bool[Tensor, " n"]) -> None:
        """Begin to copy the flags of a step; they must be sent in the same order on all ranks."""
        if flags.device.type == "cpu":
            self._under_way.append((step, flags, None))
            return
        host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._under_way.append((step, host, event))

    def arrived(self, *, wait: bool) -> Iterator[tuple[int, list[bool]]]:
        """Steps and their flags, each once: with ``wait`` of all steps, else of all but the newest if it is late.

        Which they are does not depend on how fast a rank is: all ranks act on the same flags at the same step.
        """
        while len(self._under_way) > (self._late and not wait):
            step, flags, event = self._under_way.popleft()
            if event is not None:
                event.synchronize()
            yield step, flags.tolist()
