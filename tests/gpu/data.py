"""How fast crops arrive on the device: from loaders, and cut there from decoded images."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from icon_dist.codec.affine import compose, invert
from icon_dist.codec.frame import InputFrame
from icon_dist.config import Config
from icon_dist.data.augment import Augmentation, place_joints
from icon_dist.data.crops import Crops
from icon_dist.data.gpu_cache import Resident, decoded_bytes
from icon_dist.data.loader_processes import Job
from icon_dist.data.prefetch import feed
from icon_dist.data.stream import TrainStream
from icon_dist.shards.manifest import read_manifest
from icon_dist.shards.shard_set import ShardSet
from icon_dist.training.setup import Data, open_data, stream_of
from icon_dist.types import Batch
from tests.gpu.setting import Row, Rows, Setting, config, within


def data(setting: Setting) -> Rows:
    cfg = of_shards(setting)
    opened = open_data(cfg)
    for loaders in (0, 1) if setting.tiny else (1, 4, 8, 14):
        yield from loading(setting, cfg, opened, loaders)
    yield from resident(setting, cfg, opened)


def of_shards(setting: Setting) -> Config:
    """A config for the shards at hand."""
    manifest = read_manifest(str(setting.data / "train"))
    return config(
        setting,
        data__dataset=manifest["dataset"],
        data__train=str(setting.data / "train"),
        data__val=str(setting.data / "val"),
        data__sigma=1 if setting.tiny else 2,
        optim__batch=16 if setting.tiny else 64,
        optim__micro_batch=16 if setting.tiny else 64,
    )


def loading(setting: Setting, cfg: Config, opened: Data, loaders: int) -> Rows:
    """Two epochs, the second from decoded images."""
    cached = replace(cfg, data=replace(cfg.data, loaders=loaders, cache_mb=8000 // max(1, loaders)))
    stream = stream_of(cached, opened, device=setting.device)
    try:
        for epoch, kind in enumerate(("", " again, decoded")):
            yield arriving(setting, stream, epoch, f"{loaders} loaders{kind}")
    finally:
        stream.close()


def arriving(setting: Setting, stream: TrainStream, epoch: int, name: str) -> Row:
    """How fast an epoch's batches come to the device; the first one starts the clock."""
    people = 0
    with closing(feed(stream.epoch(epoch), device=setting.device)) as batches:
        for batch in batches:
            if not people:
                began, busy = time.perf_counter(), time.process_time()
            people += len(batch.row)
            if setting.left < 1 or time.perf_counter() - began > 4:
                break
        setting.finish()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy  # before the rest is dropped
    people -= len(batch.row)  # of the first
    return Row(name, people / seconds, "img/s", note=f"{1e6 * busy / max(1, people):.0f} us an image in this process")


def resident(setting: Setting, cfg: Config, opened: Data) -> Rows:
    """Decoded images on the device: what making them costs, whether their crops are OpenCV's, how fast they come."""
    shards, hw = opened.shards, cfg.input_hw
    began = time.perf_counter()
    images = Resident(shards, input_hw=hw, device=setting.device, threads=cfg.run.cpus_per_worker)
    setting.finish()
    note = f"{decoded_bytes(shards) / 1e9:.2f} GB"
    yield Row("resident, decoded", len(shards) / (time.perf_counter() - began), "img/s", note=note)
    job = some_job(shards, cfg, rows=np.arange(min(len(shards), 16 if setting.tiny else 256)))
    rows = job.batch.row.numpy()
    right = np.empty((len(rows), *hw, 3), np.uint8)
    began = time.perf_counter()
    Crops(shards, input_hw=hw).fill(right, places=rows, rows=rows, sampling=job.sampling)
    yield Row("decode and warp here", len(right) / (time.perf_counter() - began), "img/s", note="one core")
    (found,) = images.run(iter([job]))
    levels = (found.image.cpu().short() - torch.from_numpy(right).short()).abs()
    yield within("resident, largest difference", int(levels.max()), 1 if cv2.__version__ >= "5" else 8, "levels")
    yield Row("resident, mean difference", float(levels.float().mean()), "levels")
    ms = setting.milliseconds(lambda: list(images.run(iter([job]))))
    yield Row("resident, cut", 1e3 * len(right) / ms, "img/s", note=f"{ms:.2f} ms for {len(right)}")
    images.close()
    always = replace(cfg, data=replace(cfg.data, resident="always"))
    stream = stream_of(always, opened, device=setting.device)
    yield arriving(setting, stream, 0, "resident crops")
    stream.close()


def some_job(shards: ShardSet, cfg: Config, *, rows: NDArray[np.int64]) -> Job:
    frame = InputFrame(cfg.input_hw, cfg.data.codec)
    augmentation = Augmentation(cfg.data.augment, shards.skeleton, frame, seed=0)
    instance = shards.instance[rows]
    placement = augmentation(shards.box[rows], shards.keypoints[rows], instance, 0)
    joints = place_joints(shards.keypoints[rows], placement, skeleton=shards.skeleton)
    to_photo = invert(placement.matrix)
    columns = (
        *(np.empty((len(rows), 0, 0, 3), np.uint8), joints.xy, joints.labelled, joints.visible),
        *(instance, shards.image_id[rows], rows, to_photo.astype(np.float32)),
    )
    batch = Batch(*map(torch.from_numpy, columns))
    return Job(batch, rows, compose(shards.to_stored(rows), to_photo), owner=np.zeros_like(rows), ahead={})
