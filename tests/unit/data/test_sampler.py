"""Who reads what: every sample once, the same global batches at any world size, positions that can be restored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from icon_dist.data.sampler import (
    EpochPlan,
    check_streams,
    default_streams,
    eval_rows,
    plan_epoch,
    rank_places,
    read_ahead,
    split_over_loaders,
)
from icon_dist.errors import ConfigError, DataError


def shards_of(n: int, shards: int) -> NDArray[np.int32]:
    return (np.arange(n) * shards // n).astype(np.int32)


@st.composite
def setups(draw: st.DrawFn) -> tuple[EpochPlan, int, int, int]:
    world = draw(st.sampled_from([1, 2, 3, 4, 8]))
    streams = world * draw(st.sampled_from([1, 2, 3, 8]))
    batch = streams * draw(st.sampled_from([1, 2, 5]))
    n = draw(st.integers(batch, 40 * batch))
    seed, epoch = draw(st.integers(0, 2**40)), draw(st.integers(0, 500))
    shards = draw(st.integers(1, min(n, 20)))
    return plan_epoch(shards_of(n, shards), seed=seed, epoch=epoch, streams=streams, batch=batch), n, world, batch


@settings(deadline=None, max_examples=60)
@given(setups())
def test_every_sample_exactly_once(setup: tuple[EpochPlan, int, int, int]) -> None:
    plan, n, _, batch = setup
    assert plan.rows.shape == (n // batch, batch)
    assert len(plan.dropped) == n % batch
    seen = np.concatenate([plan.rows.ravel(), plan.dropped])
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))


@settings(deadline=None, max_examples=60)
@given(setups(), st.data())
def test_any_world_sees_the_same_global_batches(setup: tuple[EpochPlan, int, int, int], data: st.DataObject) -> None:
    plan, _, world, batch = setup
    micro = data.draw(st.sampled_from([m for m in range(1, batch // world + 1) if batch // world % m == 0]))
    parts = [plan.sequence[rank_places(plan, rank=r, world=world, micro_batch=micro)] for r in range(world)]
    steps = len(plan.rows)
    # canonical order: stream by stream; rank r serves the streams r, r + world, ...
    by_rank = [part.reshape(steps, plan.streams // world, -1) for part in parts]
    joined = np.empty((steps, plan.streams, batch // plan.streams), np.int64)
    for rank, part in enumerate(by_rank):
        joined[:, rank::world] = part
    np.testing.assert_array_equal(joined.reshape(steps, batch), plan.rows)


@settings(deadline=None, max_examples=40)
@given(setups(), st.integers(1, 9))
def test_loaders_share_each_block_once(setup: tuple[EpochPlan, int, int, int], loaders: int) -> None:
    plan, _, world, batch = setup
    place = plan.place.reshape(len(plan.place), plan.streams // world, world, -1)[:, :, 0].reshape(-1, batch // world)
    owner, unit = split_over_loaders(plan, place, world=world, loaders=loaders)
    assert owner.min() >= 0
    assert owner.max() < loaders
    for one in np.unique(unit):
        assert len(np.unique(owner[unit == one])) == 1
        where = np.sort(place[unit == one])
        np.testing.assert_array_equal(where, np.arange(where[0], where[0] + len(where)))  # neighbors: one range
    rows = plan.sequence[place]
    ordered = [(t, worker, row) for t, ahead in enumerate(read_ahead(rows, owner, unit)) for worker in ahead
               for row in ahead[worker].tolist()]  # fmt: skip
    assert len(ordered) == rows.size
    used = {row: (t, worker) for t in range(len(rows)) for row, worker in zip(rows[t].tolist(), owner[t], strict=True)}
    for t, worker, row in ordered:
        assert t <= used[row][0]
        assert worker == used[row][1]


@pytest.mark.parametrize(("loaders", "world"), [(2, 1), (3, 1), (3, 16), (8, 64)])
def test_loaders_share_the_work_evenly(loaders: int, world: int) -> None:
    plan = plan_epoch(shards_of(40000, 40), seed=0, epoch=0, streams=64, batch=256)
    place = plan.place.reshape(len(plan.place), 64 // world, world, 4)[:, :, 0].reshape(-1, 256 // world)
    owner, _ = split_over_loaders(plan, place, world=world, loaders=loaders)
    share = np.bincount(owner.ravel(), minlength=loaders) / owner.size
    assert share.max() < 1.35 / loaders


def test_a_position_restores_the_rest() -> None:
    """A plan is a pure function, so its tail from step s is what a resumed run computes."""
    shard = shards_of(1000, 7)
    first = plan_epoch(shard, seed=5, epoch=3, streams=8, batch=32)
    again = plan_epoch(shard.copy(), seed=5, epoch=3, streams=8, batch=32)
    np.testing.assert_array_equal(first.rows[11:], again.rows[11:])


def test_the_plan_never_changes() -> None:
    """Golden: runs of older versions resume only if the order stays as it is."""
    plan = plan_epoch(shards_of(20, 3), seed=1, epoch=2, streams=2, batch=4)
    np.testing.assert_array_equal(plan.rows, GOLDEN_ROWS)


def test_epochs_and_seeds_differ() -> None:
    shard = shards_of(1003, 10)
    plans = [plan_epoch(shard, seed=s, epoch=e, streams=8, batch=32) for s, e in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (plans[a].rows == plans[b].rows).mean() < 0.05
        assert set(plans[a].dropped) != set(plans[b].dropped)


def test_what_is_dropped_comes_from_everywhere() -> None:
    """Over many epochs nobody is left out much more often than others."""
    count = np.zeros(103)
    for epoch in range(600):
        count[plan_epoch(shards_of(103, 4), seed=0, epoch=epoch, streams=4, batch=20).dropped] += 1
    assert count.min() > 0
    assert count.max() < 4 * count.mean()


def test_a_stream_is_read_in_blocks_and_shuffled() -> None:
    plan = plan_epoch(shards_of(20000, 1), seed=0, epoch=0, streams=8, batch=8)
    assert plan.block == 256
    place = plan.place[:, 3]
    starts = 3 * 256 // 8 + place - place.min()
    blocks = starts // plan.block
    assert (np.diff(blocks) != 0).sum() == len(np.unique(blocks)) - 1  # one block after the other
    assert (np.diff(place) == 1).mean() < 0.05
    assert (np.diff(blocks)[np.diff(blocks) != 0] != 1).any()  # and the blocks are out of order


def test_default_streams() -> None:
    assert [default_streams(b) for b in (1, 64, 256, 512, 1000, 7, 257)] == [1, 64, 256, 256, 250, 7, 1]


@pytest.mark.parametrize(
    ("batch", "streams", "world", "micro", "words"),
    [
        (64, 48, 1, 16, "data.streams=48: does not divide optim.batch=64; use 64"),
        (64, 64, 3, 16, "run.workers=3: does not divide data.streams=64; use 2 workers"),
        (64, 64, 2, 24, "optim.batch=64: not a multiple of run.workers=2 x optim.micro_batch=24; use "
         "optim.micro_batch=8"),
        (0, 1, 1, 1, "must be at least 1"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_refused(batch: int, streams: int, world: int, micro: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_streams(batch=batch, streams=streams, world=world, micro_batch=micro)


def test_fewer_people_than_a_batch() -> None:
    with pytest.raises(DataError, match="31 people in the shards: less than one batch of 32"):
        plan_epoch(shards_of(31, 2), seed=0, epoch=0, streams=32, batch=32)


@given(st.integers(0, 200), st.integers(1, 5), st.integers(1, 9))
def test_evaluation_sees_everyone_once(n: int, world: int, batch: int) -> None:
    parts = [eval_rows(n, rank=r, world=world, batch=batch) for r in range(world)]
    assert {p.shape for p in parts} == {parts[0].shape}
    rows = np.concatenate([p.ravel() for p in parts])
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(n))
    assert (rows < 0).sum() < world * batch


GOLDEN_ROWS = [[12, 7, 4, 6], [14, 11, 17, 19], [8, 16, 0, 1], [10, 15, 3, 2], [13, 9, 18, 5]]
