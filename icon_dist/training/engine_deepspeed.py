"""The engine of ZeRO stages 1 to 3: a DeepSpeed engine, whose partitions are saved as whole tensors by parameter name.

The only import of deepspeed. Nothing of its own (pickled) checkpoint format is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from icon_dist import distributed
from icon_dist.training.deepspeed_compat import link_moments, load_muon, moment_part
from icon_dist.training.optimizer import LR_SCALE
from icon_dist.training.optimizer_state import MOMENTS, Named, all_finite, copied, fresh, named_moments

# What costs time and is of no use here. Stage 1 has all gradients when it reduces them: a copy side by side spares no
# memory. Their norm is for clipping, with a message of its own; what is not finite, the loop has asked for before.
_SPARED: dict[int, dict[str, bool]] = {
    1: {"contiguous_gradients": False, "compute_grad_norm": False},
    2: {"compute_grad_norm": False},
    3: {},
}


class DeepSpeedEngine:
    """ZeRO over the process group that is already initialized (Ray's, or a group of one)."""

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
            "zero_optimization": {"stage": zero, **_SPARED[zero]},
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

    def __call__(self, *images: Tensor | None) -> Any:
        """What the module makes of the images."""
        return self._engine(*images)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """As :meth:`PlainEngine.backward` does; each rank keeps the gradients of its share."""
        self._engine.backward(loss)

    def finite(self) -> Bool[Tensor, ""]:
        """Whether the gradients of this rank's share are finite."""
        parts = self._engine.optimizer.averaged_gradients.values()  # reduced by backward, this rank's share
        return all_finite(gradient for part in parts for gradient in part or ())

    def step(self, *, lr: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        """Move the parameters at the last micro-batch of a step; waits for the host to read ``skip``."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = float(lr) * group.get(LR_SCALE, 1.0)
        with _still(self._adam) if skip else nullcontext():
            self._engine.step()

    @property
    def _adam(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self._engine.optimizer.optimizer
        return inner

    def weights(self) -> Named:
        """Whole parameters and buffers on rank 0; a collective at stage 3, where each rank has a part of each."""
        if self._zero < 3:
            return copied(self.module.state_dict()) if distributed.rank() == 0 else {}
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Named = {}
        for name, parameter in self.module.named_parameters():
            tensor = safe_get_full_fp32_param(parameter)
            if distributed.rank() == 0:
                whole |= copied({name: tensor})
        if distributed.rank() > 0:
            return {}
        whole |= copied(dict(self.module.named_buffers()))
        return {name: whole[name] for name in self.module.state_dict()}

    def optimizer_state(self) -> Named:
        """Adam's moments as whole tensors on rank 0. Collective."""
        import deepspeed.utils

        whole: Any = deepspeed.utils.safe_get_full_optimizer_state
        step = next((s["step"] for s in self._adam.state.values() if "step" in s), None)
        if step is None:
            return {}
        if self._zero < 3:
            link_moments(self._engine.optimizer)
        state = {"step": torch.tensor(float(step))}
        for name, parameter in self.module.named_parameters():
            for key in MOMENTS:
                tensor = whole(parameter, key)
                if distributed.rank() == 0:
                    state |= copied({f"{key}.{name}": tensor})
        return state if distributed.rank() == 0 else {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Give every rank its part of the whole moments."""
        if not state:
            return
        # Adam makes its state at the first step; here it must exist before, one entry per (flat) partition.
        for parameter in self._partitions():
            self._adam.state[parameter] = fresh(self._adam, parameter, state["step"])
        if self._zero < 3:
            link_moments(self._engine.optimizer)
        for name, key, value in named_moments(self.module, state):
            self._set_moment(self.module.get_parameter(name), key, value)

    def close(self) -> None:
        """Let go of the module, which hooks on gradients hold."""
        self._engine.destroy()  # hooks on gradients hold the engine, in C++ where no garbage collector sees them

    def _partitions(self) -> list[Tensor]:
        """The tensors that this rank's Adam moves."""
        outer: Any = self._engine.optimizer
        flat: list[Tensor] = (
            outer.fp32_partitioned_groups_flat if self._zero == 3 else outer.single_partition_of_fp32_groups
        )
        return flat

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if self._zero < 3:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        else:
            part, first = moment_part(self._engine.optimizer, parameter, key)
            mine = value.flatten()[first : first + part.numel()]
            part[: mine.numel()].copy_(mine)


def _import_deepspeed(device: torch.device) -> Any:
    # It would move the model to a GPU that the machine has but this run does not use (run.gpus_per_worker=0).
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if device.type == "cpu":
        # Otherwise the first collective compiles a shared-memory extension for over a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    load_muon()
    return deepspeed


@contextmanager
def _still(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block a step of the engine counts and drops the gradients, but moves nothing."""
    optimizer.step = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del optimizer.step
