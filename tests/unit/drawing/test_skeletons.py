"""Pictures of poses, by the color of single pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from icon_dist.datasets import coco, crowdpose, load_skeleton, mpii
from icon_dist.drawing.skeletons import (
    CENTER,
    EDGE,
    GAP,
    LEFT,
    LEGEND,
    PAPER,
    RIGHT,
    STRIP,
    TRUTH,
    WRONG,
    Tile,
    sheet,
    sides,
    write_png,
)
from icon_dist.types import Skeleton

GREEN = np.full((256, 192, 3), (20, 120, 20), dtype=np.uint8)


def pose(**joints: tuple[float, float, float]) -> NDArray[np.float64]:
    points = np.zeros((17, 3))
    for name, values in joints.items():
        points[coco.SKELETON.joints.index(name)] = values
    return points


def tile_of(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return page[GAP + STRIP : GAP + STRIP + 256, GAP : GAP + 192]


def near(pixel: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixel.astype(int) - color) <= 12).all())


@pytest.mark.parametrize("skeleton", [coco.SKELETON, mpii.SKELETON, crowdpose.SKELETON, load_skeleton("lsp")])
def test_sides_of_every_skeleton(skeleton: Skeleton) -> None:
    colors = sides(skeleton)
    assert colors.count(LEFT) == colors.count(RIGHT) == len(skeleton.flips)
    for a, b in skeleton.flips:
        assert {colors[a], colors[b]} == {LEFT, RIGHT}
    for name, color in zip(skeleton.joints, colors, strict=True):
        if color == CENTER:
            assert not name.startswith(("left", "right"))


def test_joints_and_bones_have_the_color_of_their_side() -> None:
    joints = pose(
        left_shoulder=(120, 60, 2), right_shoulder=(60, 60, 2), left_elbow=(120, 120, 2), right_elbow=(60, 120, 2)
    )
    drawn = tile_of(sheet([Tile(GREEN, joints)], coco.SKELETON, columns=1))
    assert near(drawn[60, 120], LEFT)
    assert near(drawn[90, 120], LEFT)  # the upper arm
    assert near(drawn[60, 60], RIGHT)
    assert near(drawn[90, 60], RIGHT)
    assert near(drawn[60, 90], CENTER)  # between the shoulders
    assert near(drawn[200, 90], (20, 120, 20))


def test_occluded_is_hollow_and_unlabelled_is_not_drawn() -> None:
    joints = pose(left_wrist=(50, 50, 2), left_knee=(100, 50, 1), left_ankle=(150, 50, 0), right_wrist=(50, 150, 0.4))
    drawn = tile_of(sheet([Tile(GREEN, joints)], coco.SKELETON, columns=1))
    assert near(drawn[50, 50], LEFT)
    assert near(drawn[50, 100], EDGE)
    assert near(drawn[50, 150], (20, 120, 20))
    assert near(drawn[150, 50], RIGHT)  # a score
    nothing = tile_of(sheet([Tile(GREEN, np.zeros((17, 3)))], coco.SKELETON, columns=1))
    assert (nothing == GREEN).all()


def test_reference_lies_thin_beside_the_prediction() -> None:
    joints, truth = pose(left_wrist=(50, 50, 0.9)), pose(left_wrist=(90, 50, 2), left_elbow=(90, 100, 2))
    page = sheet([Tile(GREEN, joints, "a", truth)], coco.SKELETON, columns=1)
    drawn = tile_of(page)
    assert near(drawn[50, 50], LEFT)
    assert near(drawn[75, 90], TRUTH)
    width = [(~(drawn[row] == (20, 120, 20)).all(-1)).sum() for row in (50, 75)]
    assert 0 < width[1] < 6
    plain = sheet([Tile(GREEN, joints, "a")], coco.SKELETON, columns=1)
    assert (page[-LEGEND:] != plain[-LEGEND:]).any()  # the legend names the truth only where there is one


def test_coordinates_follow_the_size_of_the_tile() -> None:
    """A tile of 64 px is drawn at 256: pixel centers sit on integers, so 10 lands on 4 * 10 + 1.5."""
    small = np.zeros((64, 48, 3), dtype=np.uint8)
    drawn = tile_of(sheet([Tile(small, pose(left_wrist=(10, 20, 2)))], coco.SKELETON, columns=1))
    rows, cols = np.nonzero((np.abs(drawn.astype(int) - LEFT) <= 12).all(-1))
    assert (cols.mean(), rows.mean()) == pytest.approx((41.5, 81.5), abs=0.3)


def test_layout() -> None:
    wide = np.zeros((100, 200, 3), dtype=np.uint8)
    tiles = [Tile(GREEN, np.zeros((17, 3)), f"person {i}" * 30) for i in range(4)] + [Tile(wide, np.zeros((17, 3)))]
    page = sheet(tiles, coco.SKELETON, columns=2, tile_height=128)
    assert page.shape == (GAP + 3 * (128 + STRIP + GAP) + LEGEND, 420, 3)  # no narrower than the legend
    assert (page[:, -4:] == PAPER).all()  # titles are cut to the tile
    assert (page[GAP : GAP + STRIP, GAP : GAP + 96] < 100).any()  # and there
    large = sheet(tiles, coco.SKELETON, columns=3)
    assert large.shape[1] == GAP + (192 + GAP) + (512 + GAP)  # the second row is the wider one


def test_far_off_predictions_do_not_break_the_picture() -> None:
    joints = pose(left_wrist=(1e7, -1e7, 0.5), left_elbow=(50, 50, 0.5))
    drawn = tile_of(sheet([Tile(GREEN, joints)], coco.SKELETON, columns=1))
    assert near(drawn[50, 50], LEFT)


def test_png_has_the_colors_that_were_written(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    image[1, 2] = LEFT
    write_png(str(tmp_path / "new" / "a.png"), image)
    back = cv2.imread(str(tmp_path / "new" / "a.png"))
    np.testing.assert_array_equal(back[..., ::-1], image)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_wrong_joint_is_ringed_with_a_line_to_where_it_belongs() -> None:
    at, to = pose(left_wrist=(40, 128, 2), nose=(40, 40, 2)), pose(left_wrist=(150, 128, 2), nose=(150, 40, 2))
    marked = np.array([name == "left_wrist" for name in coco.SKELETON.joints])
    drawn = tile_of(sheet([Tile(GREEN, at, reference=to, wrong=marked)], coco.SKELETON, columns=1))
    assert near(drawn[128, 95], WRONG)
    assert near(drawn[128 - 5, 40], WRONG)
    assert near(drawn[128, 38], LEFT)
    assert near(drawn[40, 95], (20, 120, 20)), "the nose is not marked"
    unmarked = tile_of(sheet([Tile(GREEN, at, reference=to)], coco.SKELETON, columns=1))
    assert near(unmarked[128, 95], (20, 120, 20))
