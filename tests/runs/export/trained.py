"""Fetched files: of fresh networks with the heatmaps of noise, and of networks that have learned a little."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from icon_dist import config as configuration
from icon_dist import datasets, export
from icon_dist.checkpoints.weights import Weights, encode
from icon_dist.codec import codec_of
from icon_dist.codec.affine import transform
from icon_dist.codec.frame import InputFrame
from icon_dist.datasets import load_skeleton
from icon_dist.types import Skeleton
from tests.support.small_models import untrained

TINY = {"data.input": "64x64", "data.sigma": 1.0, "model.backbone": "resnet18"}


def of_joints(joints: int) -> Skeleton:
    """A chain of so many joints, without pairs that mirror."""
    coco = load_skeleton("coco")
    chain = tuple((i, i + 1) for i in range(joints - 1))
    names = tuple(f"joint {i}" for i in range(joints))
    return dataclasses.replace(
        coco, name=f"chain{joints}", joints=names, flips=(), limbs=chain, bones=chain, sigmas=(0.05,) * joints,
        upper=(), lower=(), torso=(0, 0), metric="coco",
    )  # fmt: skip


def fetched(file: Path, skeleton: Skeleton | None = None, *, channel_order: str = "rgb", **more: Any) -> Path:
    """``file`` as ``icon-dist fetch`` writes it; ``more`` is section__key=value of the config."""
    skeleton = skeleton or load_skeleton("coco")
    config = configuration.load("demo", TINY | {key.replace("__", "."): value for key, value in more.items()})
    torch.manual_seed(0)
    model = untrained(config, skeleton)
    _calibrate(model, config.input_hw)
    weights = Weights(
        model.state_dict(), config, skeleton, step=7, checkpoint="runs/one/checkpoints/step-00000007-a",
        manifest_sha256="0" * 64, metrics={"PCK@0.2": 0.5}, score=0.5, channel_order=channel_order,
    )  # fmt: skip
    file.write_bytes(encode(weights))
    return file


def lsp_crops(
    shared: Path, count: int, *, hw: tuple[int, int], codec: str, start: int = 0
) -> tuple[UInt8[Tensor, "N H W 3"], Float[Tensor, "N K 3"]]:
    """People of Leeds Sports Pose, cropped as the evaluation crops them, and their joints in px of the crops."""
    people = datasets.read("custom", shared / "lsp" / "lsp_train.json", skeleton="lsp").instances
    crops, joints = [], []
    for person in people[start : start + count]:
        photo = cv2.imread(str(shared / "lsp" / "images" / person.file))[..., ::-1]
        matrix = InputFrame(hw, codec).boxes(np.array([person.box], np.float64))
        crops.append(cv2.warpAffine(photo, matrix[0], hw[::-1], flags=cv2.INTER_LINEAR))
        xy = transform(matrix, person.keypoints[None, :, :2])[0]
        joints.append(np.concatenate([xy, person.keypoints[:, 2:]], 1))
    return torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(joints)).float()


def taught(file: Path, shared: Path, *, steps: int = 120, **more: Any) -> Path:
    """``file`` as ``icon-dist fetch`` writes it of a network that has seen 400 people of Leeds Sports Pose a while."""
    skeleton = load_skeleton("lsp")
    config = configuration.load("demo", TINY | {key.replace("__", "."): value for key, value in more.items()})
    torch.manual_seed(0)
    model = untrained(config, skeleton)
    codec = codec_of(config)
    crops, joints = lsp_crops(shared, 400, hw=config.input_hw, codec=codec.name, start=200)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        row = torch.randint(len(crops), (16,))
        target, weight = codec.encode(joints[row, :, :2], joints[row, :, 2] > 0)
        error = (model(crops[row]).heatmaps - target) ** 2 * weight[..., None, None]
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    weights = Weights(model.state_dict(), config, skeleton, step=steps, checkpoint="none", manifest_sha256="0" * 64)
    file.write_bytes(encode(weights))
    return file


def exported(folder: Path, name: str, *options: str, skeleton: Skeleton | None = None, **config: Any) -> Path:
    """A model of ``config``, ``folder/m.safetensors``, exported to ``folder/NAME``."""
    weights = fetched(folder / "m.safetensors", skeleton, **config)
    export.main([str(weights), "-o", str(folder / name), *options])
    return folder / name


@torch.no_grad()
def _calibrate(model: Any, hw: tuple[int, int]) -> None:
    """Statistics of noise into BatchNorm, and heatmaps between 0 and 1."""
    image = torch.randint(0, 256, (8, *hw, 3), dtype=torch.uint8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    nn.init.normal_(model.final_layer.weight, std=1.0)
    model.train()(image)
    model.eval()
    maps = model(image).heatmaps
    model.final_layer.weight /= maps.abs().amax()
