"""PCKh reproduces the published example, PCK a naive loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets import load_skeleton, skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import DataError
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.score import check_truth, main_metric, score
from icon_dist.types import Annotations, Predictions
from tests.support.random_poses import truth_of

BOX = {"bbox": [0.0, 0.0, 9.0, 9.0], "area": 81.0, "iscrowd": 0}


def poses(ids: np.ndarray, image_ids: np.ndarray, xy: np.ndarray) -> Predictions:
    n = len(ids)
    ones = np.ones((*xy.shape[:2], 1))
    return Predictions(
        instance=ids.astype(np.int64),
        image_id=image_ids.astype(np.int64),
        keypoints=np.concatenate([xy, ones], axis=2).astype(np.float32),
        box_score=np.ones(n, dtype=np.float32),
        area=np.ones(n, dtype=np.float32),
    )


def truth_as_poses(found: Annotations) -> Predictions:
    people = found.truth["annotations"]
    xy = np.array([a["keypoints"] for a in people]).reshape(len(people), -1, 3)[..., :2]
    return poses(np.array([a["id"] for a in people]), np.array([a["image_id"] for a in people]), xy)


@pytest.fixture(scope="module")
def mpii_valid(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    """HRNet's valid.json again, from the files that hold its 2958 people."""
    h5py = pytest.importorskip("h5py")
    loadmat = pytest.importorskip("scipy.io").loadmat
    mat = loadmat(shared / "mpii/gt_valid.mat")
    joints, visible = mat["pos_gt_src"].transpose(2, 0, 1), 1 - mat["jnt_missing"].T
    with h5py.File(shared / "mpii/valid.h5") as file:
        names, center, scale = (file[k][:] for k in ("imgname", "center", "scale"))
    people = [
        {
            "image": names[i].decode(),
            "center": [center[i, 0], center[i, 1] - 15 * scale[i] / 1.25],
            "scale": scale[i] / 1.25,
            "joints": joints[i].tolist(),
            "joints_vis": visible[i].tolist(),
        }
        for i in range(len(names))
    ]
    path = tmp_path_factory.mktemp("mpii") / "valid.json"
    path.write_text(json.dumps(people))
    return datasets.read("mpii", path, headboxes=shared / "mpii/gt_valid.mat")


def example(shared: Path, found: Annotations) -> Predictions:
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared / "mpii/valid-example.h5") as file:
        stored = file["preds"][:]
    people = found.truth["annotations"]
    return poses(np.array([a["id"] for a in people]), np.array([a["image_id"] for a in people]), stored - 1)


def test_pckh_of_the_published_example(shared: Path, mpii_valid: Annotations) -> None:
    """As published, joint by joint."""
    scores = score(truth_of(mpii_valid), example(shared, mpii_valid), mpii_valid.skeleton)
    assert {name: round(value, 2) for name, value in scores.items()} == {
        "head": 93.69,
        "shoulder": 92.24,
        "elbow": 84.49,
        "wrist": 77.92,
        "hip": 83.00,
        "knee": 78.02,
        "ankle": 72.86,
        "PCKh": 83.93,
        "PCKh@0.1": 18.35,
    }
    assert main_metric(mpii_valid.skeleton) == "PCKh"


def test_pckh_does_not_depend_on_the_order_of_predictions(shared: Path, mpii_valid: Annotations) -> None:
    predicted = example(shared, mpii_valid)
    shuffled = predicted.take(np.random.default_rng(0).permutation(len(predicted.instance)))
    skeleton = mpii_valid.skeleton
    assert score(truth_of(mpii_valid), shuffled, skeleton) == score(truth_of(mpii_valid), predicted, skeleton)


def test_pckh_of_the_truth(shared: Path) -> None:
    mpii = shared / "mpii"
    found = datasets.read("mpii", mpii / "annotations.json", headboxes=mpii / "gt_valid.mat", images=mpii / "images")
    assert set(score(truth_of(found), truth_as_poses(found), found.skeleton).values()) == {100.0}


def test_pckh_without_head_sizes(shared: Path) -> None:
    found = datasets.read("mpii", shared / "mpii/annotations.json")
    with pytest.raises(DataError, match=r"person 0: no head size .*--headboxes gt_valid.mat"):
        score(truth_of(found), truth_as_poses(found), found.skeleton)
    with pytest.raises(DataError, match=r"person 0: no head size .*--headboxes gt_valid.mat"):
        check_truth(truth_of(found), found.skeleton)


def test_pckh_leaves_pelvis_and_thorax_out(mpii_valid: Annotations) -> None:
    predicted = truth_as_poses(mpii_valid)
    predicted.keypoints[:, 6:8, :2] += 1e4
    assert score(truth_of(mpii_valid), predicted, mpii_valid.skeleton)["PCKh"] == 100
    predicted.keypoints[:, 0, :2] += 1e4
    assert score(truth_of(mpii_valid), predicted, mpii_valid.skeleton)["PCKh"] < 100


def naive_pck(found: Annotations, predicted: Predictions) -> dict[str, float]:
    skeleton = found.skeleton
    hits, counts = dict.fromkeys(skeleton.joints, 0), dict.fromkeys(skeleton.joints, 0)
    where = {int(i): row for row, i in enumerate(predicted.instance)}
    for person in found.truth["annotations"]:
        joints = np.array(person["keypoints"], dtype=np.float64).reshape(-1, 3)
        a, b = joints[skeleton.torso[0]], joints[skeleton.torso[1]]
        if a[2] == 0 or b[2] == 0 or np.hypot(*(a - b)[:2]) == 0:
            continue
        for k, name in enumerate(skeleton.joints):
            if joints[k, 2] == 0:
                continue
            counts[name] += 1
            if person["id"] in where:
                guess = predicted.keypoints[where[person["id"]], k, :2]
                hits[name] += bool(np.hypot(*(guess - joints[k, :2])) <= 0.2 * np.hypot(*(a - b)[:2]))
    scores = {name: 100 * hits[name] / counts[name] for name in skeleton.joints}
    return {**scores, "PCK@0.2": 100 * sum(hits.values()) / sum(counts.values())}


@pytest.mark.parametrize("file", ["lsp_train.json", "lspet_partial.json"])
def test_pck_is_the_naive_loop(shared: Path, file: str) -> None:
    found = datasets.read("custom", shared / "lsp" / file, skeleton="lsp")
    found.truth["annotations"] = found.truth["annotations"][:400]
    predicted = truth_as_poses(found)
    rng = np.random.default_rng(0)
    predicted.keypoints[..., :2] += rng.normal(scale=6, size=predicted.keypoints[..., :2].shape).astype(np.float32)
    predicted = predicted.take(rng.random(400) < 0.9)  # people without a prediction count as missed
    scores = score(truth_of(found), predicted, found.skeleton)
    assert scores == pytest.approx(naive_pck(found, predicted))
    assert 20 < scores["PCK@0.2"] < 90
    assert main_metric(found.skeleton) == "PCK@0.2"


def test_pck_of_the_truth(shared: Path) -> None:
    found = datasets.read("custom", shared / "lsp/lspet_full14.json", skeleton="lsp")
    assert set(score(truth_of(found), truth_as_poses(found), found.skeleton).values()) == {100.0}


def test_pck_of_strangers_and_twins(shared: Path) -> None:
    found = datasets.read("custom", shared / "lsp/lsp_train.json", skeleton="lsp")
    predicted = truth_as_poses(found)
    predicted.instance[0] = 10**6
    with pytest.raises(DataError, match="person 1000000: not in the ground truth; pck needs --boxes gt"):
        score(truth_of(found), predicted, found.skeleton)
    predicted.instance[0] = predicted.instance[1]
    with pytest.raises(DataError, match="1 pose too many"):
        score(truth_of(found), predicted, found.skeleton)


def test_pck_of_nobody_countable() -> None:
    skeleton = datasets.load_skeleton("lsp")
    points = [0.0, 0.0, 0] * 14
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
        "annotations": [{**BOX, "id": 1, "image_id": 1, "num_keypoints": 0, "keypoints": points}],
    }
    scores = score(ground_truth(truth, joints=14), poses(np.array([1]), np.array([1]), np.zeros((1, 14, 2))), skeleton)
    assert set(scores.values()) == {-1.0}


def test_a_torso_that_nobody_has_is_found_before_scoring() -> None:
    lsp = load_skeleton("lsp")
    points = np.full((lsp.num_joints, 3), 2.0)
    points[:, 0] = np.arange(lsp.num_joints)
    person = {**BOX, "id": 1, "image_id": 1, "num_keypoints": 14, "keypoints": points.reshape(-1).tolist()}
    truth = {"images": [{"id": 1}], "annotations": [person]}
    check_truth(ground_truth(truth, joints=14), lsp)
    for column, value in ((2, 0.0), (0, points[lsp.torso[0], 0])):  # not labelled; both ends in one place
        spoilt = points.copy()
        spoilt[lsp.torso[1], column] = value
        bad = {**truth, "annotations": [{**person, "keypoints": spoilt.reshape(-1).tolist()}]}
        with pytest.raises(DataError, match="both left_shoulder and right_hip labelled and apart, the torso"):
            check_truth(ground_truth(bad, joints=14), lsp)
    with pytest.raises(DataError, match="skeleton lsp: names no torso"):
        check_truth(ground_truth(truth, joints=14), replace(lsp, torso=(0, 0)))
    with pytest.raises(DataError, match=r"boxes=x\.json: pck measures the annotated people"):
        check_truth(ground_truth(truth, joints=14), lsp, boxes="x.json")
    columns = ground_truth({"images": [{"id": 1}, {"id": 2}], "annotations": [person]}, joints=14)
    with pytest.raises(DataError, match="none of 0 people in 1 photo has a labelled joint"):
        check_truth(columns, lsp, image_ids={2})


def test_skeletons_without_a_torso_travel() -> None:
    lsp = load_skeleton("lsp")
    without = replace(lsp, torso=(0, 0), metric="coco")
    fields = skeleton_to_dict(without)
    assert fields["torso"] == []
    assert skeleton_from_dict(fields) == without
    with pytest.raises(DataError, match="torso"):
        skeleton_from_dict(fields | {"metric": "pck"})
