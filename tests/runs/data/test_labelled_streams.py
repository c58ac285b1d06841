"""The stream that mixes people with and without labels."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from icon_dist.config import AugmentConfig
from icon_dist.data.stream import TrainStream
from icon_dist.shards.label_split import split
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.types import Batch
from tests.support.streams import train_stream

BATCH, SHARE, MICRO = 16, 0.5, 4


@pytest.fixture(scope="module")
def shards(people: Path) -> ShardSet:
    return open_shards(str(people / "train"))


def stream_of(
    shards: ShardSet, *, rank: int = 0, world: int = 1, micro: int = MICRO, loaders: int = 0, share: float = 0.25
) -> TrainStream:
    return train_stream(
        shards,
        seed=3,
        batch=BATCH,
        streams=0,
        rank=rank,
        world=world,
        micro_batch=micro,
        input_hw=(32, 32),
        augment=AugmentConfig(),
        loaders=loaders,
        labelled=split(shards.instance, share=share, seed=0).labelled,
        unlabelled_share=SHARE,
    )


def batches(stream: TrainStream, *, epochs: int, start: tuple[int, int] = (0, 0)) -> list[Batch]:
    with closing(stream):
        return [
            batch
            for epoch in range(start[0], epochs)
            for batch in stream.epoch(epoch, start_step=start[1] if epoch == start[0] else 0)
        ]


def test_each_kind_comes_once_in_each_epoch_of_its_own(shards: ShardSet) -> None:
    """16 labelled people: 2 steps an epoch. 48 others: 6 steps, so 7 epochs of the ones are 2 1/3 of the others."""
    known = set(shards.instance[split(shards.instance, share=0.25, seed=0).labelled].tolist())
    seen = torch.stack([b.instance for b in batches(stream_of(shards, micro=BATCH), epochs=7)])
    count = len(known)
    labelled, others = seen[:, :8].reshape(-1).tolist(), seen[:, 8:].reshape(-1).tolist()
    per_epoch, per_other = count // 8 * 8, (len(shards) - count) // 8 * 8
    for part, size, people in ((labelled, per_epoch, known), (others, per_other, set(shards.instance) - known)):
        for start in range(0, len(part) - size + 1, size):
            epoch = part[start : start + size]
            assert len(set(epoch)) == size
            assert set(epoch) <= people
    assert labelled[:per_epoch] != labelled[per_epoch : 2 * per_epoch]


def test_nobody_sees_the_joints_of_unlabelled_people(shards: ShardSet) -> None:
    found = batches(stream_of(shards), epochs=1)
    assert all(b.labelled[:2].any() and not b.labelled[2:].any() and not b.visible[2:].any() for b in found)
    assert all(not b.joints[2:].any() for b in found)
    assert all(b.image[2:].float().std() > 1 for b in found)


def test_positions_ranks_and_loaders_change_nothing(shards: ShardSet) -> None:
    whole = batches(stream_of(shards), epochs=4)
    for same in (batches(stream_of(shards), epochs=4, start=(2, 1)), batches(stream_of(shards, loaders=2), epochs=4)):
        for a, b in zip(whole[-len(same) :], same, strict=True):
            for name, value in vars(a).items():
                assert torch.equal(value, getattr(b, name)), name
    ranks = [batches(stream_of(shards, rank=r, world=2), epochs=4) for r in range(2)]
    per_step = BATCH // MICRO
    for step in range(len(whole) // per_step):
        one = torch.cat([b.instance for b in whole[step * per_step : (step + 1) * per_step]])
        two = torch.cat([b.instance for r in ranks for b in r[step * per_step // 2 : (step + 1) * per_step // 2]])
        assert torch.equal(one.sort().values, two.sort().values)


def test_a_labelled_share_alone_is_an_ordinary_stream(shards: ShardSet) -> None:
    """The supervised baseline sees what the labelled half of a mixed batch shows."""
    mixed = batches(stream_of(shards), epochs=2)
    plain = train_stream(
        shards, seed=3, batch=8, streams=0, rank=0, world=1, micro_batch=2, input_hw=(32, 32), augment=AugmentConfig(),
        loaders=0, labelled=split(shards.instance, share=0.25, seed=0).labelled,
    )  # fmt: skip
    for a, b in zip(mixed, batches(plain, epochs=2), strict=True):
        for name, value in vars(b).items():
            assert torch.equal(getattr(a, name)[:2], value), name
