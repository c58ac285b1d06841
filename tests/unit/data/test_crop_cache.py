"""Which decoded images a cache holds, and who shares it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icon_dist.data.crop_cache import CropCache, SharedCache, sharing
from icon_dist.data.crops import Crops
from icon_dist.shards.shard_set import open_shards


def test_cache_takes_the_first_rows_that_fit() -> None:
    cache = CropCache(np.array([[10, 10], [20, 10], [10, 10]], np.int32), budget=1250)
    assert len(cache) == 2
    assert cache.place(2) is None
    assert not cache.holds(2)
    for row, (h, w) in enumerate([(10, 10), (10, 20)]):
        place = cache.place(row)
        assert place is not None
        assert place.shape == (h, w, 4)
        assert not cache.holds(row)
        place[:] = row + 1
        cache.mark(row)
    first = cache.place(0)
    assert first is not None
    assert (first == 1).all()
    assert cache.holds(0)
    assert cache.holds(1)
    cache.mark(2)  # nothing to mark
    assert len(CropCache(np.array([[10, 10]], np.int32), budget=1)) == 0


def test_runs_that_share_a_cache_find_it_filled(made: Path) -> None:
    """A sweep's trials in one process; other budgets and other runs have their own."""
    shards, shared = open_shards(str(made)), SharedCache()

    def cache(budget: int = 1 << 20) -> CropCache:
        found = Crops(shards, input_hw=(32, 24), cache_bytes=budget)
        found.image(0)
        assert found.cache is not None
        return found.cache

    with sharing(shared):
        first = cache()
        assert first.holds(0)
        assert cache() is first
        assert cache(1 << 21) is not first
    assert cache() is not cache()
