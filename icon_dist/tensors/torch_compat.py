"""Members of torch without a public name; what is relied on of each: ``tests/unit/tensors/test_torch_compat.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

# One operation on lists of tensors, in place where the name ends in _: a launch or two on a GPU, however many they are.
foreach_add_ = torch._foreach_add_
foreach_copy_ = torch._foreach_copy_
foreach_lerp_ = torch._foreach_lerp_
foreach_mul_ = torch._foreach_mul_
foreach_norm = torch._foreach_norm
foreach_sub = torch._foreach_sub

# ``(x, weight, bias, "none", [], "")`` is ``x @ weight.T + bias`` by oneDNN; None in a torch without it.
linear_pointwise: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def bmm_of_bf16(a: Tensor, b: Tensor) -> Tensor:
    """``torch.bmm`` of bf16 tensors with its result in fp32, as which it sums; only CUDA has an operation for it."""
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a.float(), b.float())


def all_gather_single(received: Tensor, sent: Tensor, **options: Any) -> Any:
    """``dist.all_gather_single``, by its old name before torch 2.13, which warns about it since."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(received, sent, **options)


def reduce_scatter_single(received: Tensor, sent: Tensor, **options: Any) -> Any:
    """``dist.reduce_scatter_single``, by its old name before torch 2.13, which warns about it since."""
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return scatter(received, sent, **options)
