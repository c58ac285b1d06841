"""Skeletons of files that come without one, and COCO-format files of other tools that go through as they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets.coco import SKELETON as COCO
from icon_dist.datasets.derived_skeleton import Evidence, derive, numbered
from icon_dist.datasets.joint_names import mirror_pairs, standard
from icon_dist.datasets.skeleton import read_skeleton, skeleton_yaml
from icon_dist.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "left",
    [
        "left_eye",
        "l_eye",
        "L_Eye",
        "Left-Eye",
        "leftEye",
        "LeftEye",
        "LEFT_EYE",
        "eye_left",
        "eyeL",
        "eye.L",
        "leye",
        "LEye",
        "lEye",
        "linkes_x_l",
        "左眼",
    ],
)
def test_sides_by_name(left: str) -> None:
    other = {"left": "right", "l": "r", "L": "R", "Left": "Right", "LEFT": "RIGHT", "左": "右"}
    part = next(side for side in ("left", "Left", "LEFT", "左", "L", "l") if side in left)
    right = left.replace(part, other[part]) if part != "l" or left[0] != "l" else other["l"] + left[1:]
    right = left[:-1] + "r" if left.endswith("_l") else right
    assert mirror_pairs(("nose", right, "tail", left)) == ((3, 1),)


@pytest.mark.parametrize(
    ("joints", "pairs"),
    [
        (("Nase", "linkes Auge", "rechtes Auge", "linke Schulter", "rechte Schulter"), ((1, 2), (3, 4))),
        (("linkeroog", "rechteroog"), ((0, 1),)),
        (("occhio sinistro", "occhio destro", "spalla sinistra", "spalla destra"), ((0, 1), (2, 3))),
        (("olho esquerdo", "olho direito", "mão esquerda", "mão direita"), ((0, 1), (2, 3))),
        (("левый глаз", "правый глаз", "левое плечо", "правое плечо"), ((0, 1), (2, 3))),
        (("sol göz", "sağ göz"), ((0, 1),)),
        (("왼쪽 눈", "오른쪽 눈", "왼손목", "오른손목"), ((0, 1), (2, 3))),
        (("العين اليسرى", "العين اليمنى"), ((0, 1),)),
        (("e\u0301paule gauche", "épaule droite"), ((0, 1),)),  # the same letter in two ways
        (("lefteye", "righteye", "earleft", "earright"), ((0, 1), (2, 3))),
        (("FL_paw", "FR_paw", "BL_paw", "BR_paw"), ((0, 1), (2, 3))),
        (("fl", "fr", "rl", "rr"), ((0, 1), (2, 3))),
        (("LF", "RF", "LR", "RR"), ((0, 1), (2, 3))),
        (("0_nose", "1_left_eye", "2_right_eye"), ((1, 2),)),
        (("1. left eye", "2. right eye", "3. nose"), ((0, 1),)),
        (("1_left", "1_right", "2_left", "2_right"), ((0, 1), (2, 3))),  # these numbers do not only count
        (("left_eye_left", "left_eye_right", "right_eye_left", "right_eye_right"), ((0, 3), (1, 2))),
        (("light", "left", "right"), ((1, 2),)),
    ],
)
def test_pairs_of_sides_by_name(joints: tuple[str, ...], pairs: tuple[tuple[int, int], ...]) -> None:
    assert mirror_pairs(joints) == pairs


def test_names_without_sides() -> None:
    assert mirror_pairs(("lip", "nose", "leg", "right", "left", "left_only", "rail", "all")) == ((4, 3),)
    assert [standard(n) for n in ("Head top", "left", "forelegR1")] == ["head_top", "left", "right_foreleg_1"]


def people(joints: int, xy: list[list[float]]) -> np.ndarray:
    one = np.array([[*point, 2] for point in xy], float)
    assert len(one) == joints
    return np.stack([one, one * [2, 2, 1] + [5, 9, 0]])


def test_bones_by_the_shortest_links() -> None:
    """A chain, by hand: each joint next to its neighbours."""
    chain = people(4, [[0, 0], [30, 0], [10, 0], [20, 1]])
    skeleton, notes = derive(Evidence("chain", numbered(4), keypoints=chain))
    assert {frozenset(b) for b in skeleton.bones} == {frozenset(b) for b in ((0, 2), (2, 3), (3, 1))}
    assert skeleton.limbs == skeleton.bones
    assert skeleton.sigmas == (0.067,) * 4
    assert "4 joints; no left and right in the names" in notes[0]
    assert "3 bones, estimated as the shortest links; sigmas: 4 by COCO's mean 0.067" in notes[0]


def test_the_other_side_has_the_same_bones() -> None:
    """The left wing's link is short in these photos, the right one's long: both are bones."""
    skeleton, _ = derive(
        Evidence("bird", ("beak", "left_wing", "right_wing"), keypoints=people(3, [[0, 0], [9, 0], [-16, 0]]))
    )
    assert {frozenset(b) for b in skeleton.bones} == {frozenset((0, 1)), frozenset((0, 2))}


def test_a_name_whose_other_side_is_misspelt_is_noted() -> None:
    _, notes = derive(Evidence("hand", ("left_wrist", "rigth_wrist", "left_tip", "right_tip")))
    assert "1 pair of left and right by the names ('left_wrist' the first of 1 without its other side)" in notes[0]


def test_numbered_joints_may_be_those_of_a_public_set() -> None:
    for joints in (numbered(17), tuple(str(number) for number in range(1, 18))):
        _, notes = derive(Evidence("tool", joints))
        assert "or one of ap10k, coco, humanart, ochuman, posetrack18 if these are its joints" in notes[0]
    assert "one of" not in derive(Evidence("tool", numbered(4)))[1][0]


@pytest.mark.parametrize("names", ["{}", "joint_{}", "kp{}", "Keypoint {}"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_skeleton_for_joints_that_are_only_numbered(first: int, names: str, tmp_path: Path) -> None:
    """As CVAT's skeletons have them; names and other numbers are not those of the skeleton."""
    joints = [names.format(number + first) for number in range(17)]
    file = write(tmp_path, coco_like({"id": 1, "name": "x", "keypoints": joints}, 17))
    found = datasets.read("custom", file, skeleton="coco")
    assert found.skeleton == COCO
    assert "a.json: joints that are only numbered are taken for those of skeleton coco, in its order" in str(
        found.truth
    )
    wrong = write(tmp_path, coco_like({"id": 1, "name": "x", "keypoints": joints[::-1]}, 17))
    with pytest.raises(DataError, match="are not the joints of skeleton coco"):
        datasets.read("custom", wrong, skeleton="coco")


def test_one_name_in_two_spellings_is_an_error() -> None:
    with pytest.raises(DataError, match="joints 'left eye' and 'Left_Eye' have one name in two spellings"):
        derive(Evidence("face", ("left eye", "Left_Eye", "right eye", "Right_Eye")))


def test_names_that_are_numbered_are_those_of_coco() -> None:
    joints = tuple(f"{number}_{name}" for number, name in enumerate(COCO.joints))
    skeleton, _ = derive(Evidence("cvat", joints))
    assert skeleton == dataclasses.replace(COCO, joints=joints)


def test_parts_of_a_person_are_as_in_coco() -> None:
    joints = ("Nose", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "hat")
    skeleton, notes = derive(
        Evidence("half", joints, keypoints=people(6, [[0, 9], [9, 20], [-9, 20], [12, 40], [-12, 40], [0, 0]]))
    )
    assert skeleton.limbs == ((1, 3), (2, 4))
    assert frozenset((0, 5)) in {frozenset(b) for b in skeleton.bones}
    assert skeleton.sigmas == (0.026, 0.079, 0.079, 0.072, 0.072, 0.067)
    assert "5 of COCO's joints, 1 by COCO's mean" in notes[0]
    assert read_skeleton_of(skeleton_yaml(skeleton)) == skeleton


def read_skeleton_of(text: str) -> Any:
    import yaml

    return datasets.skeleton_from_dict(yaml.safe_load(text))


def test_sigmas_of_people_labelled_twice() -> None:
    """Two labels of a joint, each off by a known Gaussian, and one in ten by a blunder: the sigma within 5 %."""
    draw, sigma, area = np.random.default_rng(0), 0.05, 900.0
    spread = sigma * area**0.5 / 2**0.5  # of x and of y: COCO's d is of both
    twice = []
    for number in range(2000):
        pair = np.concatenate([draw.normal(0, spread, (2, 1, 2)), np.full((2, 1, 1), 2.0)], axis=2)
        pair[0, 0, 0] += 300 * (number % 20 == 0)
        twice.append((pair[0], pair[1], area))
    skeleton, notes = derive(Evidence("one", ("tip",), keypoints=np.zeros((0, 1, 3)), twice=twice))
    assert skeleton.sigmas[0] == pytest.approx(sigma, rel=0.07)
    assert "1 from people labelled twice" in notes[0]


def test_sigmas_asked_for() -> None:
    one = Evidence("x", numbered(2), sigmas=(0.04,))
    assert derive(one)[0].sigmas == (0.04, 0.04)
    with pytest.raises(ConfigError, match="--sigmas: 3 numbers, 2 joints; give one, or one each"):
        derive(Evidence("x", numbered(2), sigmas=(0.1, 0.1, 0.1)))


def coco_like(category: dict[str, Any], joints: int, **more: Any) -> dict[str, Any]:
    points = [v for j in range(joints) for v in (10.0 + (3 * j) % 75, 20 + (7 * j) % 50, 2)]
    person = {"id": 1, "image_id": 1, "category_id": category["id"], "bbox": [8, 15, 80, 60], "keypoints": points}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 90}],
        "annotations": [person | {"iscrowd": 0, "area": 900} | more],
        "categories": [category],
    }


def write(folder: Path, document: Any) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", ["halpe26", "ap10k", "posetrack18", "lsp", "mpii", "coco", "wholebody133", "aic14"])
def test_public_sets_are_known_by_their_names(name: str, tmp_path: Path) -> None:
    known = datasets.load_skeleton(name)
    joints = [joint.replace("_", " ").title() if name == "aic14" else joint for joint in known.joints]
    file = write(tmp_path, coco_like({"id": 3, "name": "x", "keypoints": joints}, len(joints)))
    found = datasets.read("custom", file)
    assert (found.skeleton.name, found.skeleton.flips, found.skeleton.sigmas) == (name, known.flips, known.sigmas)
    assert found.truth["notes"] == [f"a.json: skeleton {name}, as the names of its {len(joints)} joints say"]
    assert len(datasets.read("custom", file, skeleton=name).instances) == 1


ABC, NUMBERED = ("a", "b", "c"), ("joint_0", "joint_1", "joint_2")
TWO = ((0, 1), (1, 2))
CATEGORIES: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[tuple[int, int], ...], str]] = {
    "bones from 1": ({"keypoints": [*ABC], "skeleton": [[1, 2], [3, 2]]}, ABC, TWO, "2 bones of the file"),
    "bones from 0": ({"keypoints": [*ABC], "skeleton": [[0, 1], [1, 2]]}, ABC, TWO, "2 bones of the file"),
    "bones of floats": ({"keypoints": [*ABC], "skeleton": [[1.0, 2.0], [3, 2]]}, ABC, TWO, "2 bones of the file"),
    "names of objects": ({"keypoints": [{"id": 7, "name": name} for name in ABC]}, ABC, (), "3 joints"),
    "bones of more joints": ({"keypoints": [*ABC], "skeleton": [[1, 16]]}, ABC, (), "numbers up to 16 for 3 joints"),
    "bones of nothing": ({"keypoints": [*ABC], "skeleton": [[None, 1]]}, ABC, (), "no pairs of numbers; left out"),
    "numbers as names": ({"keypoints": [1, 2, 3]}, ("1", "2", "3"), (), ""),
    "no names": ({"keypoints": []}, NUMBERED, (), "no names; numbered instead"),
    "a name twice": ({"keypoints": ["a", "a", "c"]}, NUMBERED, (), "given twice; numbered instead"),
    "names of more joints": ({"keypoints": [*ABC, "d"]}, ABC, (), "4 joints are named, people have 3"),
    "not said": ({}, NUMBERED, (), "no names; numbered instead"),
}


@pytest.mark.parametrize(("said", "joints", "bones", "note"), CATEGORIES.values(), ids=CATEGORIES)
def test_what_a_category_says(
    said: dict[str, Any], joints: tuple[str, ...], bones: tuple[tuple[int, int], ...], note: str, tmp_path: Path
) -> None:
    found = datasets.read("custom", write(tmp_path, coco_like({"id": 0, "name": "cat"} | said, 3)))
    assert found.skeleton.joints == joints
    assert not bones or found.skeleton.bones == bones
    assert any(note in text for text in found.truth["notes"])


def test_the_category_with_poses_counts(tmp_path: Path) -> None:
    """As Label Studio's converter writes them: boxes of people, and joints of a category of their own."""
    document = coco_like({"id": 1, "name": "default", "keypoints": ["a", "b", "c"]}, 3)
    document["categories"].insert(0, {"id": 0, "name": "Person"})
    document["annotations"].append(
        {"id": 2, "image_id": 1, "category_id": 0, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
    )
    found = datasets.read("custom", write(tmp_path, document))
    assert (len(found.instances), found.skeleton.joints) == (1, ("a", "b", "c"))
    assert any("left out 1 category with 1 annotation" in text for text in found.truth["notes"])


def test_all_labelled_is_visible_where_nothing_is_said_to_be_hidden(tmp_path: Path) -> None:
    document = coco_like({"id": 1, "name": "hand", "keypoints": ["a", "b"]}, 2)
    assert datasets.read("custom", write(tmp_path, document)).skeleton.visible_at == 2
    document["annotations"][0]["keypoints"] = [10, 20, 1, 30, 40, 1]
    assert datasets.read("custom", write(tmp_path, document)).skeleton.visible_at == 1


def test_halpe_holds_136_joints(tmp_path: Path) -> None:
    """Its files name none, and the skeleton is of the first 26."""
    document = coco_like({"id": 1, "name": "person", "keypoints": [], "skeleton": []}, 136)
    found = datasets.read("custom", write(tmp_path, document), skeleton="halpe26")
    assert found.instances[0].keypoints.shape == (26, 3)
    assert found.instances[0].keypoints[25].tolist() == [10, 45, 2]


def test_human_art_names_21_joints_of_17(tmp_path: Path) -> None:
    names = [*COCO.joints, "left_finger", "right_finger", "left_toe", "right_toe"]
    document = coco_like({"id": 1, "name": "person", "keypoints": names}, 17)
    for options in ({}, {"skeleton": "humanart"}):
        found = datasets.read("custom", write(tmp_path, document), **options)
        assert found.skeleton.joints == COCO.joints


def test_every_shipped_yaml_reads() -> None:
    folder = Path(datasets.__file__).parent
    assert {"lsp", "halpe26", "ap10k", "ochuman", "humanart", "posetrack18"} <= {f.stem for f in folder.glob("*.yaml")}
    for file in folder.glob("*.yaml"):
        skeleton = read_skeleton(file)
        assert skeleton.name == file.stem
        assert mirror_pairs(skeleton.joints) == () or set(mirror_pairs(skeleton.joints)) <= {
            p for a, b in skeleton.flips for p in ((a, b), (b, a))
        }
