"""The suite that every dataset must pass: a skeleton that makes sense, people that agree with the file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.codec.affine import center_scale
from icon_dist.errors import ConfigError, DataError
from icon_dist.types import Annotations, Skeleton

Reading = Callable[[Path], Annotations]

FILES: dict[str, tuple[Reading, int, int]] = {  # reader, people to train on, annotations
    "coco mini": (
        lambda d: datasets.read("coco", d / "coco/mini/person_keypoints.json", images=d / "coco/mini/images"),
        86,
        172,
    ),
    "coco val": (lambda d: datasets.read("coco", d / "coco/person_keypoints_val2017_rebuilt.json.gz"), 6352, 6352),
    "crowdpose": (
        lambda d: datasets.read("crowdpose", d / "crowdpose/annotations.json", images=d / "crowdpose/images"),
        4,
        5,
    ),
    "crowdpose val": (lambda d: datasets.read("crowdpose", d / "crowdpose/crowdpose_val.json.gz"), 7962, 8527),
    "mpii": (
        lambda d: datasets.read(
            "mpii", d / "mpii/annotations.json", images=d / "mpii/images", headboxes=d / "mpii/gt_valid.mat"
        ),
        5,
        5,
    ),
    "lspet": (
        lambda d: datasets.read("custom", d / "lsp/lspet_full14.json", images=d / "lsp/images", skeleton="lsp"),
        3945,
        3945,
    ),
    "lsp train": (
        lambda d: datasets.read("custom", d / "lsp/lsp_train.json", images=d / "lsp/images", skeleton="lsp"),
        1000,
        1000,
    ),
}


@pytest.fixture(scope="module", params=list(FILES))
def case(request: pytest.FixtureRequest, shared: Path) -> tuple[Annotations, int, int]:
    reader, people, annotations = FILES[request.param]
    return reader(shared), people, annotations


def test_counts(case: tuple[Annotations, int, int]) -> None:
    found, people, annotations = case
    assert (len(found.instances), len(found.truth["annotations"])) == (people, annotations)


def test_people_are_sorted_unique_and_usable(case: tuple[Annotations, int, int]) -> None:
    found, _, _ = case
    ids = [p.id for p in found.instances]
    assert ids == sorted(set(ids))
    for person in found.instances:
        assert person.keypoints.shape == (found.skeleton.num_joints, 3)
        assert person.keypoints.dtype == np.float32
        assert (person.keypoints[:, 2] > 0).any()
        assert min(person.box[2:]) > 0
        assert person.area > 0
        assert not Path(person.file).is_absolute()
        assert person.score == 1


def test_people_agree_with_the_truth(case: tuple[Annotations, int, int]) -> None:
    found, _, _ = case
    truth = {a["id"]: a for a in found.truth["annotations"]}
    photos = {i["id"]: i for i in found.truth["images"]}
    for person in found.instances:
        annotation = truth[person.id]
        photo = photos[person.image_id]
        assert annotation["image_id"] == person.image_id
        assert photo["file_name"] == person.file
        assert (photo["width"], photo["height"]) == person.wh
        assert annotation["category_id"] == 1
        assert annotation["iscrowd"] == 0


def test_truth_survives_json(case: tuple[Annotations, int, int]) -> None:
    found, _, _ = case
    assert json.loads(json.dumps(found.truth, allow_nan=False)) == found.truth


@pytest.mark.parametrize("name", ["coco", "mpii", "crowdpose", "lsp"])
def test_skeleton_makes_sense(name: str) -> None:
    skeleton = datasets.load_skeleton(name)
    mirror = dict(skeleton.flips) | {b: a for a, b in skeleton.flips}
    joints = range(skeleton.num_joints)

    def other_side(joint: str) -> str:
        if "left" in joint or "right" in joint:
            return joint.replace("left", "?").replace("right", "left").replace("?", "right")
        swapped = {"l": "r", "r": "l"}.get(joint[0], "") + joint[1:]
        return swapped if swapped in skeleton.joints else joint

    assert len(skeleton.sigmas) == len(set(skeleton.joints)) == skeleton.num_joints
    assert [skeleton.joints[mirror.get(j, j)] for j in joints] == [other_side(j) for j in skeleton.joints]
    assert len(skeleton.limbs) == 8
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    assert {frozenset(mirror[j] for j in limb) for limb in limbs} == limbs
    assert limbs <= {frozenset(bone) for bone in skeleton.bones}
    assert {j for bone in skeleton.bones for j in bone} == set(joints)
    assert [skeleton.sigmas[mirror.get(j, j)] for j in joints] == list(skeleton.sigmas)
    if skeleton.upper:
        assert sorted(skeleton.upper + skeleton.lower) == list(joints)
    assert "sho" in skeleton.joints[skeleton.torso[0]]
    assert "hip" in skeleton.joints[skeleton.torso[1]]


@pytest.mark.parametrize("name", ["coco", "mpii", "crowdpose", "lsp"])
def test_skeleton_survives_json(name: str) -> None:
    skeleton = datasets.load_skeleton(name)
    assert datasets.skeleton_from_dict(json.loads(json.dumps(datasets.skeleton_to_dict(skeleton)))) == skeleton


def test_golden_sigmas_and_limbs() -> None:
    """Joints, sigmas and limb pairs, as published."""
    coco, crowd, mpii = (datasets.load_skeleton(n) for n in ("coco", "crowdpose", "mpii"))
    assert coco.joints[:6] == ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder")
    assert coco.joints[-2:] == ("left_ankle", "right_ankle")
    assert [round(1000 * s) for s in coco.sigmas] == [
        26,
        25,
        25,
        35,
        35,
        79,
        79,
        72,
        72,
        62,
        62,
        107,
        107,
        87,
        87,
        89,
        89,
    ]
    assert [round(1000 * s) for s in crowd.sigmas] == [79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89, 79, 79]
    assert crowd.joints[-2:] == ("head", "neck")
    assert mpii.limbs == ((13, 14), (14, 15), (12, 11), (11, 10), (3, 4), (4, 5), (2, 1), (1, 0))
    assert (coco.visible_at, crowd.visible_at, mpii.visible_at) == (2, 1, 1)


def test_names_of_joints_are_those_of_the_files(shared: Path) -> None:
    for name, file in {"coco": "coco/four/person_keypoints.json", "crowdpose": "crowdpose/annotations.json"}.items():
        stated = json.loads((shared / file).read_text())["categories"][0]["keypoints"]
        assert list(datasets.load_skeleton(name).joints) == stated


def test_coco_boxes_are_cut_as_in_the_public_loader(shared: Path) -> None:
    """Against HRNet's loop, written out."""
    path = shared / "coco/mini/person_keypoints.json"
    document = json.loads(path.read_text())
    photos = {i["id"]: i for i in document["images"]}
    expected = {}
    for a in document["annotations"]:
        width, height = photos[a["image_id"]]["width"], photos[a["image_id"]]["height"]
        x, y, w, h = a["bbox"]
        x1, y1 = max(0, x), max(0, y)
        x2, y2 = min(width - 1, x1 + max(0, w - 1)), min(height - 1, y1 + max(0, h - 1))
        if a["iscrowd"] or max(a["keypoints"]) == 0 or not (a["area"] > 0 and x2 >= x1 and y2 >= y1):
            continue
        expected[a["id"]] = (x1, y1, x2 - x1, y2 - y1)
    assert {p.id: p.box for p in datasets.read("coco", path).instances} == expected


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((-50, -8.5, 100, 20), (0, 0, 49, 10.5)),
        ((-5, 10, 700, 30), (0, 10, 639, 29)),
        ((600, 400, 80, 90), (600, 400, 39, 79)),
        ((10, 20, 30, 40), (10, 20, 29, 39)),
    ],
)
def test_a_box_that_begins_outside_its_photo_keeps_what_is_inside(
    box: tuple[float, ...], inside: tuple[float, ...], tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(one_person(list(box))))
    assert datasets.read("coco", tmp_path / "a.json").instances[0].box == pytest.approx(inside)


def test_a_box_left_of_its_photo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(one_person([-50, 20, 30, 40])))
    with pytest.raises(DataError, match=r"at most one pixel of it lies in the 640x480 image"):
        datasets.read("coco", tmp_path / "a.json")


def one_person(box: list[float]) -> dict[str, object]:
    """A COCO file of one person in a photo of 640 x 480."""
    person = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 1000.0, "num_keypoints": 17}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
        "annotations": [{**person, "keypoints": [15, 25, 2] * 17}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(datasets.load_skeleton("coco").joints)}],
    }


def test_crowdpose_area_and_count(shared: Path) -> None:
    path = shared / "crowdpose/crowdpose_val.json.gz"
    stated = {a["id"]: a for a in json.loads(gzip.decompress(path.read_bytes()))["annotations"]}
    found = datasets.read("crowdpose", path)
    for a in found.truth["annotations"]:
        assert a["area"] == pytest.approx(a["bbox"][2] * a["bbox"][3] * 0.53)
        assert a["num_keypoints"] == stated[a["id"]]["num_keypoints"]
    assert {type(i["crowdIndex"]) for i in found.truth["images"]} == {float}


def test_mpii_boxes_give_the_official_center_and_scale(shared: Path) -> None:
    path = shared / "mpii/annotations.json"
    for person, entry in zip(datasets.read("mpii", path).instances, json.loads(path.read_text()), strict=True):
        center, scale = center_scale(person.box, aspect=1.0)
        x, y = entry["center"]
        np.testing.assert_allclose(center, [x - 1, y + 15 * entry["scale"] - 1], rtol=0, atol=1e-9)
        np.testing.assert_allclose(scale, entry["scale"] * 1.25, rtol=1e-12)
        np.testing.assert_allclose(person.keypoints[:, :2], np.array(entry["joints"]) - 1, rtol=1e-6)
        assert person.keypoints[:, 2].tolist() == entry["joints_vis"]


def test_mpii_unknown_center_is_not_moved_nor_padded(tmp_path: Path) -> None:
    path = tmp_path / "valid.json"
    joints = [[10.0, 20.0]] * 16
    path.write_text(
        json.dumps([{"image": "a.jpg", "center": [-1, 5.0], "scale": 2.0, "joints": joints, "joints_vis": [1] * 16}])
    )
    center, scale = center_scale(datasets.read("mpii", path).instances[0].box, aspect=1.0)
    np.testing.assert_allclose(center, [-2, 4])
    np.testing.assert_allclose(scale, 2.0)


def test_mpii_sizes_are_those_of_the_photos(shared: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = shared / "mpii/images"
    for person in datasets.read("mpii", shared / "mpii/annotations.json", images=folder).instances:
        height, width, _ = cv2.imread(str(folder / person.file)).shape
        assert person.wh == (width, height)


def test_unknown_dataset_and_useless_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset 'cocoo': unknown; there are .*coco.*custom.*mpii"):
        datasets.read("cocoo", tmp_path / "a.json")
    with pytest.raises(ConfigError, match="dataset coco has no use for headboxes"):
        datasets.read("coco", tmp_path / "a.json", headboxes="gt_valid.mat")


def test_every_dataset_takes_the_common_options() -> None:
    assert {"coco", "crowdpose", "custom", "mpii"} <= set(datasets.MODULES)


def test_yaml_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    lsp: Skeleton = datasets.load_skeleton("lsp")
    fields: dict[str, Any] = datasets.skeleton_to_dict(lsp) | {"name": "mine"}
    mine.write_text(json.dumps(fields))  # json is YAML
    assert datasets.load_skeleton(mine).joints == lsp.joints
    assert datasets.load_skeleton(str(mine)).name == "mine"
