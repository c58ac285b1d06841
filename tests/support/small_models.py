"""Untrained models of any skeleton as files that ``fetch`` could have written, and photos to try them on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from icon_dist import config as configuration
from icon_dist.checkpoints.weights import Weights, encode
from icon_dist.config import Config
from icon_dist.inference import video  # noqa: F401  (before OpenCV starts FFmpeg, which it tells to be silent)
from icon_dist.models import PoseNet, from_config
from icon_dist.types import Skeleton

HAND = Skeleton(  # 21 joints, no sides
    name="hand",
    joints=("wrist", *(f"{finger}_{i}" for finger in ("thumb", "index", "middle", "ring", "little") for i in range(4))),
    flips=(),
    limbs=(),
    bones=tuple((0 if i % 4 == 1 else i - 1, i) for i in range(1, 21)),
    sigmas=(0.05,) * 21,
    visible_at=2,
    upper=(),
    lower=(),
    metric="coco",
)
CRATE = Skeleton("crate", ("a", "b", "c", "d"), (), (), (), (0.05,) * 4, 2, (), (), "coco")  # nothing but corners
DOG = Skeleton(
    name="dog",
    joints=("nose", "tail", "front_left_paw", "front_right_paw", "back_left_paw", "back_right_paw"),
    flips=((2, 3), (5, 4)),
    limbs=((0, 1), (2, 4), (3, 5)),
    bones=((0, 1), (0, 2), (0, 3), (1, 4), (1, 5)),
    sigmas=(0.05,) * 6,
    visible_at=2,
    upper=(),
    lower=(),
    metric="coco",
)
OVERRIDES = ("data.input=32x32", "data.dataset=custom", "model.backbone=hrnet_small", "data.augment.half_body_p=0")


def untrained(config: Config, skeleton: Skeleton) -> PoseNet:
    """A model with fresh weights, without the head that only training uses."""
    without_contrast = dataclasses.replace(config, loss=dataclasses.replace(config.loss, lambda_p=0))
    return from_config.build(without_contrast, skeleton)


def weights_file(path: Path, skeleton: Skeleton, *overrides: str, seed: int = 0) -> Path:
    """A model of ``skeleton`` with random weights; its heatmaps are noise, and so are its joints."""
    config = configuration.load("coco", [*OVERRIDES, *overrides])
    torch.manual_seed(seed)
    model = untrained(config, skeleton)
    torch.nn.init.normal_(model.state_dict()["final_layer.weight"], std=0.3)
    weights = Weights(model.state_dict(), config, skeleton, step=7, checkpoint="none", manifest_sha256="")
    path.write_bytes(encode(weights))
    return path


def picture(seed: int = 0, *, hw: tuple[int, int] = (90, 120)) -> NDArray[np.uint8]:
    """A smooth RGB image of random colors: JPEG leaves it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, hw[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def write(path: Path, image: NDArray[np.uint8]) -> Path:
    """``image`` in RGB as a file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
    return path


def write_video(path: Path, frames: list[NDArray[np.uint8]], *, fps: float = 10) -> Path:
    """``frames`` in RGB as an MP4 or AVI."""
    code = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path
