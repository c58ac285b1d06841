"""The heatmap error against a loop over joints, and the golden number of HRNet's code."""

from __future__ import annotations

import pytest
import torch

from icon_dist.losses.heatmap import heatmap_loss, joint_errors


def test_golden() -> None:
    errors = joint_errors(torch.full((1, 1, 64, 48), 0.1), torch.zeros(1, 1, 64, 48), torch.ones(1, 1))
    assert heatmap_loss(errors).item() == pytest.approx(0.005, abs=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_official_loop_over_joints(reduction: str) -> None:
    p, t = torch.rand(4, 3, 6, 5, dtype=torch.float64), torch.rand(4, 3, 6, 5, dtype=torch.float64)
    w = torch.tensor([[1.0, 0.0, 0.5]] * 4, dtype=torch.float64)
    loss = 0.0
    for k in range(3):  # HRNet's JointsMSELoss
        mine, theirs = p[:, k].reshape(4, -1) * w[:, k, None], t[:, k].reshape(4, -1) * w[:, k, None]
        loss += 0.5 * torch.nn.functional.mse_loss(mine, theirs).item()
    loss /= 3
    if reduction == "sum":
        loss *= 30
    assert heatmap_loss(joint_errors(p, t, w, reduction=reduction)).item() == pytest.approx(loss, rel=1e-12)


def test_bf16_heatmaps_are_compared_in_fp32() -> None:
    p = torch.full((1, 1, 8, 8), 0.5, dtype=torch.bfloat16)
    assert joint_errors(p, torch.full((1, 1, 8, 8), 0.499), torch.ones(1, 1)).item() == pytest.approx(5e-7, rel=1e-3)
