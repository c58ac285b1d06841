"""Whether a run may go on from a checkpoint."""

from __future__ import annotations

import pytest

from icon_dist.errors import CheckpointError
from icon_dist.training.resume import require


def test_another_model_is_refused_by_name() -> None:
    found = {
        "step": 1,
        "epoch": 0.5,
        "config": {"model": {"backbone": "hrnet_w32"}},
        "skeleton": {"joints": ["head", "neck"]},
        "channel_order": "rgb",
    }
    require(found, backbone="hrnet_w32", joints=["head", "neck"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"hrnet_w32.*hrnet_w48"):
        require(found, backbone="hrnet_w48", joints=["head", "neck"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"2 joints \(head, neck\).*3 \(head, neck, hip\)"):
        require(found, backbone="hrnet_w32", joints=["head", "neck", "hip"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"was epoch 0.5, but would be epoch 0.25 here.*optim.batch"):
        require(found, backbone="hrnet_w32", joints=["head", "neck"], epoch=0.25)
