"""Poses drawn on whole images, for skeletons of any kind, by the color of single pixels; and as COCO results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from icon_dist.drawing.skeletons import LEFT, PALETTE, RIGHT, sides
from icon_dist.inference.poses import Poses
from icon_dist.types import Skeleton
from tests.support.small_models import CRATE, DOG, HAND

GREEN = (20, 120, 20)


def poses(
    skeleton: Skeleton, *joints: list[tuple[float, float]], scores: float = 0.9, wh: tuple[int, int] = (200, 160)
) -> Poses:
    xy = np.array(joints, np.float32)
    n = len(xy)
    return Poses(
        xy=xy,
        scores=np.full(xy.shape[:2], scores, np.float32),
        boxes=np.tile([10.0, 10.0, 100.0, 100.0], (n, 1)),
        pose_scores=np.full(n, 0.5, np.float32),
        skeleton=skeleton,
        image=np.full((*wh[::-1], 3), GREEN, np.uint8),
    )


def near(pixel: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixel.astype(int) - color) <= 12).all())


def test_a_skeleton_without_bones_is_dots_in_a_color_for_each_instance() -> None:
    drawn = poses(
        CRATE, [(20, 20), (60, 20), (60, 60), (20, 60)], [(120, 20), (160, 20), (160, 60), (120, 60)]
    ).drawing()
    assert near(drawn[20, 20], PALETTE[0])
    assert near(drawn[60, 60], PALETTE[0])
    assert near(drawn[20, 120], PALETTE[1])
    assert near(drawn[20, 40], GREEN), "no line between the corners"


def test_limbs_are_drawn_where_there_are_no_bones() -> None:
    limbs = Skeleton("crate", CRATE.joints, (), ((0, 1),), (), CRATE.sigmas, 2, (), (), "coco")
    drawn = poses(limbs, [(20, 20), (60, 20), (60, 60), (20, 60)]).drawing()
    assert near(drawn[20, 40], PALETTE[0])
    assert near(drawn[40, 60], GREEN)


def test_bones_of_a_hand_have_the_color_of_the_instance() -> None:
    joints = [(100.0, 140.0)] + [(20.0 + 40 * finger, 110.0 - 25 * i) for finger in range(5) for i in range(4)]
    drawn = poses(HAND, joints).drawing()
    for finger in range(5):
        assert near(drawn[72, 20 + 40 * finger], PALETTE[0])


@pytest.mark.parametrize(
    ("a", "b", "left"),
    [
        ("left_eye", "right_eye", "left_eye"),
        ("right_eye", "left_eye", "left_eye"),
        ("front_left_paw", "front_right_paw", "front_left_paw"),
        ("back_right_paw", "back_left_paw", "back_left_paw"),
        ("LShoulder", "RShoulder", "LShoulder"),
        ("wing_r", "wing_l", "wing_l"),
        ("antenna1", "antenna2", "antenna1"),
    ],
)
def test_left_and_right_are_told_by_the_names(a: str, b: str, left: str) -> None:
    colors = sides(Skeleton("x", (a, b), ((0, 1),), (), (), (0.05,) * 2, 2, (), (), "coco"))
    assert colors[(a, b).index(left)] == LEFT
    assert colors[1 - (a, b).index(left)] == RIGHT


def test_a_dog_has_its_sides_and_tracks_their_numbers() -> None:
    joints = [(150.0, 40.0), (50.0, 40.0), (140.0, 100.0), (160.0, 100.0), (40.0, 100.0), (60.0, 100.0)]
    one = poses(DOG, joints)
    drawn = one.drawing()
    assert near(drawn[100, 140], LEFT)
    assert near(drawn[100, 160], RIGHT)
    assert near(drawn[100, 40], LEFT)
    tracked = Poses(**{**vars(one), "track_ids": np.array([9])})
    drawn = tracked.drawing()
    assert near(drawn[100, 140], PALETTE[9 % len(PALETTE)])
    assert near(drawn[100, 160], PALETTE[9 % len(PALETTE)])
    assert (drawn[20:38, 140:160] != GREEN).any(), "the number is above the highest joint"


def test_a_joint_with_a_low_score_is_hollow_and_one_not_found_is_left_out() -> None:
    joints = [(20.0, 20.0), (60.0, 20.0), (60.0, 60.0), (20.0, 60.0)]
    low = poses(CRATE, joints, scores=0.1)
    assert not near(low.drawing()[20, 20], PALETTE[0])
    assert not near(low.drawing()[20, 20], GREEN)
    assert near(low.drawing(threshold=0.05)[20, 20], PALETTE[0])
    assert (poses(CRATE, joints, scores=-0.1).drawing() == GREEN).all()


def test_a_wide_photo_is_drawn_to_its_right_edge() -> None:
    """OpenCV's fixed point has room for 65536 px."""
    corners = [(19_900.0, 5.0), (19_950.0, 5.0), (19_950.0, 15.0), (1e9, -1e9)]
    drawn = poses(CRATE, corners, wh=(20_000, 20)).drawing()
    assert near(drawn[5, 19_950], PALETTE[0])
    assert (drawn[:, :19_000] == GREEN).all()


def test_a_drawing_can_be_saved_and_leaves_the_image_alone(tmp_path: Path) -> None:
    one = poses(CRATE, [(20, 20), (60, 20), (60, 60), (20, 60)])
    one.draw().save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), one.drawing())
    assert (one.image == GREEN).all()


def test_coco_results() -> None:
    one = poses(CRATE, [(1.5, 2), (3, 4), (5, 6), (7, 8)], scores=0.5)
    assert one.to_coco(image_id=7, category_id=3) == [
        {
            "image_id": 7,
            "category_id": 3,
            "keypoints": [1.5, 2, 0.5, 3, 4, 0.5, 5, 6, 0.5, 7, 8, 0.5],
            "score": 0.5,
            "bbox": [10, 10, 100, 100],
        }
    ]
    assert Poses(**{**vars(one), "track_ids": np.array([4])}).to_coco()[0]["track_id"] == 4
