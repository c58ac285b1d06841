"""How fast crops arrive in pinned memory, and what a device makes of them instead of OpenCV."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icon_dist.codec.geometry import compose, invert
from icon_dist.config import Config
from icon_dist.data.augment import augment, draws
from icon_dist.data.crops import Crops
from icon_dist.data.feeder import feed
from icon_dist.methods.hard_view import warp
from icon_dist.shards.shard_set import ShardSet, read_manifest
from icon_dist.training.loop import use_precision
from icon_dist.training.setup import Data, open_data, stream_of
from tests.gpu.setting import Row, Rows, Setting, config


def data(setting: Setting) -> Rows:
    cfg = of_shards(setting)
    opened = open_data(cfg)
    for loaders in (0, 1) if setting.tiny else (1, 4, 8, 14):
        yield from loading(setting, cfg, opened, loaders)
    yield from device_warp(setting, cfg, opened)


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
    """Two epochs, the second from decoded images; the first batch starts the clock."""
    cached = replace(cfg, data=replace(cfg.data, loaders=loaders, cache_mb=8000 // max(1, loaders)))
    stream = stream_of(cached, opened)
    try:
        for epoch, kind in enumerate(("", " again, decoded")):
            people = 0
            for batch in feed(stream.epoch(epoch), device=setting.device):
                if not people:
                    began, busy = time.perf_counter(), time.process_time()
                people += len(batch.row)
                if setting.left < 1 or time.perf_counter() - began > 4:
                    break
            seconds, busy = time.perf_counter() - began, time.process_time() - busy
            people -= len(batch.row)  # of the first
            note = f"{1e6 * busy / max(1, people):.0f} us an image in this process"
            yield Row(f"{loaders} loaders{kind}", people / seconds, "img/s", note=note)
    finally:
        stream.close()


def device_warp(setting: Setting, cfg: Config, opened: Data) -> Rows:
    """The same people through ``cv2.warpAffine`` and through bilinear sampling on the device."""
    use_precision("fp32")  # TF32 would round coordinates
    shards, (height, width) = opened.shards, cfg.input_hw
    rows = np.arange(min(len(shards), 16 if setting.tiny else 256))
    placement = augment(
        shards.box[rows],
        shards.keypoints[rows],
        random=draws(0, 0, shards.instance[rows]),
        config=cfg.data.augment,
        skeleton=shards.skeleton,
        input_hw=cfg.input_hw,
    )
    sampling = compose(shards.to_stored(rows), invert(placement.matrix))
    right = np.empty((len(rows), height, width, 3), np.uint8)
    began = time.perf_counter()
    Crops(shards, input_hw=cfg.input_hw).fill(right, places=rows, rows=rows, sampling=sampling)
    yield Row("decode and warp here", len(rows) / (time.perf_counter() - began), "img/s", note="one core")
    stored, matrix = decoded(shards, rows, cfg.input_hw), torch.from_numpy(sampling).float()
    stored, matrix = stored.to(setting.device), matrix.to(setting.device)
    found = warped(stored, matrix)[:, :height, :width]
    levels = (found.cpu().short() - torch.from_numpy(right).short()).abs()
    yield Row("device warp, largest difference", int(levels.max()), "levels")
    yield Row("device warp, mean difference", float(levels.float().mean()), "levels")
    ms = setting.milliseconds(lambda: warped(stored, matrix))
    yield Row("device warp", 1e3 * len(rows) / ms, "img/s", note=f"{ms:.2f} ms for {len(rows)}")


def decoded(shards: ShardSet, rows: NDArray[np.int64], hw: tuple[int, int]) -> Tensor:
    """The stored images, each in the corner of a canvas that holds it and the input."""
    width, height = shards.stored_wh[rows].max(0).tolist()
    canvas = max(hw[0], height), max(hw[1], width)
    images = np.empty((len(rows), *canvas, 3), np.uint8)
    as_it_is = np.repeat(np.eye(2, 3)[None], len(rows), 0)
    Crops(shards, input_hw=canvas).fill(images, places=rows, rows=rows, sampling=as_it_is)
    return torch.from_numpy(images)


def warped(stored: Tensor, matrix: Tensor) -> Tensor:
    """uint8 to uint8; rounded as OpenCV rounds."""
    out = warp(stored.permute(0, 3, 1, 2).float(), matrix)
    return out.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
