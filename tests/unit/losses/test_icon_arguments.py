"""What IconLoss says of wrong settings and wrong inputs: all of it in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch

from icon_dist.losses.icon import IconLoss
from icon_dist.losses.options import Bank, Options, Term
from icon_dist.types import Pixels
from tests.unit.losses.test_icon import SIZES, K, M, N, batch


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the tests' own check of annotated shapes, as strangers call it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"num_joints": 1, "limbs": ()}, ["num_joints=1: contrast compares joints", "prcc=0.7: compares limbs"]),
        ({"limbs": ((0, 1), (2, 4))}, ["limbs: (2, 4) is no pair of two joints from 0 to 3"]),
        ({"limbs": ((0, 1), (2, 2))}, ["limbs: (2, 2) is no pair"]),
        ({"limbs": ((0, 1), (-1, 2))}, ["limbs: (-1, 2) is no pair"]),
        ({"limbs": ((0, 1),)}, ["prcc=0.7: compares limbs with one another; give 2 or more, or prcc=0"]),
        (
            {"limbs": ((0, 1, 2), (1, 3), (2,))},
            ["limbs: (1, 3) is no chain of 3 different joints", "limbs: (2,) is no chain of 3"],
        ),
        ({"limbs": ((0, 1.5), (1, 2))}, ["limbs: give pairs of joint numbers, such as ((5, 7), (7, 9))"]),
        ({"limbs": "no"}, ["limbs: give pairs of joint numbers"]),
        ({"num_joints": 4.0, "tau": "x"}, ["num_joints=4.0: expected a whole number; tau='x': expected a number"]),
        (
            {"bank": None, "skcc": "x"},
            ["Term.weight='x': expected a number", "Bank.slots=None: expected a whole number"],
        ),
        ({"bank": True, "dim": 2.5}, ["Bank.slots=True: expected a whole number", "dim=2.5"]),
        ({"options": {"stride": 16}}, ["options={'stride': 16}: give an Options(...)"]),
        ({"dim": 0, "tau": 0.0}, ["dim=0", "tau=0.0: give a temperature above 0"]),
        ({"tau": float("nan")}, ["tau=nan"]),
        ({"skcc": -1.0}, ["skcc=-1.0: give a weight of 0 or more"]),
        ({"prcc": float("inf")}, ["prcc=inf"]),
        ({"skcc": 0.0, "prcc": 0.0}, ["skcc=0 and prcc=0"]),
        ({"bank": -1}, ["Bank.slots=-1: expected 0 or more"]),
        ({"bank": Bank(exchange="later")}, ["Bank.exchange='later': expected one of sync, async"]),
        (
            {"skcc": Term(0.3, query="soft", queries=0)},
            ["Term.query='soft': expected one of hard, random, all", "queries"],
        ),
        ({"options": Options(stride=0, points=0)}, ["Options.stride=0: expected 1 or more", "Options.points=0"]),
    ],
)
def test_wrong_settings_are_one_line(arguments: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: IconLoss(**SIZES | arguments), parts)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"embedding": torch.zeros(N, M + 1, 8, 8)},
            ["embedding is [5, 7, 8, 8], expected [N, dim, h, w] with", "dim=6"],
        ),
        ({"embedding": torch.zeros(N, K, M)}, ["embedding is [5, 4, 6], expected [N, dim, h, w]"]),
        ({"embedding": torch.zeros(0, M, 8, 8)}, ["embedding is [0, 6, 8, 8], expected"]),
        ({"embedding": torch.zeros(N, M, 0, 8)}, ["embedding is [5, 6, 0, 8], expected"]),
        (
            {"joints": torch.zeros(N, K + 1, 2)},
            ["joints is [5, 5, 2], expected [N, num_joints, 2] with N=5, num_joints=4"],
        ),
        ({"joints": torch.zeros(N, K, 3)}, ["joints is [5, 4, 3]"]),
        ({"joints": torch.zeros(N - 1, K, 2)}, ["joints is [4, 4, 2]"]),
        ({"joints": torch.zeros(N, K, 2).long()}, ["joints is torch.int64, expected a floating type"]),
        ({"visible": torch.ones(N, K)}, ["visible is torch.float32, expected torch.bool; write visible > 0"]),
        ({"visible": torch.ones(N, K, 1).bool()}, ["visible is [5, 4, 1], expected [N, num_joints]"]),
        ({"instance_id": torch.arange(N).float()}, ["instance_id is torch.float32, expected an integer type"]),
        ({"instance_id": torch.arange(N - 1)}, ["instance_id is [4], expected [N] with N=5"]),
        ({"instance_id": list(range(N))}, ["instance_id is list, expected a dense tensor"]),
        ({"heatmaps": torch.zeros(N, K + 1, 8, 8)}, ["heatmaps is [5, 5, 8, 8], expected [N, num_joints, h, w]"]),
        ({"errors": torch.zeros(N)}, ["errors is [5], expected [N, num_joints]"]),
        ({"joints": None, "visible": None}, ["joints is NoneType, expected a dense tensor; visible is NoneType"]),
        ({"embedding": None}, ["embedding is NoneType, expected a dense tensor"]),
        ({"embedding": (torch.zeros(N, M, 8, 8),)}, ["embedding is tuple, expected a dense tensor"]),
        ({"visible": torch.ones(N, K).bool().to_sparse()}, ["visible is torch.sparse_coo, expected a dense tensor"]),
        ({"errors": None}, ["hard queries are chosen by errors; give errors=, or a Term whose query is random or all"]),
        ({"image_id": torch.zeros(N, 1).long()}, ["image_id is [5, 1], expected [N]"]),
        ({"joints": torch.zeros(N, K, 2, device="meta")}, ["joints is on meta, the embedding on cpu"]),
        ({"visible": torch.ones(N, K), "errors": torch.zeros(N)}, ["visible is torch.float32", "; errors is [5]"]),
        (
            {"embedding": (torch.zeros(N, M, 1, 3), torch.zeros(N, 3).long())},
            ["pixels is Tensor, expected what IconLoss.pixels returns"],
        ),
        (
            {"embedding": (torch.zeros(N, M, 8, 8), Pixels(torch.zeros(N, 3).long(), (8, 8)))},
            ["embedding is [5, 6, 8, 8], expected [N, dim, 1, pixels] at pixels of [5, 3]"],
        ),
    ],
)
def test_wrong_inputs_are_one_line(change: dict[str, Any], parts: list[str]) -> None:
    loss = IconLoss(**SIZES)
    refused(lambda: loss(**batch(0, torch.float32) | change), parts)
    assert loss.pending is None


def refused(call: Any, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^IconLoss: ") as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
