"""A small sound world of everything the commands read: photos, annotations, boxes, shards, a run, weights, a config."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from icon_dist import config as configuration
from icon_dist import datasets, fetch
from icon_dist.checkpoints import checkpoint
from icon_dist.datasets import skeleton_to_dict
from icon_dist.models import from_config
from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build

CONFIG: dict[str, Any] = {
    "extends": "demo",
    "run": {"name": "tiny", "launcher": "local", "workers": 1, "gpus_per_worker": 0},
    "data": {"dataset": "coco", "train": "shards", "val": "shards", "input": "64x64", "loaders": 0, "sigma": 2.0},
    "model": {"backbone": "hrnet_small", "embedding": 16, "pretrained": ""},
    "loss": {"tau": 0.07, "skcc": {"query": "hard", "queries": 5}, "bank": {"slots": 32}},
    "optim": {"epochs": 3, "batch": 4, "micro_batch": 4, "lr": 0.001, "milestones": [1, 2]},
    "eval": {"batch": 4, "flip": True},
}


def person(number: int, image: int, *, joints: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [10.0, 6.0, 60.0, 67.0 + number // 3],  # nobody has the box of somebody else
        "area": 2000.0,
        "iscrowd": 0,
        "num_keypoints": joints,
        "keypoints": [v for j in range(joints) for v in (12 + 2 * j + number // 3, 15 + 3 * j, 2)],  # nobody twice
    }


def coco(joints: int = 17) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 90} for i in (1, 2, 3)],
        "annotations": [person(i, 1 + i % 3, joints=joints) for i in range(10, 18)],
        "categories": [{"id": 1, "name": "person"}],
    }


def crowdpose() -> dict[str, Any]:
    document = coco(14)
    for image in document["images"]:
        image["crowdIndex"] = 0.3
    for one in document["annotations"]:
        del one["area"]
        one["num_keypoints"] = 12
    return document


def mpii() -> list[dict[str, Any]]:
    joints = [[12 + 4 * j, 15 + 3 * j] for j in range(16)]
    place = {"center": [50.5, 40], "scale": 0.4}
    return [{"image": f"{i}.jpg", **place, "joints": joints, "joints_vis": [1] * 16} for i in (1, 2, 3)]


def boxes() -> list[dict[str, Any]]:
    return [{"image_id": i, "category_id": 1, "bbox": [8, 5.5, 50, 70], "score": 0.25 * i} for i in (1, 2, 3)]


def make(root: Path) -> None:
    """Everything below ``root``, which is then the working directory of the commands."""
    (root / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in (1, 2, 3):
        cv2.imwrite(str(root / "photos" / f"{i}.jpg"), rng.integers(0, 255, (90, 100, 3), dtype=np.uint8))
    for name, document in {
        "coco": coco(),
        "crowdpose": crowdpose(),
        "mpii": mpii(),
        "lsp": coco(14),
        "boxes": boxes(),
        "photos": {"images": coco()["images"]},
    }.items():
        (root / f"{name}.json").write_text(json.dumps(document))
    skeleton = datasets.load_skeleton("coco")
    (root / "skeleton.yaml").write_text(yaml.safe_dump(skeleton_to_dict(datasets.load_skeleton("lsp"))))
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    people = datasets.read("coco", root / "coco.json", images=root / "photos")
    settings = Settings(per_shard=4, max_input=(64, 64))
    build(people, str(root / "photos"), str(root / "shards"), SetInfo(dataset="coco", split="coco"), settings=settings)
    config = configuration.load(str(root / "config.yaml"))
    about = {
        "config": dataclasses.asdict(config),
        "skeleton": skeleton_to_dict(skeleton),
        "metrics": {"AP": 0.5},
        "score": 0.5,
        "evaluated": "model",
        "channel_order": "rgb",
        "epoch": 1.0,
    }
    weights = from_config.build(config, skeleton).state_dict()
    for step in (1, 2):
        checkpoint.save(
            str(root / "run"), step=step, attempt="a", tensors={"model": weights}, state={}, manifest=about, keep=9
        )
    fetch.main([str(root / "run"), "--last", "-o", str(root / "weights.safetensors")])
