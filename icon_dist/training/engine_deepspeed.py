"""The optimiser side of training: a DeepSpeed engine, or the same interface in plain torch.

State leaves as whole tensors under parameter names, whatever the ZeRO stage and world size: a checkpoint of four
workers at stage 3 loads into one worker at stage 0. Nothing of DeepSpeed's own (pickled) checkpoint format is used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from icon_dist import distributed

MOMENTS = ("exp_avg", "exp_avg_sq")
Named = dict[str, Tensor]


@runtime_checkable
class Engine(Protocol):
    """What the loop needs. Gradients are averaged over ranks and over ``accumulation`` micro-batches."""

    module: nn.Module

    def __call__(self, *images: Tensor | None) -> Any:
        """What the module makes of them."""

    def backward(self, loss: Tensor) -> None: ...
    def finite(self) -> Tensor:
        """After the last backward of an accumulation: whether the gradients that this rank holds are finite."""

    def step(self, *, lr: float, skip: bool = False) -> None:
        """Call after every backward; the parameters move at the last one of an accumulation.

        With ``skip`` they do not, nor does Adam, and the gradients are forgotten.
        """

    def weights(self) -> Named:
        """Whole fp32 parameters and buffers by name, on rank 0. Every rank must call it."""

    def optimizer_state(self) -> Named:
        """Adam's moments as ``exp_avg.NAME`` and ``exp_avg_sq.NAME``, and ``step``, on rank 0. Every rank must call it.

        Empty if Adam has never moved.
        """

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None: ...
    def close(self) -> None:
        """Let go of the module: a process that trains again would else keep every model it has trained."""


def wrap(
    model: nn.Module,
    *,
    zero: int,
    micro_batch: int,
    accumulation: int,
    world: int,
    bf16: bool,
    compiled: bool,
    lr: float,
) -> Engine:
    """Adam without weight decay (the paper's) around ``model``, which already sits on its device.

    Without the deepspeed package (a bare machine, one process) the same loop runs on plain torch.
    """
    if compiled:
        model.compile()
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = all(p.is_cuda for p in parameters)  # one launch instead of one for each of Adam's operations
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=fused)
    if importlib.util.find_spec("deepspeed") is None:
        assert world == 1, "several workers need deepspeed"
        return PlainEngine(model, optimizer, accumulation=accumulation, bf16=bf16)
    return DeepSpeedEngine(
        model, optimizer, zero=zero, micro_batch=micro_batch, accumulation=accumulation, world=world, bf16=bf16
    )


class PlainEngine:
    """One process, no DeepSpeed."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Adam, *, accumulation: int, bf16: bool) -> None:
        self.module = model
        self._optimizer = optimizer
        self._accumulation = accumulation
        self._calls = 0
        self._bf16 = bf16
        self._device = next(model.parameters()).device.type
        if self._device == "cuda":
            lay_channels_last(model)

    def __call__(self, *images: Tensor | None) -> Any:
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._bf16):
            return self.module(*images)

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulation).backward()  # type: ignore[no-untyped-call]

    def finite(self) -> Tensor:
        return _finite([p.grad for p in self.module.parameters() if p.grad is not None])

    def step(self, *, lr: float, skip: bool = False) -> None:
        self._calls += 1
        if self._calls % self._accumulation:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if not skip:
            self._optimizer.step()
        self._optimizer.zero_grad()

    def weights(self) -> Named:
        return _copied(self.module.state_dict())

    def optimizer_state(self) -> Named:
        return _adam_state(self._optimizer, self.module)

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        for parameter in self.module.parameters():
            self._optimizer.state[parameter] = _fresh(self._optimizer, parameter, state["step"])
        for name, key, value in _moments(self.module, state):
            self._optimizer.state[self.module.get_parameter(name)][key].copy_(value)

    def close(self) -> None:
        """Nothing else holds it."""


class DeepSpeedEngine:
    """ZeRO 0-3 over the process group that is already initialised (Ray's, or a group of one)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Adam,
        *,
        zero: int,
        micro_batch: int,
        accumulation: int,
        world: int,
        bf16: bool,
    ) -> None:
        deepspeed = _import_deepspeed(next(model.parameters()).device)
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "train_batch_size": micro_batch * accumulation * world,
            "zero_optimization": {"stage": zero},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # its default is 1: the paper does not clip
            # bf16 in autocast: parameters and BatchNorm stay fp32 ("bf16": enabled breaks BatchNorm's buffers).
            # No modules are "safe": it would round their gradients to bf16, and with them Adam's moments.
            "torch_autocast": {"enabled": bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
            "steps_per_print": 2**62,
            "timers": {"throughput": {"enabled": False}},  # it waits for the device at every step
        }
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._zero = zero
        self.module: nn.Module = self._engine.module
        if zero == 0 and self._engine.device.type == "cuda":  # the other stages flatten the parameters
            lay_channels_last(model)  # not before: DeepSpeed's broadcast refuses them

    def __call__(self, *images: Tensor | None) -> Any:
        return self._engine(*images)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def finite(self) -> Tensor:
        if self._zero == 0:
            return _finite([p.grad for p in self.module.parameters() if p.grad is not None])
        parts = self._engine.optimizer.averaged_gradients.values()  # reduced by backward, this rank's share
        return _finite([gradient for part in parts for gradient in part or ()])

    def step(self, *, lr: float, skip: bool = False) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        with _still(self._adam) if skip else nullcontext():
            self._engine.step()

    @property
    def _adam(self) -> torch.optim.Optimizer:
        outer = self._engine.optimizer
        inner: torch.optim.Optimizer = outer if self._zero == 0 else outer.optimizer
        return inner

    def weights(self) -> Named:
        if self._zero < 3:
            return _copied(self.module.state_dict()) if distributed.rank() == 0 else {}
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Named = {}
        for name, parameter in self.module.named_parameters():
            tensor = safe_get_full_fp32_param(parameter)
            if distributed.rank() == 0:
                whole |= _copied({name: tensor})
        if distributed.rank() > 0:
            return {}
        whole |= _copied(dict(self.module.named_buffers()))
        return {name: whole[name] for name in self.module.state_dict()}

    def optimizer_state(self) -> Named:
        if self._zero == 0:
            return _adam_state(self._adam, self.module) if distributed.rank() == 0 else {}
        import deepspeed.utils

        whole: Any = deepspeed.utils.safe_get_full_optimizer_state
        step = next((s["step"] for s in self._adam.state.values() if "step" in s), None)
        if step is None:
            return {}
        state = {"step": torch.tensor(float(step))}
        for name, parameter in self.module.named_parameters():
            for key in MOMENTS:
                tensor = whole(parameter, key)
                if distributed.rank() == 0:
                    state |= _copied({f"{key}.{name}": tensor})
        return state if distributed.rank() == 0 else {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        # Adam makes its state at the first step; here it must exist before, one entry per (flat) partition.
        for parameter in self._partitions():
            self._adam.state[parameter] = _fresh(self._adam, parameter, state["step"])
        if self._zero in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, key, value in _moments(self.module, state):
            self._set_moment(self.module.get_parameter(name), key, value)

    def close(self) -> None:
        self._engine.destroy()  # hooks on gradients hold the engine, in C++ where no garbage collector sees them

    def _partitions(self) -> list[Tensor]:
        """The tensors that this rank's Adam moves."""
        if self._zero == 0:
            return list(self.module.parameters())
        outer: Any = self._engine.optimizer
        flat: list[Tensor] = (
            outer.fp32_partitioned_groups_flat if self._zero == 3 else outer.single_partition_of_fp32_groups
        )
        return flat

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        outer = self._engine.optimizer
        if self._zero == 0:
            outer.state[parameter][key].copy_(value)
        elif self._zero < 3:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        else:
            # The public setter cannot cut a tensor whose size the world does not divide.
            part, _ = outer._get_fp32_opt_state_partition(parameter, False, key)
            first = part.numel() * outer._get_param_partition_rank(parameter)
            mine = value.flatten()[first : first + part.numel()]
            part[: mine.numel()].copy_(mine)


def lay_channels_last(model: nn.Module) -> None:
    """Weights as the activations lie: else every convolution of a GPU turns them first, about 900 launches a step.

    Not on a CPU, where some kernels then sum in another order: stages 0 and 1 would differ in the last bit.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _import_deepspeed(device: torch.device) -> Any:
    # It would move the model to a GPU that the machine has but this run does not use (run.gpus_per_worker=0).
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if device.type == "cpu":
        # Otherwise the first collective compiles a shared-memory extension for over a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _fresh(optimizer: torch.optim.Optimizer, parameter: Tensor, step: Tensor) -> dict[str, Tensor]:
    """Adam's state of a parameter before its moments are known; fused Adam counts its steps on the device."""
    device = parameter.device if optimizer.defaults["fused"] else "cpu"
    return {
        "step": step.detach().to(device, copy=True),
        **{key: torch.zeros_like(parameter.data) for key in MOMENTS},
    }


def _moments(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    for name, _ in module.named_parameters():
        for key in MOMENTS:
            yield name, key, state[f"{key}.{name}"]


def _adam_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> Named:
    state: Named = {}
    for name, parameter in module.named_parameters():
        if own := optimizer.state.get(parameter):
            state |= {f"{key}.{name}": own[key] for key in MOMENTS} | {"step": own["step"]}
    return _copied(state)


def _copied(tensors: Mapping[str, Tensor]) -> Named:
    """On the CPU and contiguous, whatever the layout in memory."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _finite(gradients: list[Tensor]) -> Tensor:
    """By their norms, which no infinity or NaN in them leaves finite."""
    norms = torch._foreach_norm(gradients) if gradients else (torch.zeros(()),)
    return torch.stack([norm.float() for norm in norms]).isfinite().all()


@contextmanager
def _still(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A step of the engine around this optimizer counts, forgets the gradients, and moves nothing."""
    optimizer.step = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del optimizer.step
