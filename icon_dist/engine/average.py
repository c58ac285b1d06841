"""Exponential moving average of the weights (``optim.ema``): evaluated instead of the raw ones when it is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from icon_dist.engine.checkpoint import require_same_tensors


class Average:
    """Averaged copies of every floating tensor in ``module.state_dict()``; equal on all ranks because the module is."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._module = module
        self._decay = decay
        self._mean = {name: tensor.detach().clone() for name, tensor in self._floating()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number ``step`` (from 1); early steps forget faster: no trace of the random start."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._floating():
            self._mean[name].lerp_(tensor, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with averaged weights, for an evaluation."""
        raw = {name: tensor.detach().clone() for name, tensor in self._floating()}
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(raw)

    def state_dict(self) -> dict[str, Tensor]:
        return self._mean

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        require_same_tensors(state, self._mean, part="ema ")
        for name, tensor in self._mean.items():
            tensor.copy_(state[name])

    def _floating(self) -> list[tuple[str, Tensor]]:
        return [(n, t) for n, t in self._module.state_dict().items() if t.is_floating_point()]

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._floating():
            tensor.copy_(values[name])
