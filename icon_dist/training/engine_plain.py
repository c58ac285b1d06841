"""The engine in plain torch (ZeRO stage 0): every rank has all parameters; gradients are averaged in one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from icon_dist import distributed
from icon_dist.training.optimizer import LR_SCALE
from icon_dist.training.optimizer_state import Named, all_finite, copied, fresh, named_moments, named_state


class PlainEngine:
    """DeepSpeed's stage 0 in every bit, without its launches: on a GPU nothing in a step waits for the host.

    Gradients are averaged over ranks and over ``accumulation`` micro-batches.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Adam, *, accumulation: int, bf16: bool) -> None:
        self.module = model
        self._optimizer = optimizer
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._accumulation = accumulation
        self._calls = 0
        self._bf16 = bf16
        self._device = next(model.parameters()).device.type
        distributed.copy_from_first([*model.parameters(), *model.buffers()])
        if self._device == "cuda":
            lay_channels_last(model)

    def __call__(self, *images: Tensor | None) -> Any:
        """What the module makes of the images, under autocast where the engine has bf16."""
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
            return self.module(*images)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of the loss of one micro-batch; the last one of a step averages them over ranks."""
        (loss / self._accumulation).backward()  # type: ignore[no-untyped-call]
        if (self._calls + 1) % self._accumulation == 0 and distributed.world_size() > 1:
            for parameter in self._parameters:
                if parameter.grad is None:  # all ranks reduce the same tensors
                    parameter.grad = torch.zeros_like(parameter)
            distributed.average_in_place([p.grad for p in self._parameters if p.grad is not None])

    def finite(self) -> Bool[Tensor, ""]:
        """Whether the gradients that this rank holds are finite, after the last backward of an accumulation."""
        return all_finite(p.grad for p in self._parameters if p.grad is not None)

    def step(self, *, lr: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        """Call after every backward; the parameters move at the last one of an accumulation.

        Where ``skip`` holds they do not, nor does Adam, and the gradients are forgotten; a GPU reads it without the
        host.
        """
        self._calls += 1
        if self._calls % self._accumulation:
            return
        adam = self._optimizer
        fused = adam.defaults["fused"]
        on_device = isinstance(lr, Tensor) and lr.is_cuda
        for group in adam.param_groups:
            scaled = lr * group.get(LR_SCALE, 1.0)
            group["lr"] = scaled.float() if fused and isinstance(scaled, Tensor) else float(scaled)
            group["capturable"] = on_device and torch.cuda.is_current_stream_capturing()  # else torch warns of it
        if fused:  # it reads on the device whether to move at all
            adam.found_inf = None if skip is None else skip.float()  # type: ignore[attr-defined]
            adam.step()
        elif skip is None or not skip:
            adam.step()
        adam.zero_grad()

    def weights(self) -> Named:
        """Whole fp32 parameters and buffers by name, on rank 0. Every rank must call it."""
        return copied(self.module.state_dict()) if distributed.rank() == 0 else {}

    def optimizer_state(self) -> Named:
        """Adam's moments as ``exp_avg.NAME`` and ``exp_avg_sq.NAME``, and ``step``, on rank 0. Every rank must call it.

        Empty if Adam has never moved.
        """
        return named_state(self._optimizer, self.module) if distributed.rank() == 0 else {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`optimizer_state` gave, on every rank; Adam stays as it is where that was empty."""
        if not state:
            return
        for parameter in self.module.parameters():
            self._optimizer.state[parameter] = fresh(self._optimizer, parameter, state["step"])
        for name, key, value in named_moments(self.module, state):
            self._optimizer.state[self.module.get_parameter(name)][key].copy_(value)

    def close(self) -> None:
        """Let go of the module: a process that trains again would else keep every model. Here nothing else holds it."""


def lay_channels_last(model: nn.Module) -> None:
    """Weights as the activations lie: else every convolution of a GPU turns them first, about 900 launches a step.

    Not on a CPU, where some kernels then sum in another order: stages 0 and 1 would differ in the last bit.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
