"""The loss on refined joints against the public code's selection and mean, joint by joint."""

from __future__ import annotations

import pytest
import torch

from icon_dist.config import LossConfig
from icon_dist.losses.refined_joints import refinement_loss
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch, Outputs, Skeleton

SKELETON = Skeleton("two", ("a", "b"), (), ((0, 1),), ((0, 1),), (0.1,) * 2, 2, (), (), "pck")
HW = (32, 48)


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    joints = torch.rand(4, 3, 2, 2, generator=g, dtype=torch.float64) * 40
    truth = torch.rand(3, 2, 2, generator=g, dtype=torch.float64) * 40
    return joints.requires_grad_(), truth, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)


def test_equals_a_loop() -> None:
    joints, truth, weight = case()
    expected = 0.0
    for stage, share in zip(joints, (1.0, 0.3, 0.5, 1.0), strict=True):
        distances = []
        for n in range(3):
            for k in range(2):
                if weight[n, k] > 0:
                    for axis, size in ((0, 48), (1, 32)):
                        p, t = (2 * (xy[n, k, axis].item() / size - 0.5) for xy in (stage, truth))
                        distances.append(abs(p - t))
        expected += share * sum(distances) / len(distances)
    assert refinement_loss(joints, truth, weight, hw=HW).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unknown", [torch.nan, torch.inf])
def test_joints_that_do_not_count_have_no_part_in_it(unknown: float) -> None:
    joints, truth, weight = case()
    expected = refinement_loss(joints, truth, weight, hw=HW)
    loss = refinement_loss(joints, torch.where(weight[..., None] > 0, truth, unknown), weight, hw=HW)
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss, joints)
    assert not gradient[:, weight == 0].any()
    assert gradient[:, weight > 0].all()


def test_nobody_labelled_is_a_loss_of_zero_with_a_gradient() -> None:
    joints, truth, weight = case()
    loss = refinement_loss(joints, truth, 0 * weight, hw=HW)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, joints)
    assert not gradient.any()


def test_the_objective_adds_it() -> None:
    joints, truth, weight = case()
    heatmaps, target = torch.rand(3, 2, 8, 12), torch.rand(3, 2, 8, 12)
    batch = Batch(
        image=torch.zeros(3, *HW, 3, dtype=torch.uint8),
        joints=truth.float(),
        labelled=weight > 0,
        visible=weight > 0,
        instance=torch.arange(3),
        image_id=torch.arange(3),
        row=torch.arange(3),
        to_photo=torch.zeros(3, 2, 3),
    )
    objective = Objective(LossConfig(lambda_p=0), SKELETON, embedding_dim=4, embedding_stride=4, sigma=1, seed=0)
    losses = [
        objective(Outputs(heatmaps, joints=refined), batch, target, weight.float(), step=0, epoch=0.0)
        for refined in (None, joints.float())
    ]
    expected = refinement_loss(joints.float(), truth.float(), weight.float(), hw=HW)
    torch.testing.assert_close(losses[1].total - losses[0].total, expected)
    assert "joints" not in losses[0].scalars()
    assert losses[1].scalars()["joints"] == pytest.approx(expected.item(), rel=1e-6)
