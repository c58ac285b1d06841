"""What a sample costs: ours, pure decoding, and a plain HRNet-like ``__getitem__``; ratios are printed, not asserted.

``pytest -m slow -s tests/benchmarks/test_data_speed.py``
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch

from icon_dist import datasets
from icon_dist.codec import heatmap
from icon_dist.codec.affine import affine, center_scale, transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import Augmentation, place_joints
from icon_dist.data.crops import cut
from icon_dist.data.sampler import plan_epoch
from icon_dist.data.stream import TrainStream
from icon_dist.datasets.joined import first
from icon_dist.shards.reader import reader_of
from icon_dist.shards.shard_set import ShardSet, Texts, open_shards
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations, Skeleton
from tests.support.streams import train_stream

pytestmark = pytest.mark.slow
ROUNDS = 3
LOADED = 1280  # people of an epoch by which the training process is measured: what an epoch begins with is little then


def cheapest(work: Callable[[], int]) -> float:
    """Process time in us per sample, the least of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        count = work()
        times.append((time.process_time() - start) / count * 1e6)
    return min(times)


def stream_of(shards: ShardSet, hw: tuple[int, int], *, loaders: int, cache_mb: int = 0) -> TrainStream:
    batch = min(32, len(shards))
    return train_stream(
        shards,
        seed=0,
        batch=batch,
        streams=0,
        rank=0,
        world=1,
        micro_batch=batch,
        input_hw=hw,
        augment=AugmentConfig(),
        loaders=loaders,
        cache_mb=cache_mb,
    )


def repeated(shards: ShardSet, people: int) -> ShardSet:
    """At least so many people: the same crops several times, as if they were of others."""
    times = -(-people // len(shards))
    columns = {name: np.concatenate([value] * times) for name, value in vars(shards).items() if hasattr(value, "dtype")}
    columns |= {"instance": np.arange(times * len(shards)), "key": Texts(pa.concat_arrays([shards.key.column] * times))}
    return dataclasses.replace(shards, **columns)


def plain_getitem(
    people: Annotations, folder: Path, index: int, hw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """HRNet's ``JointsDataset.__getitem__``: whole photo, float image, one numpy heatmap per joint."""
    person, (height, width) = people.instances[index], hw
    photo = cv2.cvtColor(cv2.imread(str(folder / person.file)), cv2.COLOR_BGR2RGB)
    center, scale = center_scale(person.box, aspect=width / height)
    matrix = affine(center, scale, np.random.randn() * 45, out_wh=(width, height))
    if np.random.rand() < 0.5:
        photo = photo[:, ::-1, :]
    crop = cv2.warpAffine(np.ascontiguousarray(photo), matrix, (width, height), flags=cv2.INTER_LINEAR)
    joints = transform(matrix, person.keypoints[:, :2].astype(np.float64))
    h, w = height // 4, width // 4
    target = np.zeros((len(joints), h, w), np.float32)
    for k, (x, y) in enumerate(joints):
        mu_x, mu_y = int(x / 4 + 0.5), int(y / 4 + 0.5)
        if mu_x - 6 >= w or mu_y - 6 >= h or mu_x + 7 < 0 or mu_y + 7 < 0:
            continue
        grid = np.arange(0, 13, 1, np.float32)
        gauss = np.exp(-((grid - 6) ** 2 + (grid[:, None] - 6) ** 2) / 8)
        gx, gy = (max(0, 6 - mu_x), min(mu_x + 7, w) - mu_x + 6), (max(0, 6 - mu_y), min(mu_y + 7, h) - mu_y + 6)
        if gx[1] > gx[0] and gy[1] > gy[0]:
            target[k, max(0, mu_y - 6) : min(mu_y + 7, h), max(0, mu_x - 6) : min(mu_x + 7, w)] = gauss[
                gy[0] : gy[1], gx[0] : gx[1]
            ]
    image = torch.from_numpy(crop.transpose(2, 0, 1).astype(np.float32) / 255)
    image = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    return image, torch.from_numpy(target)


def figures(people: Annotations, folder: Path, shards: ShardSet, hw: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    reader = reader_of(shards)
    encoded = [reader.read(row) for row in range(len(shards))]
    wh = shards.stored_wh.astype(np.int64)
    scratch = np.empty(int((wh.prod(1) * 3).max()), np.uint8)

    def pure() -> int:
        for data in encoded:
            simplejpeg.decode_jpeg(data, buffer=scratch)
        return len(encoded)

    def codes() -> int:
        """An eighth of the pixels each way: what is left is undoing the Huffman codes."""
        for data in encoded:
            simplejpeg.decode_jpeg(data, buffer=scratch, min_height=1, min_width=1, min_factor=8)
        return len(encoded)

    def hashing() -> int:
        for data in encoded:
            hashlib.sha256(data).hexdigest()
        return len(encoded)

    def plain() -> int:
        items = [plain_getitem(people, folder, i, hw) for i in range(len(people.instances))]
        for start in range(0, len(items), 32):
            torch.utils.data.default_collate(items[start : start + 32])
        return len(items)

    fresh, cached = (stream_of(shards, hw, loaders=0, cache_mb=mb) for mb in (0, 1024))
    for epoch in range(3):
        for _ in cached.epoch(epoch):
            pass

    def whole_epoch(stream: TrainStream) -> int:
        return sum(len(batch.row) for batch in stream.epoch(7))

    joints, labelled = torch.rand(32, shards.skeleton.num_joints, 2) * hw[1], torch.ones(32, shards.skeleton.num_joints)

    def targets() -> int:
        for _ in range(10):
            heatmap.encode(joints, labelled > 0, hw=(hw[0] // 4, hw[1] // 4), stride=4, sigma=2.0)
        return 320

    decode, coded, peer, hashed = (cheapest(work) for work in (pure, codes, plain, hashing))
    ours, hot = cheapest(lambda: whole_epoch(fresh)), cheapest(lambda: whole_epoch(cached))
    start = time.perf_counter()
    stream = stream_of(repeated(shards, LOADED), hw, loaders=2)
    started = time.perf_counter() - start
    next(iter(stream.epoch(0)))
    first_batch = time.perf_counter() - start
    main = cheapest(lambda: whole_epoch(stream))  # of this process: the time of its loaders does not count
    start = time.perf_counter()
    count = whole_epoch(stream)
    wall = (time.perf_counter() - start) / count * 1e6
    stream.close()
    stream = stream_of(repeated(shards, LOADED), hw, loaders=2, cache_mb=2048)
    whole_epoch(stream)
    quick = cheapest(lambda: whole_epoch(stream))
    stream.close()
    print(
        f"\n{len(shards)} people, stored {wh.mean(0).round().tolist()} px, input {hw}, us per sample"
        f"\n  pure decode {decode:.0f}, its Huffman codes alone {coded:.0f}; plain __getitem__ + collate {peer:.0f}; "
        f"targets {cheapest(targets):.0f}; "
        f"sha256 {hashed:.1f} = {hashed / ours:.1%} of ours"
        f"\n  ours {ours:.0f} = {ours / decode:.2f} x pure decode, {peer / ours:.1f} x faster than plain, "
        f"{1e6 / ours:.0f} images/s per core"
        f"\n  cached {hot:.0f} = {peer / hot:.1f} x faster than plain, {1e6 / hot:.0f} images/s per core"
        f"\n  2 loaders: main process {main:.0f} ({quick:.0f} beside a cache), {1e6 / wall:.0f} images/s; "
        f"start {started:.3f} s, first batch after {first_batch:.3f} s"
    )


def packed(people: Annotations, folder: Path, out: Path, name: str) -> ShardSet:
    build(people, str(folder), str(out), SetInfo(dataset=name, split="train"))
    return open_shards(str(out))


def test_lsp(shared: Path, tmp_path: Path) -> None:
    folder = shared / "lsp" / "images"
    people = first(datasets.read("custom", shared / "lsp" / "lspet_full14.json", skeleton="lsp"), 320)
    figures(people, folder, packed(people, folder, tmp_path / "s", "custom"), (64, 64))


def test_coco(shared: Path, tmp_path: Path) -> None:
    folder = shared / "coco" / "mini" / "images"
    people = datasets.read("coco", shared / "coco" / "mini" / "person_keypoints.json")
    figures(people, folder, packed(people, folder, tmp_path / "s", "coco"), (256, 192))


def test_warp() -> None:
    rng = np.random.default_rng(0)
    for (height, width), (h, w) in (((184, 181), (64, 64)), ((330, 336), (256, 192))):
        turned = cv2.getRotationMatrix2D((w / 2, h / 2), 20, height / h / 1.9)
        turned[:, 2] += (width - w) / 2, (height - h) / 2
        took = []
        for channels in (3, 4):
            image, out = (np.empty((*hw, channels), np.uint8) for hw in ((height, width), (h, w)))
            image[:] = rng.integers(0, 256, image.shape, dtype=np.uint8)

            def work(image: np.ndarray = image, out: np.ndarray = out, matrix: np.ndarray = turned) -> int:
                for _ in range(100):
                    cut(image, matrix, out=out)
                return 100

            took.append(cheapest(work))
        print(f"\nwarp to {h}x{w}: {took[0]:.0f} us with three channels, {took[1]:.0f} with four")


def test_plan_of_150_000_people() -> None:
    shard = np.repeat(np.arange(150, dtype=np.int32), 1000)
    took = cheapest(lambda: len(plan_epoch(shard, seed=0, epoch=1, streams=256, batch=1024).rows))
    print(f"\nplan of an epoch of 150,000 people: {took * 146 / 1e3:.0f} ms")


def test_augmentation() -> None:
    skeleton: Skeleton = datasets.load_skeleton("coco")
    rng = np.random.default_rng(0)
    box, keypoints = rng.uniform(10, 200, (256, 4)), rng.uniform(0, 200, (256, 17, 3)).astype(np.float32)

    augmentation = Augmentation(AugmentConfig(), skeleton, InputFrame((256, 192)), 0)

    def work() -> int:
        placed = augmentation(box, keypoints, np.arange(256), 1)
        place_joints(keypoints, placed, skeleton=skeleton)
        return 256

    print(f"\naugmentation and joints: {cheapest(work):.1f} us per sample")
