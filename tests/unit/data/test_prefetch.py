"""Batches that a thread packs and moves are the batches, in order; errors and an early end go through it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from icon_dist.data.prefetch import AHEAD, feed, pack, unpack
from icon_dist.errors import DataError
from icon_dist.types import Batch


def batch(seed: int, people: int = 3) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.randint(0, 256, (people, 5, 7, 3), generator=g, dtype=torch.uint8),
        joints=torch.randn(people, 2, 2, generator=g),
        labelled=torch.rand(people, 2, generator=g) < 0.5,
        visible=torch.rand(people, 2, generator=g) < 0.5,
        instance=torch.randint(0, 2**53, (people,), generator=g),
        image_id=torch.randint(0, 2**53, (people,), generator=g),
        row=torch.arange(people) - 1,
        to_photo=torch.randn(people, 2, 3, generator=g),
    )


def same(one: Batch, other: Batch) -> bool:
    pairs = [(tensor, getattr(other, name)) for name, tensor in vars(one).items()]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


class Source:
    """Batches, and which thread made and closed them."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self._count, self._error = count, error
        self.made = 0
        self.closed_by = ""

    def run(self) -> Iterator[Batch]:
        try:
            for i in range(self._count):
                self.made += 1
                yield batch(i)
            if self._error is not None:
                raise self._error
        finally:
            self.closed_by = threading.current_thread().name


def test_a_block_of_bytes_is_the_batch() -> None:
    packed = pack(batch(0), pin=False)
    assert packed.dtype == torch.uint8
    assert same(unpack(packed, batch(0)), batch(0))


def test_what_is_elsewhere_already_stays_there() -> None:
    there = batch(0)
    there.image = there.image.to("meta")
    assert unpack(pack(there, pin=False), there).image is there.image


@pytest.mark.parametrize("count", [0, 1, 7])
def test_all_batches_come_in_order(count: int) -> None:
    source = Source(count)
    found = list(feed(source.run(), device="cpu"))
    assert len(found) == count
    assert all(same(one, batch(i)) for i, one in enumerate(found))
    assert source.closed_by == "feeder"


def test_an_error_comes_after_the_batches_before_it() -> None:
    found: list[Batch] = []
    with pytest.raises(DataError, match="a bad image"):
        found.extend(feed(Source(3, DataError("a bad image")).run(), device="cpu"))
    assert len(found) == 3


def test_who_leaves_early_leaves_no_thread_and_nothing_open() -> None:
    source = Source(100)
    with closing(feed(source.run(), device="cpu")) as batches:
        assert same(next(batches), batch(0))
    assert source.closed_by == "feeder"
    assert source.made <= AHEAD + 3
    assert "feeder" not in [thread.name for thread in threading.enumerate()]
