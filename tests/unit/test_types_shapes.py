"""Signatures are checked while tests run, whatever the fixtures import first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from icon_dist.codec import affine, heatmap
from icon_dist.shards import writer
from icon_dist.types import DeviceStep
from tests.support.shapes import CALLS, check_again


def test_a_wrong_shape_in_a_signature_is_an_error() -> None:
    two, three = torch.zeros(1, 2, 2), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError, match="labelled"):
        heatmap.encode(two, three, hw=(8, 8), stride=4, sigma=1.0)
    number: Any = 3
    with pytest.raises(TypeCheckError, match="number"):
        DeviceStep(number, {}, torch.ones((), dtype=torch.float64))


def test_after_many_calls_in_a_test_no_more_are_checked() -> None:
    """All of them cost a run half of its time again."""
    matrix, xy = torch.eye(2, 3)[None], torch.zeros(1, 2, 2)
    wrong = xy.int()
    for _ in range(CALLS):
        heatmap.to_photo(xy, matrix=matrix)
    assert heatmap.to_photo(wrong, matrix=matrix).equal(xy)
    check_again()  # as before each test
    with pytest.raises(TypeCheckError, match="xy"):
        heatmap.to_photo(wrong, matrix=matrix)


@pytest.mark.slow  # which is when they are checked
def test_so_is_a_wrong_type_in_any_other() -> None:
    single: Any = np.eye(3, dtype=np.float32)[:2]
    nobody: Any = 3
    with pytest.raises(TypeCheckError, match="outer"):
        affine.compose(single, np.eye(3)[:2])
    with pytest.raises(TypeCheckError, match="people"):
        writer.plan(nobody, per_shard=1, seed=0)
