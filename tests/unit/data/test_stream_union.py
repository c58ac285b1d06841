"""Streams over a union: everybody once an epoch, the same batches on any number of workers, each crop as in its set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from icon_dist import storage
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import Augmentation
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.shards.union import ShardUnion, union_of
from icon_dist.types import Batch
from tests.support import two_sets
from tests.support.streams import train_stream

PLAIN = AugmentConfig(rotation=0.0, flip_p=0.0, half_body_p=0.0, scale=0.0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[ShardSet]:
    folder = tmp_path_factory.mktemp("union")
    return [open_shards(two_sets.heads(folder)), open_shards(two_sets.hands(folder, count=8))]


def batches(
    people: ShardSet,
    *,
    epoch: int = 0,
    world: int = 1,
    augment: AugmentConfig = PLAIN,
    start: int = 0,
    cache_mb: int = 0,
    resident: str = "",
) -> list[list[Batch]]:
    """Of every rank."""
    found = []
    for rank in range(world):
        stream = train_stream(
            people, seed=3, batch=4, streams=4, rank=rank, world=world, micro_batch=4 // world, input_hw=(32, 32),
            augment=augment, loaders=0, cache_mb=cache_mb, resident=resident,
        )  # fmt: skip
        found.append([*stream.epoch(epoch, start_step=start)])
        stream.close()
    return found


def test_everybody_once_an_epoch_in_an_order_of_its_own(sets: list[ShardSet]) -> None:
    union = union_of(sets)
    orders = []
    for epoch in (0, 1):
        (own,) = batches(union, epoch=epoch)
        orders.append([person for batch in own for person in batch.instance.tolist()])
        assert sorted(orders[-1]) == sorted(union.instance.tolist())
        (again,) = batches(union, epoch=epoch)
        assert all(torch.equal(a.image, b.image) for a, b in zip(own, again, strict=True))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("world", [2, 4])
def test_the_same_people_in_a_step_whatever_the_world(sets: list[ShardSet], world: int) -> None:
    union = union_of(sets)
    (alone,) = batches(union)
    ranks = batches(union, world=world)
    for step, whole in enumerate(alone):
        parts = [person for rank in ranks for person in rank[step].instance.tolist()]
        assert sorted(parts) == sorted(whole.instance.tolist())


def test_an_epoch_goes_on_where_it_was_left_and_from_decoded_crops(sets: list[ShardSet]) -> None:
    union = union_of(sets)
    (whole,) = batches(union)
    (rest,) = batches(union, start=2)
    (cached,) = batches(union, cache_mb=1)
    (resident,) = batches(union, resident="cpu")
    pairs = [*zip(whole[2:], rest, strict=True), *zip(whole, cached, strict=True)]
    for a, b in [*pairs, *zip(whole, resident, strict=True)]:
        assert a.instance.tolist() == b.instance.tolist()
        assert torch.equal(a.image, b.image)


def test_a_set_on_a_disk_and_one_on_s3(sets: list[ShardSet], s3: str) -> None:
    for name in ("manifest.json", "index.parquet", "truth.json.gz", *sets[1].shard_names):
        storage.write(f"{s3}/hands/{name}", Path(sets[1].uri, name))
    mixed = union_of([sets[0], open_shards(f"{s3}/hands")])
    assert mixed.shard_uri(1).startswith("s3://")
    for here, there in zip(batches(union_of(sets))[0], batches(mixed)[0], strict=True):
        assert here.instance.tolist() == there.instance.tolist()
        assert torch.equal(here.image, there.image)


def test_a_crop_of_the_union_is_that_of_its_set(sets: list[ShardSet]) -> None:
    union = union_of(sets)
    assert isinstance(union, ShardUnion)
    (own,) = batches(union)
    alone = [{int(p): (b, i) for b in batches(one)[0] for i, p in enumerate(b.instance)} for one in sets]
    for batch in own:
        for i, row in enumerate(batch.row.tolist()):
            number = int(row >= 8)
            there, at = alone[number][int(sets[number].instance[row - 8 * number])]
            assert torch.equal(batch.image[i], there.image[at])
            assert torch.equal(batch.to_photo[i], there.to_photo[at])
            columns = [union.skeleton.joints.index(joint) for joint in sets[number].skeleton.joints]
            assert torch.equal(batch.joints[i][columns], there.joints[at])
            assert torch.equal(batch.visible[i][columns], there.visible[at])
            assert batch.labelled[i].sum() == there.labelled[at].sum()


def test_mirrored_people_keep_to_the_joints_of_their_set(sets: list[ShardSet]) -> None:
    union = union_of(sets)
    assert isinstance(union, ShardUnion)
    (own,) = batches(union, augment=dataclasses.replace(PLAIN, flip_p=1.0))
    for batch in own:
        has = torch.from_numpy(union.has_joint)[(batch.row >= 8).long()]
        assert not (batch.labelled & ~has).any()
        assert (batch.labelled == has).all()


def test_half_bodies_are_cut_only_where_crops_have_margin(sets: list[ShardSet]) -> None:
    union = union_of(sets)
    assert isinstance(union, ShardUnion)
    keypoints = union.keypoints.copy()
    keypoints[:, :5, 2] = 2  # as if all had all joints of the first set
    halves = dataclasses.replace(PLAIN, half_body_p=1.0, half_body_min=2)
    augmentation = Augmentation(halves, union.skeleton, InputFrame((32, 32), "msra"), 0)
    whole = Augmentation(PLAIN, union.skeleton, InputFrame((32, 32), "msra"), 0)
    rows = np.arange(len(union))
    words = union.box, keypoints, union.instance[rows], 0
    cut = augmentation(*words, has_halves=union.has_halves).matrix
    same = [bool(np.array_equal(a, b)) for a, b in zip(cut, whole(*words).matrix, strict=True)]
    assert same == (~union.has_halves).tolist()
