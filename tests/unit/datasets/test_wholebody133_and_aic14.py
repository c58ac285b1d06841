"""COCO-WholeBody and AI Challenger, each in a tiny file of its real form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icon_dist import datasets
from icon_dist.errors import DataError

# Fields of coco_wholebody_val_v1.0.json; of a hand that is not valid all is 0, v of a face is 1.0.
PERSON: dict[str, Any] = {
    "segmentation": [],
    "num_keypoints": 17,
    "area": 4000.0,
    "iscrowd": 0,
    "keypoints": [v for j in range(17) for v in (10 + j, 20 + j, 2)],
    "image_id": 785,
    "bbox": [5, 6, 90, 80],
    "category_id": 1,
    "id": 442619,
    "face_box": [1, 2, 3, 4],
    "lefthand_box": [0.0, 0.0, 0.0, 0.0],
    "righthand_box": [1, 2, 3, 4],
    "lefthand_kpts": [0.0] * 63,
    "righthand_kpts": [v for j in range(21) for v in (30.5 + j, 40, 0.37)],
    "face_kpts": [v for j in range(68) for v in (20 + j / 2, 50, 1.0)],
    "face_valid": True,
    "lefthand_valid": False,
    "righthand_valid": True,
    "foot_valid": True,
    "foot_kpts": [v for j in range(6) for v in (60 + j, 70, j % 3)],
}


def whole_body(person: dict[str, Any]) -> dict[str, Any]:
    names = list(datasets.load_skeleton("coco").joints)
    return {
        "images": [{"id": 785, "file_name": "000000000785.jpg", "width": 100, "height": 90}],
        "annotations": [person],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14]]}
        ],
    }


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_whole_body_joints_are_in_the_order_of_its_fields(tmp_path: Path) -> None:
    found = datasets.read("wholebody133", write(tmp_path / "a.json", whole_body(PERSON)))
    joints = found.instances[0].keypoints
    at = dict(zip(found.skeleton.joints, joints.tolist(), strict=True))
    assert len(at) == 133
    assert at["nose"] == [10, 20, 2]
    assert (at["left_big_toe"], at["left_small_toe"], at["right_heel"]) == ([60, 70, 0], [61, 70, 1], [65, 70, 2])
    assert (at["face-0"], at["face-67"]) == ([20, 50, 1], [53.5, 50, 1])
    assert at["left_hand_root"] == [0, 0, 0]
    assert at["right_pinky_finger4"] == [50.5, 40, 1]
    assert found.truth["annotations"][0]["num_keypoints"] == int((joints[:, 2] > 0).sum()) == 17 + 4 + 68 + 21
    assert "notes" not in found.truth


def test_whole_body_with_all_joints_in_one_field(tmp_path: Path) -> None:
    parts = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    joined = {k: v for k, v in PERSON.items() if k not in parts} | {"keypoints": [v for p in parts for v in PERSON[p]]}
    one, other = (
        datasets.read("wholebody133", write(tmp_path / f"{i}.json", whole_body(person))).instances[0].keypoints
        for i, person in enumerate((PERSON, joined))
    )
    np.testing.assert_array_equal(one, other)


def test_whole_body_faults_and_hints(tmp_path: Path) -> None:
    short = PERSON | {"face_kpts": [0.0] * 201}
    with pytest.raises(DataError, match=r"ann id=442619 keypoints: 396 values, expected 399"):
        datasets.read("wholebody133", write(tmp_path / "a.json", whole_body(short)))
    with pytest.raises(DataError, match=r"ann id=442619 keypoints: 'x' is not a number"):
        datasets.read("wholebody133", write(tmp_path / "a.json", whole_body(PERSON | {"foot_kpts": ["x"] * 18})))
    bare = {key: value for key, value in PERSON.items() if not key.endswith("_kpts")}
    (note,) = datasets.read("wholebody133", write(tmp_path / "a.json", whole_body(bare))).truth["notes"]
    assert "nobody has joints of feet, face or hands; icon-dist shards build coco reads the others alone" in note
    body = datasets.read("custom", write(tmp_path / "a.json", whole_body(PERSON)))
    assert body.skeleton.name == "coco"
    assert any("icon-dist shards build wholebody133 reads them" in text for text in body.truth["notes"])


# An entry of keypoint_train_annotations_20170902.json, with other numbers.
ENTRY: dict[str, Any] = {
    "url": "http://www.sinaimg.cn/dy/slidenews/4_img/2013_24/704_997547_218968.jpg",
    "image_id": "d8eeddddcc042544a2570d4c452778b912726720",
    "keypoint_annotations": {
        "human1": [v for j in range(14) for v in ((10 + j, 20 + j, 1 + j % 2) if j < 13 else (0, 0, 3))],
    },
    "human_annotations": {"human1": [5, 6, 85, 76], "human2": [0, 0, 30, 40]},
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    Image.new("RGB", (100, 90)).save(tmp_path / f"{ENTRY['image_id']}.jpg")
    return tmp_path


def test_aic_corners_and_visibility(photos: Path) -> None:
    found = datasets.read("aic14", write(photos / "a.json", [ENTRY]), images=photos)
    person = found.instances[0]
    assert (person.file, person.wh) == (f"{ENTRY['image_id']}.jpg", (100, 90))
    assert person.keypoints[:2].tolist() == [[10, 20, 2], [11, 21, 1]]
    assert person.keypoints[13].tolist() == [0, 0, 0]
    assert found.truth["annotations"][0]["bbox"] == [5, 6, 80, 70]
    assert len(found.truth["annotations"]) == 2
    assert found.skeleton.joints[:3] == ("right_shoulder", "right_elbow", "right_wrist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 7}, r"entry 0 image_id=7: expected the name of a photo"),
        ({"human_annotations": None}, r"entry 0 human_annotations=None: expected an object"),
        ({"human_annotations": {"human2": [0, 0, 1, 1]}}, r"entry 0 keypoint_annotations: 'human1' has no box"),
        (
            {"human_annotations": {"human1": [50, 6, 40, 76]}},
            r"human1 human_annotations=.*: expected \[x1, y1",
        ),
        ({"keypoint_annotations": {"human1": [1, 2, 1]}}, r"human1 keypoint_annotations=.*: expected 42 numbers"),
        (
            {"keypoint_annotations": {"human1": [1, 2, 0] * 14}},
            r"visibility 0, expected 1 \(visible\)",
        ),
    ],
)
def test_aic_faults(photos: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.read("aic14", write(photos / "a.json", [ENTRY | change]), images=photos)


def test_aic_in_another_form(photos: Path) -> None:
    with pytest.raises(DataError, match=r"expected a list of photos on top; a file in COCO's form is custom"):
        datasets.read("aic14", write(photos / "a.json", whole_body(PERSON)), images=photos)
