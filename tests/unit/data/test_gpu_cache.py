"""Crops cut from decoded images in the memory of a device are the crops of the loaders."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from icon_dist.config import AugmentConfig
from icon_dist.data.gpu_cache import Resident, cut, decoded_bytes
from icon_dist.data.stream import TrainStream
from icon_dist.errors import DataError
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.types import Batch
from tests.support.streams import train_stream

HW = (64, 48)


def stream_of(shards: ShardSet, *, resident: str = "", bad: float = 0.0) -> TrainStream:
    return train_stream(
        shards, seed=3, batch=3, streams=3, rank=0, world=1, micro_batch=3, input_hw=HW, augment=AugmentConfig(),
        loaders=0, resident=resident, max_bad_fraction=bad,
    )  # fmt: skip


def batches(stream: TrainStream) -> list[Batch]:
    with closing(stream):
        return [batch for epoch in (0, 1) for batch in stream.epoch(epoch)]


def test_batches_are_those_of_the_loaders(made: Path) -> None:
    shards = open_shards(str(made))
    right, found = batches(stream_of(shards)), batches(stream_of(shards, resident="cpu"))
    assert len(found) == len(right) == 6
    for a, b in zip(found, right, strict=True):
        assert_alike(a, b)


def assert_alike(found: Batch, right: Batch) -> None:
    for name, tensor in vars(found).items():
        expected = getattr(right, name)
        same = levels(tensor, expected).max() <= 1 if name == "image" else torch.equal(tensor, expected)
        assert same, name


def levels(found: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (found.short() - right.short()).abs()


def test_it_cuts_as_opencv_does() -> None:
    """Any affine of noise of any size, far outside it too: the same gray levels, but for a few that differ by one."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*rng.integers(1, 90, 2), 3), dtype=np.uint8) for _ in range(200)]
    turns = rng.uniform(-np.pi, np.pi, 200)
    zooms = rng.uniform(0.05, 2, (200, 1, 1))
    linear = zooms * np.array([[np.cos(turns), -np.sin(turns)], [np.sin(turns), np.cos(turns)]]).transpose(2, 0, 1)
    linear[::3, :, 0] *= -1  # mirrored
    matrix = np.concatenate([linear, rng.uniform(-30, 50, (200, 2, 1))], 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    right = np.stack([cv2.warpAffine(i, m, HW[::-1], flags=flags) for i, m in zip(images, matrix, strict=True)])
    sizes = np.array([image.shape[1::-1] for image in images])
    start = np.cumsum([0, *sizes.prod(1)])[:-1]
    pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
    words = (torch.from_numpy(x) for x in (start, sizes, matrix))
    found = cut(pixels, *words, hw=HW)
    apart = levels(found, torch.from_numpy(right))
    assert int(apart.max()) <= 1
    assert float((apart > 0).float().mean()) < 1e-4
    assert float((right > 0).mean()) > 0.1


def test_how_much_memory_it_takes(made: Path) -> None:
    shards = open_shards(str(made))
    resident = Resident(shards, input_hw=HW, device="cpu", threads=2)
    assert resident.pixels.nbytes == decoded_bytes(shards) == 3 * sum(w * h for w, h in shards.stored_wh.tolist())
    resident.close()
    assert resident.pixels.nbytes == 0


def test_a_bad_image_ends_the_run_or_leaves_an_empty_place(copy: Path) -> None:
    tar = next(copy.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    at = data.index(b"\xff\xd8\xff")
    data[at + 200] ^= 1
    tar.write_bytes(data)
    shards = open_shards(str(copy))
    with pytest.raises(DataError, match=re.escape(tar.name)):
        stream_of(shards, resident="cpu")
    right = stream_of(shards, bad=0.5)
    found = stream_of(shards, bad=0.5, resident="cpu")
    pairs = list(zip(batches(found), batches(right), strict=True))
    assert any((a.row < 0).any() for a, _ in pairs)
    for a, b in pairs:
        assert_alike(a, b)
    assert sorted(found.skipped()) == sorted(right.skipped()) != []
