"""What is relied on of torch's members without a public name. A torch in which one of these fails needs another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icon_dist.tensors import torch_compat


def lists() -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(shape, generator=g) for shape in ((3,), (2, 5), ())] for _ in range(2))
    return a, b


@pytest.mark.parametrize("name", ["add_", "copy_", "lerp_", "mul_", "norm", "sub"])
def test_an_operation_on_a_list_is_that_of_each_tensor_to_the_bit(name: str) -> None:
    a, b = lists()
    operation = getattr(torch_compat, f"foreach_{name}")
    of: dict[str, list[Any]] = {"add_": [b], "copy_": [b], "lerp_": [b, 0.3], "mul_": [torch.tensor(0.7)], "sub": [b]}
    arguments = of.get(name, [])
    expected = []
    for i, tensor in enumerate(a):
        own = [argument[i] if isinstance(argument, list) else argument for argument in arguments]
        expected.append(getattr(tensor.clone(), name)(*own))
    found = operation(a, *arguments)
    for got, want in zip(a if name.endswith("_") else found, expected, strict=True):
        assert torch.equal(got, want)


def test_counts_grow_by_a_number() -> None:
    counts = [torch.tensor(0), torch.tensor(41)]
    torch_compat.foreach_add_(counts, 1)
    assert counts == [1, 42]


def test_the_product_of_onednn_is_a_linear_layer() -> None:
    if torch_compat.linear_pointwise is None:
        pytest.skip("a torch without oneDNN")
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=g) for shape in ((16, 8), (4, 8), (4,)))
    found = torch_compat.linear_pointwise(x, weight, bias, "none", [], "")
    torch.testing.assert_close(found, x @ weight.T + bias)


def test_this_torch_has_collectives_of_a_single_tensor() -> None:
    assert callable(torch_compat.all_gather_single)
    assert callable(torch_compat.reduce_scatter_single)


def test_products_of_bf16_are_summed_in_fp32() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 64, generator=g).bfloat16(), torch.randn(2, 64, 5, generator=g).bfloat16())
    found = torch_compat.bmm_of_bf16(a, b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)
    assert torch.bmm(a.to("meta"), b.to("meta"), out_dtype=torch.float32).dtype == torch.float32  # what CUDA is asked
