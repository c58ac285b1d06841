"""Members of DeepSpeed without a public name, in one place.

``tests/runs/training/test_engine_deepspeed.py`` says what is relied on.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn


def link_moments(optimizer: Any) -> None:
    """Adam's moments of all groups of parameters to where DeepSpeed looks for them.

    It does so once, when the first group has moved and the others have no moments yet.
    """
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def moment_part(optimizer: Any, parameter: nn.Parameter, key: str) -> tuple[Tensor, int]:
    """This rank's part of a moment at ZeRO stage 3, flat, and where it begins in the whole.

    The public setter cannot cut a tensor whose size the world does not divide.
    """
    part, _ = optimizer._get_fp32_opt_state_partition(parameter, False, key)
    return part, part.numel() * optimizer._get_param_partition_rank(parameter)


def load_muon() -> None:
    """Import DeepSpeed's Muon, which every engine asks for, without making ready what compiles it: that takes a second.

    No run of ours uses it.
    """
    from deepspeed.runtime import compiler

    compiles, compiler.compile = compiler.compile, lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiles
