"""What a teacher saw: the same numbers come back, or none at all and a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.shards import teacher_cache
from icon_dist.shards.shard_set import ShardSet, open_shards

F32 = NDArray[np.float32]


@pytest.fixture
def shards(made: Path) -> ShardSet:
    return open_shards(str(made))


def test_the_numbers_come_back(shards: ShardSet, s3: str) -> None:
    keypoints = np.random.default_rng(0).normal(size=shards.keypoints.shape).astype(np.float32)
    uri = f"{s3}/{teacher_cache.uri_of(shards, 'teacher').rsplit('/', 1)[1]}"
    assert teacher_cache.NAME.fullmatch(uri.rsplit("/", 1)[1])
    assert teacher_cache.read(uri, shards, warn=pytest.fail) is None
    assert teacher_cache.keep(uri, keypoints, shards, warn=pytest.fail) is keypoints
    found = teacher_cache.read(uri, shards, warn=pytest.fail)
    assert found is not None
    np.testing.assert_array_equal(found, keypoints)
    table = pq.read_table(pa.BufferReader(storage.read(uri)))
    assert table["instance"].to_pylist() == shards.instance.tolist()


def test_every_fact_is_in_the_name(shards: ShardSet) -> None:
    names = [teacher_cache.uri_of(shards, *facts) for facts in (("a", True), ("b", True), ("a", False))]
    assert len(set(names)) == 3
    assert names[0] == teacher_cache.uri_of(shards, "a", True)


def changed(rows: int, joints: int, *, first: float = 0.0, instance: int = 0) -> Callable[[ShardSet], pa.Table]:
    """A table with other people, shapes or values than the set has."""

    def table(shards: ShardSet) -> pa.Table:
        values = np.zeros(rows * joints * 3, np.float32)
        values[0] = first
        people = np.resize(shards.instance, rows) + instance
        return pa.table({"instance": people, "keypoints": pa.FixedSizeListArray.from_arrays(values, joints * 3)})

    return table


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (changed(9, 17, first=np.nan), "not finite"),
        (changed(9, 17, instance=1), "other people"),
        (changed(9, 16), "other columns"),
        (changed(1_000_000, 17), "another number of people"),
        (lambda shards: pa.table({"instance": shards.instance}), "other columns"),
    ],
)
def test_other_tables_are_refused(
    shards: ShardSet, tmp_path: Path, table: Callable[[ShardSet], pa.Table], why: str
) -> None:
    file, warnings = tmp_path / "teacher.parquet", list[str]()
    pq.write_table(table(shards), file)
    assert teacher_cache.read(str(file), shards, warn=warnings.append) is None
    (warning,) = warnings
    assert str(file) in warning
    assert why in warning


def test_who_comes_first_is_kept(shards: ShardSet, tmp_path: Path) -> None:
    one, other = (np.full(shards.keypoints.shape, value, np.float32) for value in (1, 2))
    uri = str(tmp_path / "teacher.parquet")
    teacher_cache.keep(uri, one, shards, warn=pytest.fail)
    np.testing.assert_array_equal(teacher_cache.keep(uri, other, shards, warn=pytest.fail), one)
    Path(uri).write_bytes(b"damaged")
    teacher_cache.keep(uri, other, shards, warn=pytest.fail)
    np.testing.assert_array_equal(teacher_cache.read(uri, shards, warn=pytest.fail), other)


def test_a_place_that_cannot_be_written_costs_a_warning(shards: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    keypoints, warnings = np.zeros(shards.keypoints.shape, np.float32), list[str]()
    assert teacher_cache.keep(f"{tmp_path}/file/teacher.parquet", keypoints, shards, warn=warnings.append) is keypoints
    assert "not kept" in warnings[0]


def test_a_flipped_bit_or_a_cut_is_noticed(shards: ShardSet, tmp_path: Path) -> None:
    keypoints = np.random.default_rng(0).normal(size=shards.keypoints.shape).astype(np.float32)
    file = tmp_path / "teacher.parquet"
    teacher_cache.keep(str(file), keypoints, shards, warn=pytest.fail)
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(400):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        found = teacher_cache.read(str(file), shards, warn=lambda _: None)
        assert found is None or np.array_equal(found, keypoints)
    file.write_bytes(whole[:-20])
    assert teacher_cache.read(str(file), shards, warn=lambda _: None) is None
