"""Models without values: of shapes alone, to count what they would hold, or to be filled with stored weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_alone() -> Iterator[None]:
    """What is built in this block is on the meta device, and is not filled: for that torch imports its compiler."""
    with torch.device("meta"), Unfilled():
        yield


class Unfilled(TorchFunctionMode):
    """Leaves new parameters as they are: whatever the memory held before."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return [*args, *(kwargs or {}).values()][0]
        return func(*args, **(kwargs or {}))
