"""Fetched files of fresh networks whose heatmaps have clear peaks: models to export, without a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icon_dist import config as configuration
from icon_dist import export
from icon_dist.checkpoints.weights import Weights, encode
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
