"""Adam's state as whole tensors under parameter names, which every engine writes and reads: ``exp_avg.NAME`` and
``exp_avg_sq.NAME``, and the number of steps as ``step``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from icon_dist.tensors.torch_compat import foreach_norm

MOMENTS = ("exp_avg", "exp_avg_sq")
Named = dict[str, Tensor]


def named_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> Named:
    """Copies of what the optimizer keeps of each parameter; empty if it has never moved."""
    state: Named = {}
    for name, parameter in module.named_parameters():
        if own := optimizer.state.get(parameter):
            state |= {f"{key}.{name}": own[key] for key in MOMENTS} | {"step": own["step"]}
    return copied(state)


def named_moments(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Parameter name, kind of moment and its value, for every parameter of the module."""
    for name, _ in module.named_parameters():
        for key in MOMENTS:
            yield name, key, state[f"{key}.{name}"]


def fresh(optimizer: torch.optim.Optimizer, parameter: Tensor, step: Tensor) -> Named:
    """Adam's state of a parameter before its moments are known; fused Adam counts its steps on the device."""
    device = parameter.device if optimizer.defaults["fused"] else "cpu"
    return {
        "step": step.detach().to(device, copy=True),
        **{key: torch.zeros_like(parameter.data) for key in MOMENTS},
    }


def copied(tensors: Mapping[str, Tensor]) -> Named:
    """On the CPU and contiguous, whatever the layout in memory."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def all_finite(gradients: Iterable[Tensor]) -> Bool[Tensor, ""]:
    """By their norms, which no infinity or NaN in them leaves finite."""
    tensors = list(gradients)
    norms = foreach_norm(tensors) if tensors else (torch.zeros(()),)
    return torch.stack([norm.float() for norm in norms]).isfinite().all()
