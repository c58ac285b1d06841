"""Splits by person: exact, nested, seeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icon_dist.errors import DataError
from icon_dist.shards.label_split import check_stored, split, stored_splits
from icon_dist.shards.shard_set import open_shards

IDS = np.random.default_rng(0).permutation(np.arange(5, 100_000, 37))


def test_shares_are_exact_nested_and_of_the_ids_alone() -> None:
    inner: set[int] = set()
    for share in (0.05, 0.1, 0.2, 0.3, 1.0):
        found = split(IDS, share=share, seed=0)
        assert len(found.labelled) == round(len(IDS) * share)
        np.testing.assert_array_equal(np.sort(np.r_[found.labelled, found.unlabelled]), np.arange(len(IDS)))
        people = set(IDS[found.labelled].tolist())
        assert inner <= people
        inner = people
        elsewhere = split(np.sort(IDS), share=share, seed=0)
        assert set(np.sort(IDS)[elsewhere.labelled].tolist()) == people
        assert elsewhere.fingerprint == found.fingerprint
    assert split(IDS, share=1e-9, seed=0).labelled.size == 1


def test_the_seed_chooses_and_the_choice_is_blind() -> None:
    one, two = (split(IDS, share=0.3, seed=seed) for seed in (0, 1))
    assert one.fingerprint != two.fingerprint
    assert len(np.intersect1d(one.labelled, two.labelled)) / len(one.labelled) == pytest.approx(0.3, abs=0.05)
    assert IDS[one.labelled].mean() == pytest.approx(IDS.mean(), rel=0.05)


def test_this_is_the_split_of_every_release() -> None:
    """Another order would be another experiment under the same name."""
    assert split(np.arange(20), share=0.3, seed=0).labelled.tolist() == [0, 2, 6, 7, 11, 13]
    assert split(np.arange(20), share=0.3, seed=7).labelled.tolist() == [4, 5, 6, 8, 11, 16]


def test_a_set_that_was_built_with_other_splits_is_refused(people: Path) -> None:
    shards = open_shards(str(people / "train"))
    assert shards.manifest["splits"] == stored_splits(shards.instance)
    found = split(shards.instance, share=0.3, seed=0)
    check_stored(found, shards.manifest, uri="x")
    other = {"splits": {"0.3": "0" * 64}}
    with pytest.raises(DataError, match=r"x data.labelled=0.3: other people than the split"):
        check_stored(found, other, uri="x")
    check_stored(split(shards.instance, share=0.3, seed=1), other, uri="x")
