"""Which tensors a model takes over."""

from __future__ import annotations

import pytest
import torch

from icon_dist.checkpoints.weights import require_same_tensors
from icon_dist.errors import CheckpointError


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    saved = {"a": torch.zeros(2, 3), "b": torch.zeros(())}
    require_same_tensors(saved, {"b": torch.ones(()), "a": torch.ones(2, 3)})
    with pytest.raises(CheckpointError, match=r"a is \[2, 3\] there and \[3, 2\] here \(1 such"):
        require_same_tensors(saved, {**saved, "a": torch.zeros(3, 2)})
    with pytest.raises(CheckpointError, match=r"b is \[\] there and absent here \(1 such"):
        require_same_tensors(saved, {"a": saved["a"]})
    with pytest.raises(CheckpointError, match=r"b is absent there and \[\] here \(2 such"):
        require_same_tensors({"a": saved["a"]}, {**saved, "c": torch.zeros(1)})
