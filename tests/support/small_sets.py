"""Small sets of things with few joints, as shards: what a skeleton for people takes for granted is not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations, Instance, Skeleton, TruthImage, TruthPerson

SIDE = 96  # px of a photo, with one thing in it
TRAINING = (
    *("data.dataset=custom", "data.input=32x32", "data.loaders=0", "data.augment.half_body_p=0", "data.val="),
    *(
        "model.backbone=hrnet_small",
        "model.embedding=16",
        "run.launcher=local",
        "run.workers=1",
        "run.gpus_per_worker=0",
    ),
    *("optim.batch=4", "optim.micro_batch=4", "optim.epochs=1", "optim.milestones=[]"),
    *("loss.bank.warmup=1", "run.log_every=1", "eval.every=1"),
)


def skeleton(
    name: str,
    *,
    joints: int,
    limbs: tuple[tuple[int, int], ...] = (),
    metric: str = "coco",
    torso: tuple[int, int] = (0, 0),
    visible_at: int = 2,
) -> Skeleton:
    names = tuple(f"corner_{number}" for number in range(joints))
    return Skeleton(name, names, (), limbs, (), (0.05,) * joints, visible_at, (), (), metric, torso)


def shards_of(
    shape: Skeleton, folder: Path, *, count: int = 8, v: int | Sequence[int] = 2, boxes: str = "gt", seed: int = 0
) -> str:
    """A set of ``count`` things of that skeleton below ``folder``, whose joints have visibility ``v``."""
    random = np.random.default_rng(seed)
    photos = folder / f"{shape.name}-photos"
    photos.mkdir(parents=True)
    things, annotations = list[Instance](), list[TruthPerson]()
    for number in range(count):
        cv2.imwrite(str(photos / f"{number}.jpg"), random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
        points = np.zeros((shape.num_joints, 3), np.float32)
        points[:, :2], points[:, 2] = random.uniform(20, 70, (shape.num_joints, 2)), v
        things.append(Instance(number, number, f"{number}.jpg", (SIDE, SIDE), (15.0, 15.0, 60.0, 60.0), 3600.0, points))
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [15, 15, 60, 60],
                "area": 3600.0,
                "iscrowd": 0,
                "num_keypoints": int((points[:, 2] > 0).sum()),
                "keypoints": points.reshape(-1).tolist(),
            }
        )
    images: list[TruthImage] = [{"id": n, "file_name": f"{n}.jpg", "width": SIDE, "height": SIDE} for n in range(count)]
    whole = Annotations(shape, things, {"images": images, "annotations": annotations})
    out = str(folder / shape.name)
    build(whole, str(photos), out, SetInfo(dataset="custom", split=shape.name, boxes=boxes), settings=Settings())
    return out
