"""Ranks of a host map one copy of an index, and a set that cannot be opened is the same error on all of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import distributed
from icon_dist.errors import IconError
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.shared_columns import once_a_host
from icon_dist.storage import lock_owner, tempdirs
from tests.support.on_ranks import on_ranks


def opened(uri: str, temporary: str) -> dict[str, Any]:
    tempfile.tempdir = temporary
    try:
        shards = once_a_host(lambda: open_shards(uri))
    except IconError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    right = open_shards(uri)
    columns = {name: value for name, value in vars(right).items() if isinstance(value, np.ndarray)}
    equal = {name: np.array_equal(getattr(shards, name), value) for name, value in columns.items()}
    types = [getattr(shards, name).dtype == value.dtype for name, value in columns.items()]
    others = shards.manifest == right.manifest and shards.skeleton == right.skeleton and shards.uri == right.uri
    mapped = [line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if "icon-columns" in line]
    shards.keypoints[:] = distributed.rank()  # is this rank's own from then on
    distributed.gather_objects(None)
    return {
        "equal": all(equal.values()) and all(types) and others and list(shards.key) == list(right.key),
        "files": sorted(set(mapped)),
        "own": float(shards.keypoints.mean()),
    }


def test_ranks_map_the_same_files(people: Path, tmp_path: Path) -> None:
    ranks = on_ranks(opened, f"{people}/train", str(tmp_path), world=3, folder=tmp_path)
    assert [rank["equal"] for rank in ranks] == [True] * 3
    assert len(ranks[0]["files"]) == 15  # 13 columns, and the keys in two files
    assert ranks[0]["files"] == ranks[1]["files"] == ranks[2]["files"]
    assert [rank["own"] for rank in ranks] == [0, 1, 2]
    assert not list(tmp_path.glob("icon-columns-*")), "still there"


def test_hosts_of_one_name_map_each_their_own(people: Path, tmp_path: Path) -> None:
    first, second = on_ranks(on_two_hosts, f"{people}/train", str(tmp_path), world=2, folder=tmp_path)
    assert first["equal"]
    assert second["equal"]
    assert len(first["files"]) == len(second["files"]) == 15
    assert not set(first["files"]) & set(second["files"])


def on_two_hosts(uri: str, temporary: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_owner, "machine", lambda: f"boot {distributed.rank()}")
        return opened(uri, temporary)


@pytest.mark.parametrize("world", [1, 2])
def test_a_damaged_index_is_the_same_error_everywhere(world: int, copy: Path, tmp_path: Path) -> None:
    (copy / "index.parquet").write_bytes(b"")
    ranks = on_ranks(opened, str(copy), str(tmp_path), world=world, folder=tmp_path)
    assert [set(rank) for rank in ranks] == [{"error"}] * world
    assert len({rank["error"] for rank in ranks}) == 1
    assert "sha256 differs from manifest.json" in ranks[0]["error"]


def test_no_room_for_columns_says_what_to_do(people: Path, tmp_path: Path) -> None:
    ranks = on_ranks(full, f"{people}/train", str(tmp_path), world=2, folder=tmp_path)
    assert ranks[0] == ranks[1]
    assert "No space left on device; set TMPDIR" in ranks[0]["error"]


def full(uri: str, temporary: str) -> dict[str, Any]:
    class Full(tempdirs.Folder):
        def __init__(self, kind: str) -> None:
            super().__init__(kind)
            (Path(self.name) / "keypoints").symlink_to("/dev/full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempdirs, "Folder", Full)
        return opened(uri, temporary)
