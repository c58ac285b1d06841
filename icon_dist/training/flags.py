"""What a step says of itself, on its way to the host: a GPU is not waited for, its flags are read a step later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor


class Flags:
    """Flags of steps, first in, first out. On a CPU all have arrived at once."""

    def __init__(self) -> None:
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
        """Steps and their flags, each once: with ``wait`` of all steps, else on a GPU of all but the newest.

        Which they are does not depend on how fast a rank is: all ranks act on the same flags at the same step.
        """
        while self._under_way:
            step, flags, event = self._under_way[0]
            if event is not None:
                if not wait and len(self._under_way) == 1:
                    return
                event.synchronize()
            self._under_way.popleft()
            yield step, flags.tolist()
