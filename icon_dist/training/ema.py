"""Exponential moving average of the weights (``optim.ema``): evaluated instead of the raw ones when it is on.

The teacher of pseudo labels is no such average, but frozen (``methods/frozen_teacher.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from icon_dist.checkpoints.weights import require_same_tensors
from icon_dist.tensors.torch_compat import foreach_add_, foreach_copy_, foreach_lerp_, foreach_mul_, foreach_sub


class Average:
    """Averaged copies of every floating tensor in ``module.state_dict()``; equal on all ranks because the module is."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        # The parameters themselves, because DeepSpeed may give one another place in memory.
        saved = module.state_dict(keep_vars=True)
        self._raw = {name: tensor for name, tensor in saved.items() if tensor.is_floating_point()}
        self._mean = {name: tensor.detach().clone() for name, tensor in self._raw.items()}

    @torch.no_grad()
    def update(self, step: int | Int64[Tensor, ""], *, keep: Bool[Tensor, ""] | None = None) -> None:
        """After optimizer step number ``step`` (from 1); early steps decay faster, so that no random start remains.

        Where ``keep`` does not hold, nothing changes (None = it holds).
        """
        at = torch.zeros((), dtype=torch.float64, device=keep.device if keep is not None else None) + step
        weight = 1 - ((1 + at) / (10 + at)).clamp(max=self._decay)
        if keep is not None:
            weight = weight * keep
        mean, raw = [*self._mean.values()], [*self._raw.values()]
        if weight.device.type == "cpu":
            foreach_lerp_(mean, raw, float(weight))
            return
        move_towards(mean, raw, weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with averaged weights, for an evaluation."""
        raw = {name: tensor.detach().clone() for name, tensor in self._raw.items()}
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(raw)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors by their names in the module; not copies."""
        return self._mean

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages. Raises CheckpointError where names, shapes or types are not the module's."""
        require_same_tensors(state, self._mean, part="ema ")
        for name, tensor in self._mean.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        foreach_copy_([*self._raw.values()], [values[name] for name in self._raw])


def move_towards(mean: list[Tensor], raw: list[Tensor], weight: Float[Tensor, ""]) -> None:
    """``lerp`` with a weight that only the device knows; with 0 nothing changes."""
    change = foreach_sub(raw, mean)
    foreach_mul_(change, weight.float())
    foreach_add_(mean, change)
