"""Only the pixels that contrast reads are projected; the head's norm has the statistics of the whole map."""

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


def gradients(values: dict[str, Any], *, whole: bool = False) -> tuple[Tensor, list[Tensor], Outputs]:
    """The loss of a step, the gradients of all parameters, and what the model said; ``whole``: it projects its map."""
    base: dict[str, Any] = {"model__backbone": "hrnet_small", "model__embedding": 8}  # its map has stride 4
    cfg = config(data__input=f"{SIDE}x{SIDE}", **base | values)
    torch.manual_seed(0)
    model = from_config.build(cfg, COCO).train()
    said: list[Outputs] = []

    def forward(image: Tensor, *pixels: Tensor) -> Outputs:
        said.append(model(image, *() if whole else pixels))
        return said[-1]

    method = method_of(cfg, COCO, model, micro_batch=PEOPLE, teacher=None)
    total = method(forward, people(), step=0, epoch=1.0, diagnose=False).total
    torch.autograd.backward(total)
    return total.detach(), [p.grad for p in model.parameters() if p.grad is not None], said[-1]


CASES: list[dict[str, Any]] = [
    {},
    {"loss__points": 3, "loss__read": "nearest"},
    {"model__feature": "all"},
    {"model__backbone": "resnet18", "loss__points": 1, "loss__read": "nearest"},  # a map of stride 16
    {"loss__contrast": "intra", "loss__points": 4},
]


@pytest.mark.parametrize("kind", ["mlp", "linear"])
@pytest.mark.parametrize("values", CASES, ids=str)
def test_the_loss_and_all_gradients_are_those_of_the_whole_map(values: dict[str, Any], kind: str) -> None:
    (right, expected, all_of_it), (found, got, said) = (
        gradients(values | {"model__projection": kind}, whole=whole) for whole in (True, False)
    )
    assert float(right) > 0.1
    torch.testing.assert_close(found, right, rtol=1e-5, atol=0)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
    assert said.embedding is not None
    assert all_of_it.embedding is not None
    assert (said.pixels is None) == (said.embedding.shape == all_of_it.embedding.shape)


def test_of_all_pixels_a_third_is_projected() -> None:
    _, _, said = gradients({"loss__points": 16})
    assert said.embedding is not None
    assert said.embedding.shape == (PEOPLE, 8, 1, 17 * (15 + 4))
