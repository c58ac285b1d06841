"""CrowdPose: COCO format without areas, with a ``crowdIndex`` per image; read by ``coco_json.py``."""

from __future__ import annotations

from pathlib import Path

from icon_dist.datasets.annotation_file import Faults, load
from icon_dist.datasets.coco_json import people_of
from icon_dist.types import Annotations, Skeleton

SKELETON = Skeleton(
    name="crowdpose",
    joints=(
        *(f"{s}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for s in ("left", "right")),
        *("head", "neck"),
    ),
    flips=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    limbs=((0, 2), (2, 4), (1, 3), (3, 5), (6, 8), (8, 10), (7, 9), (9, 11)),
    bones=(
        *((12, 13), (13, 0), (13, 1), (0, 1), (6, 7), (0, 6), (1, 7)),
        *((0, 2), (2, 4), (1, 3), (3, 5), (6, 8), (8, 10), (7, 9), (9, 11)),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    visible_at=1,  # v is no visibility flag here: head and neck are never 2
    upper=(0, 1, 2, 3, 4, 5, 12, 13),
    lower=(6, 7, 8, 9, 10, 11),
    metric="crowdpose",
    torso=(0, 7),
)


def read(annotations: str | Path, *, images: str | Path | None = None, drop_invalid: bool = False) -> Annotations:
    """``crowdpose_*.json[.gz]``. ``num_keypoints`` leaves out head and neck; evaluation ignores people with 0."""
    return people_of(
        load(annotations),
        Faults(annotations, drop=drop_invalid),
        skeleton=SKELETON,
        images=images,
        counted_joints=12,
        box_area=0.53,
        image_field="crowdIndex",
    )
