"""The projection head at some pixels against its whole map."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from icon_dist.models import projection
from icon_dist.models.projection import ProjectionHead

N, HE, WE, M = 3, 6, 5, 4
PLACES = torch.stack([torch.randperm(HE * WE, generator=torch.Generator().manual_seed(n))[:9] for n in range(N)])


def case(kind: str, channels: int, dtype: torch.dtype = torch.float64) -> tuple[ProjectionHead, Tensor]:
    torch.manual_seed(0)
    head = ProjectionHead(kind, channels, M).to(dtype).train()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, mean=0.3)
    x = 5 + torch.randn(N, channels, HE, WE, dtype=dtype)  # a mean far from 0
    return head, x


def whole(head: ProjectionHead, x: Tensor) -> Tensor:
    """All pixels projected, then those asked for taken one by one."""
    out = head(x)
    chosen = [[out[n, :, p // WE, p % WE] for p in PLACES[n].tolist()] for n in range(N)]
    return torch.stack([torch.stack(some, 1) for some in chosen])[:, :, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "channels"), [("mlp", 7), ("mlp", 9), ("linear", 7)])  # 9 is more than twice M
def test_some_pixels_have_values_gradients_and_statistics_of_the_whole_map(
    kind: str, channels: int, layout: torch.memory_format
) -> None:
    head, x = case(kind, channels)
    other, x = copy.deepcopy(head), x.contiguous(memory_format=layout)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, right = head.at(one, PLACES), whole(other, two)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)
    slope = torch.randn(found.shape, dtype=torch.float64)
    for out in (found, right):
        out.backward(slope)
    assert one.grad is not None
    assert two.grad is not None
    assert kind == "linear" or (one.grad.abs().sum(1) > 0).all()  # through the statistics also where nothing is read
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-9)
    for (name, mine), theirs in zip(head.named_parameters(), other.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-9)
    for mine, theirs in zip(head.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_statistics_that_are_held_stay() -> None:
    head, x = case("mlp", 7)
    norm = head[1]
    norm.track_running_stats = False
    before = [buffer.clone() for buffer in head.buffers()]
    found = head.at(x, PLACES)
    torch.testing.assert_close(found, whole(head, x), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(before, head.buffers(), strict=True))


def test_in_fp32_the_variance_loses_nothing_to_a_large_mean() -> None:
    head, x = case("mlp", 7, torch.float32)
    exact = copy.deepcopy(head).double()
    found, right = head.at(x + 95, PLACES), whole(exact, (x + 95).double())
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-3)


def test_the_whole_map_is_not_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = case("mlp", 7)
    rows: list[int] = []
    head[0].register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].numel() // inputs[0].shape[1]))
    head.at(x, PLACES)
    assert sorted(rows) == [2 * 7 + 1, PLACES.numel()]
    monkeypatch.setattr(projection, "WIDE", 0)
    head.at(x, PLACES)
    assert rows[2:] == [N * HE * WE]
