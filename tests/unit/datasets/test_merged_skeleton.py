"""One skeleton of several: whose joints come first, what must agree, which names are near."""

from __future__ import annotations

import dataclasses

import pytest

from icon_dist.datasets import load_skeleton
from icon_dist.datasets.joint_names import meaning
from icon_dist.datasets.merged_skeleton import columns, merged, missing, near_names, other_mirrors
from icon_dist.errors import DataError
from icon_dist.types import Skeleton
from tests.support.two_sets import HANDS, HEADS, JOINTS

COCO, LSP = load_skeleton("coco"), load_skeleton("lsp")


def named(skeleton: Skeleton, pairs: tuple[tuple[int, int], ...]) -> set[frozenset[str]]:
    return {frozenset(skeleton.joints[joint] for joint in pair) for pair in pairs}


def test_joints_of_the_first_then_new_ones_of_the_next() -> None:
    whole = merged([HEADS, HANDS], names=["a", "b"])
    assert whole.joints == JOINTS
    assert whole.name == "heads+hands"
    assert named(whole, whole.flips) == {frozenset(p) for p in (("left_eye", "right_eye"), ("left_hand", "right_hand"))}
    assert named(whole, whole.limbs) == named(HEADS, HEADS.limbs) | named(HANDS, HANDS.limbs)
    assert len(whole.limbs) == 7
    assert whole.sigmas == (0.02, 0.03, 0.03, 0.06, 0.06, 0.05, 0.09)
    assert (whole.visible_at, whole.metric, whole.upper, whole.lower) == (2, "coco", (0, 1, 2), (3, 4))
    assert whole.torso == (JOINTS.index("neck"), JOINTS.index("tail"))  # the first skeleton names none
    assert columns(whole, HANDS).tolist() == [5, 4, 3, 6]
    assert missing(HANDS, whole) == ["nose", "left_eye", "right_eye"]
    assert missing(HEADS, HANDS) == ["neck", "tail"]
    assert merged([HEADS], names=["a"]) is HEADS


def test_coco_and_lsp() -> None:
    whole = merged([COCO, LSP], names=["coco", "lsp"])
    assert whole.joints == (*COCO.joints, "neck", "head_top")
    assert whole.limbs == COCO.limbs  # the same eight pairs in both
    assert sorted(whole.joints[j] for j in whole.upper if j >= 17) == ["head_top", "neck"]
    assert not [*near_names([COCO, LSP], ["coco", "lsp"])]
    assert not other_mirrors(whole, COCO) + other_mirrors(whole, LSP)


def test_what_does_not_fit_is_one_line() -> None:
    unpaired = dataclasses.replace(HANDS, flips=())
    with pytest.raises(
        DataError, match=r"right_hand changes places with left_hand in a, .* with no other in b"
    ) as error:
        merged([HEADS, unpaired], names=["a", "b"])
    assert "\n" not in str(error.value)
    assert "rename them in the skeleton of one set" in str(error.value)
    crossed = dataclasses.replace(HANDS, flips=((0, 1), (2, 3)))
    with pytest.raises(DataError, match=r"left_hand changes places with right_hand in a, .* with tail in b"):
        merged([HEADS, crossed], names=["a", "b"])
    over = dataclasses.replace(HANDS, upper=(1, 2))
    with pytest.raises(DataError, match="left_hand is in the upper half of one set and in the lower half of another"):
        merged([HEADS, over], names=["a", "b"])
    assert other_mirrors(HEADS, unpaired) == ["right_hand", "left_hand"]


def test_a_joint_without_its_mirror_image_does_not_fit_a_pair() -> None:
    """In its own set it is its own mirror image; a flip would else make it a label of a joint that the set lacks."""
    one_hand = dataclasses.replace(HANDS, joints=("neck", "left_hand", "foot", "tail"), flips=())
    with pytest.raises(DataError, match="left_hand"):
        merged([HEADS, one_hand], names=["a", "b"])


@pytest.mark.parametrize(
    "names",
    [
        ("left_shoulder", "l_shoulder", "LeftShoulder", "shoulder_l", "Shoulder.L", "lsho", "left shoulder"),
        ("rank", "right_ankle", "r-ankle", "RAnkle", "ankle_right"),
        ("head_top", "headtop", "HeadTop", "head-top"),
    ],
)  # fmt: skip
def test_names_that_differ_in_spelling(names: tuple[str, ...]) -> None:
    assert len({meaning(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("left_hip", "right_hip"), ("neck", "upneck"), ("knee_1", "knee_2"), ("ear", "rear"), ("lip", "left_hip")],
)
def test_names_that_differ(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def test_near_names_are_said_and_not_merged() -> None:
    spelt = dataclasses.replace(HANDS, joints=("neck", "r_hand", "l_hand", "tail"))
    assert merged([HEADS, spelt], names=["a", "b"]).num_joints == 9
    (note,) = near_names([HEADS, spelt], ["a", "b"])
    assert "'left_hand' of a and 'l_hand' of b" in note
    assert "'right_hand' of a and 'r_hand' of b" in note
    counted = dataclasses.replace(HANDS, joints=tuple(f"{number}_{joint}" for number, joint in enumerate(HANDS.joints)))
    (note,) = near_names([HANDS, counted], ["a", "b"])
    assert f"{HANDS.joints[0]!r} of a and '0_{HANDS.joints[0]}' of b" in note
    twice = dataclasses.replace(HEADS, joints=("nose", "Nose", "right_eye", "left_hand", "right_hand"))
    assert not [*near_names([twice, HANDS], ["a", "b"])]  # whoever made that set knows why


def test_numbers_for_names_are_said_and_merged() -> None:
    """Two files that name no joints: the same numbers need not be the same joints."""
    one = dataclasses.replace(HANDS, joints=("joint_0", "joint_1", "joint_2", "joint_3"), name="one")
    other = dataclasses.replace(one, bones=one.bones[:1])
    assert merged([one, other], names=["a", "b"]).num_joints == 4
    (note,) = near_names([one, other, HEADS], ["a", "b", "c"])
    assert "joints of a and b are numbered, and taken as one by their numbers" in note
    assert not [*near_names([one, one], ["a", "b"])]  # built with one skeleton
