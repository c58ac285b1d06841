"""Two sets of things that share some joints, in another order: what unions are made of."""

from __future__ import annotations

from pathlib import Path

from icon_dist.types import Skeleton
from tests.support import small_sets

HEADS = Skeleton(
    name="heads",
    joints=("nose", "left_eye", "right_eye", "left_hand", "right_hand"),
    flips=((1, 2), (3, 4)),
    limbs=((0, 1), (0, 2), (1, 3), (2, 4)),
    bones=((0, 1), (0, 2)),
    sigmas=(0.02, 0.03, 0.03, 0.06, 0.06),
    visible_at=2,
    upper=(0, 1, 2),
    lower=(3, 4),
    metric="coco",
)
HANDS = Skeleton(
    name="hands",
    joints=("neck", "right_hand", "left_hand", "tail"),
    flips=((2, 1),),
    limbs=((0, 2), (0, 1), (1, 2)),
    bones=((0, 1), (0, 2)),
    sigmas=(0.05, 0.06, 0.06, 0.09),
    visible_at=1,
    upper=(),
    lower=(),
    metric="pck",
    torso=(0, 3),
)
JOINTS = (*HEADS.joints, "neck", "tail")


def heads(folder: Path, *, count: int = 8, seed: int = 0) -> str:
    return small_sets.shards_of(HEADS, folder, count=count, seed=seed)


def hands(folder: Path, *, count: int = 6, seed: int = 1) -> str:
    """Nobody's joint has v = 2, which in this set counts as visible all the same."""
    return small_sets.shards_of(HANDS, folder, count=count, v=1, seed=seed)
