"""A webdataset pipeline over shards: everybody once, with the joints where they are in the stored image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from icon_dist import storage
from icon_dist.errors import DataError
from icon_dist.shards.as_webdataset import as_webdataset
from icon_dist.shards.shard_set import open_shards


def test_everybody_comes_once_with_joints_in_stored_pixels(people: Path) -> None:
    shards = open_shards(f"{people}/train")
    samples = list(as_webdataset(shards.uri))
    assert sorted(record["id"] for _, _, record in samples) == sorted(shards.instance.tolist())
    row_of = {int(instance): row for row, instance in enumerate(shards.instance)}
    for image, joints, record in samples:
        row = row_of[record["id"]]
        width, height = shards.stored_wh[row]
        assert image.shape == (height, width, 3)
        (x0, y0, w, h) = record["window"]
        for (x, y, v), raw in zip(joints.tolist(), record["keypoints"], strict=True):
            assert v == raw[2]
            if v:
                assert x == pytest.approx((raw[0] - x0 + 0.5) * width / w - 0.5, abs=1e-3)
                assert y == pytest.approx((raw[1] - y0 + 0.5) * height / h - 0.5, abs=1e-3)
            else:
                assert (x, y) == (0, 0)


@pytest.mark.parametrize("shuffle", [0, 7])
def test_workers_share_the_shards(people: Path, shuffle: int) -> None:
    shards = open_shards(f"{people}/train")
    assert len(shards.shard_names) > 1
    loader = DataLoader(as_webdataset(shards.uri, shuffle=shuffle), batch_size=None, num_workers=2)
    ids = [record["id"] for _, _, record in loader]
    assert sorted(ids) == sorted(shards.instance.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_follows_from_the_seed_of_torch_and_is_another_in_each_epoch(people: Path, workers: int) -> None:
    loader = DataLoader(as_webdataset(f"{people}/train", shuffle=7), batch_size=None, num_workers=workers)

    def epochs(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return [[record["id"] for _, _, record in loader] for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1) != [first, second]


def test_from_s3_and_secure(people: Path, s3: str) -> None:
    for name in storage.listing(f"{people}/train"):
        storage.write(f"{s3}/train/{name}", people / "train" / name)
    code = (
        "import sys; from icon_dist.shards.as_webdataset import as_webdataset; import webdataset.utils;"
        "assert webdataset.utils.enforce_security; print(sum(1 for _ in as_webdataset(sys.argv[1])))"
    )
    import os

    done = subprocess.run(
        [sys.executable, "-c", code, f"{s3}/train"],
        capture_output=True, text=True, check=True, env={**os.environ, "WDS_SECURE": "1"},
    )  # fmt: skip
    assert int(done.stdout) == len(open_shards(f"{people}/train"))


def test_a_damaged_shard_is_named(people: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "set"
    shutil.copytree(people / "train", copy)
    name = open_shards(str(copy)).shard_names[0]
    data = bytearray((copy / name).read_bytes())
    data[5000] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: damaged"):
        list(as_webdataset(str(copy)))


def test_stages_of_webdataset_may_follow(people: Path) -> None:
    shards = open_shards(f"{people}/val")
    ids = [record["id"] for _, _, record in as_webdataset(shards.uri).shuffle(10)]
    assert sorted(ids) == sorted(shards.instance.tolist())


def test_joints_are_float32(people: Path) -> None:
    _, joints, _ = next(iter(as_webdataset(f"{people}/val")))
    assert joints.dtype == np.float32
