"""Vectors of unit norm: ``torch.nn.functional.normalize``, its gradient in closed form and with fewer operations."""

from __future__ import annotations

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, addcmul, autograd
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm

TINY = 1e-12  # what is shorter is divided by this


def unit(x: Float[Tensor, ...], *, dim: int = -1) -> Float[Tensor, ...]:
    """``x / max(|x|, 1e-12)`` along a dimension."""
    return cast(Tensor, _Unit.apply(x, dim))  # type: ignore[no-untyped-call]


class _Unit(autograd.Function):
    """With y = x / |x| and the gradient g of y: that of x is ``(g - (g . y) y) / |x|``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        norm = vector_norm(x, dim=dim, keepdim=True).clamp_min_(TINY)
        y: Tensor = x / norm
        ctx.save_for_backward(y, norm)
        ctx.dim = dim
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, norm = ctx.saved_tensors
        along = (grad * y).sum(ctx.dim, keepdim=True)
        return addcmul(grad, y, along, value=-1).div_(norm), None
