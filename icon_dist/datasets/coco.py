"""COCO person keypoints: the skeleton. All files of COCO's format are read by ``coco_json.py``."""

from __future__ import annotations

from pathlib import Path

from icon_dist.datasets.annotation_file import Faults, load
from icon_dist.datasets.coco_json import people_of
from icon_dist.images.photo import Exif
from icon_dist.types import Annotations, Skeleton

SIDES = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")

SKELETON = Skeleton(
    name="coco",
    joints=(
        "nose",
        *(f"{side}_{part}" for part in ("eye", "ear", *SIDES) for side in ("left", "right")),
    ),
    flips=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=((5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)),
    bones=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
        *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    visible_at=2,
    upper=tuple(range(11)),
    lower=tuple(range(11, 17)),
    metric="coco",
    torso=(5, 12),
)
COCO_LIMBS = SKELETON.limbs  # public: for IconLoss in other people's loops


def read(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    drop_invalid: bool = False,
    exif: Exif | None = None,
) -> Annotations:
    """``person_keypoints_*.json[.gz]``; crowds and people without a labelled joint stay in the truth only."""
    faults = Faults(annotations, drop=drop_invalid)
    return people_of(load(annotations), faults, skeleton=SKELETON, images=images, exif=exif)
