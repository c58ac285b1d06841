"""Unit vectors against ``torch.nn.functional.normalize`` and its gradient by autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from icon_dist.tensors.unit_vectors import unit


@pytest.mark.parametrize("dim", [1, -1])
def test_values_are_the_bits_of_normalize_and_gradients_those_of_autograd(dim: int) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] = 0  # no direction, and a finite gradient
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, right = unit(one, dim=dim), F.normalize(two, dim=dim)
    assert torch.equal(found, right)
    slope = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, expected = torch.autograd.grad(found, one, slope)[0], torch.autograd.grad(right, two, slope)[0]
    assert expected.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))
