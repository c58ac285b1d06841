"""A projection head that sees only the pixels that contrast reads (``model.project=read``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icon_dist.datasets import load_skeleton
from icon_dist.methods.from_config import method_of
from icon_dist.models import from_config
from icon_dist.types import Batch, Outputs
from tests.gpu.test_meta_step import config

COCO = load_skeleton("coco")
PEOPLE, SIDE = 6, 128  # a map of 32 x 32 px


def people() -> Batch:
    """Joints anywhere, some outside of the crop, some unknown."""
    g = torch.Generator().manual_seed(0)
    joints = torch.rand(PEOPLE, 17, 2, generator=g) * (SIDE + 8) - 4
    known = torch.rand(PEOPLE, 17, generator=g) < 0.8
    number = torch.arange(PEOPLE)
    image = torch.randint(0, 256, (PEOPLE, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    return Batch(image, joints, known, known, number, number, number, torch.eye(2, 3).repeat(PEOPLE, 1, 1))


def gradients(values: dict[str, Any], project: str) -> tuple[Tensor, list[Tensor], list[Outputs]]:
    """The loss of a step, of all parameters the gradients, and what the model said."""
    cfg = config(data__input=f"{SIDE}x{SIDE}", model__project=project, model__embedding=8, **values)
    torch.manual_seed(0)
    model = from_config.build(cfg, COCO).train()
    said: list[Outputs] = []

    def forward(*inputs: Tensor) -> Outputs:
        said.append(model(*inputs))
        return said[-1]

    method = method_of(cfg, COCO, model, micro_batch=PEOPLE, teacher=None)
    total = method(forward, people(), step=0, epoch=1.0, diagnose=False).total
    torch.autograd.backward(total)
    return total.detach(), [p.grad for p in model.parameters() if p.grad is not None], said


CASES: list[dict[str, Any]] = [
    {},
    {"loss__points": 3, "loss__read": "nearest"},
    {"model__feature": "all"},
    {"model__backbone": "resnet18"},  # a map of stride 16
    {"loss__contrast": "intra", "loss__points": 4},
]


@pytest.mark.parametrize("values", CASES, ids=str)
def test_without_batch_norm_the_loss_and_all_gradients_are_those_of_the_whole_map(values: dict[str, Any]) -> None:
    (right, expected, _), (found, got, _) = (
        gradients({"model__projection": "linear", **values}, project) for project in ("map", "read")
    )
    assert float(right) > 0.1
    torch.testing.assert_close(found, right, rtol=1e-5, atol=0)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()


def test_the_head_sees_a_third_of_the_map_and_its_batch_norm_no_more() -> None:
    (_, _, (whole,)), (_, grads, (some,)) = (gradients({"loss__points": 16}, project) for project in ("map", "read"))
    assert whole.embedding is not None
    assert some.embedding is not None
    projected = some.embedding.abs().sum(1) > 0
    assert (projected.sum((1, 2)) == 17 * (15 + 4)).all()
    assert not torch.equal(some.embedding[:, :, projected[0]][0], whole.embedding[:, :, projected[0]][0])
    assert all(grad.isfinite().all() for grad in grads)
