"""Streams cut people in the lengths of the codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icon_dist.codec import heatmap
from icon_dist.codec.affine import transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.shards.shard_set import open_shards
from tests.support.streams import eval_stream, train_stream

HW = (256, 192)


def test_streams_cut_people_for_the_codec(made: Path) -> None:
    shards = open_shards(str(made))
    still = AugmentConfig(rotation=0, scale=0, flip_p=0, half_body_p=0)
    expected = transform(InputFrame(HW, "udp").boxes(shards.box), shards.keypoints[..., :2])
    evaluation = eval_stream(shards, rank=0, world=1, batch=3, input_hw=HW, codec="udp", loaders=0)
    training = train_stream(
        shards,
        seed=0,
        batch=3,
        streams=0,
        rank=0,
        world=1,
        micro_batch=3,
        input_hw=HW,
        codec="udp",
        augment=still,
        loaders=0,
    )
    batches = [*evaluation, *training.epoch(0)]
    assert sum(len(batch.row) for batch in batches) == 2 * len(shards)
    for batch in batches:
        np.testing.assert_allclose(batch.joints, expected[batch.row], atol=1e-3)
        back = heatmap.to_photo(batch.joints, matrix=batch.to_photo)
        np.testing.assert_allclose(back, shards.keypoints[batch.row, :, :2], atol=1e-3)
