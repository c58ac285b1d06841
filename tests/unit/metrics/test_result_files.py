"""Files for the test servers, read back by those who read them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.io import loadmat

from icon_dist import datasets
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError, DataError
from icon_dist.metrics.coco import NAMES
from icon_dist.metrics.result_files import check_results, results
from icon_dist.metrics.score import score
from icon_dist.types import Annotations, Predictions
from tests.support.random_poses import truth_of


def poses(found: Annotations, *, copies: int) -> Predictions:
    """Everybody a few times over: suppression has something to do."""
    rng = np.random.default_rng(0)
    people = found.instances * copies
    keypoints = np.stack([p.keypoints for p in people])
    size = np.sqrt([p.area for p in people])[:, None, None]
    moved = np.tile(0.05 * rng.normal(size=(len(found.instances), keypoints.shape[1], 2)), (copies, 1, 1))
    moved += 0.005 * rng.normal(size=moved.shape)
    keypoints[..., :2] += (size * moved).astype(np.float32)
    keypoints[..., 2] = rng.uniform(size=keypoints.shape[:2])
    return Predictions(
        instance=np.arange(len(people)),
        image_id=np.array([p.image_id for p in people]),
        keypoints=keypoints,
        box_score=rng.uniform(0.2, 1, len(people)).astype(np.float32),
        area=np.array([p.area for p in people], dtype=np.float32),
    )


def test_pycocotools_scores_the_file_as_we_do(shared: Path, tmp_path: Path) -> None:
    annotations, file = shared / "coco/mini/person_keypoints.json", tmp_path / "results.json"
    found = datasets.read("coco", annotations)
    predicted = poses(found, copies=3)
    file.write_bytes(results(predicted, found.skeleton, people=()))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(file)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(zip(NAMES, map(float, evaluation.stats), strict=True))
    assert 0.2 < expected["AP"] < 0.95
    for engine in ("pycocotools", "fast"):
        assert score(truth_of(found), predicted, found.skeleton, engine=engine) == expected
    entries = json.loads(file.read_text())
    assert len(entries) < len(predicted.instance), "near-duplicates are gone"
    assert {tuple(e) for e in entries} == {("image_id", "category_id", "keypoints", "score")}
    assert {(e["category_id"], len(e["keypoints"])) for e in entries} == {(1, 51)}


def test_a_file_of_nobody(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/four/person_keypoints.json")
    nobody = poses(found, copies=1).take(np.zeros(len(found.instances), dtype=bool))
    with pytest.raises(DataError, match="no pose was predicted, and no server scores an empty file"):
        results(nobody, found.skeleton, people=())


def test_poses_have_the_category_of_the_set(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/four/person_keypoints.json")
    written = json.loads(results(poses(found, copies=1), found.skeleton, people=(), category=7))
    assert {pose["category_id"] for pose in written} == {7}


def test_pred_mat_in_the_order_of_the_annotations(shared: Path, tmp_path: Path) -> None:
    found = datasets.read("mpii", shared / "mpii/annotations.json")
    ids = [person["id"] for person in found.truth["annotations"]]
    predicted = poses(found, copies=1)
    shuffled = predicted.take(np.random.default_rng(1).permutation(len(ids)))
    (tmp_path / "pred.mat").write_bytes(results(shuffled, found.skeleton, people=ids))
    preds = loadmat(tmp_path / "pred.mat")["preds"]
    assert preds.shape == (len(ids), 16, 2)
    np.testing.assert_array_equal(preds, predicted.keypoints[..., :2] + 1)
    with pytest.raises(DataError, match=r"no pose for 1 person \(id=2"):
        results(predicted.take(predicted.instance != 2), found.skeleton, people=ids)
    with pytest.raises(DataError, match="person 1 of the annotation list is missing"):
        results(predicted, found.skeleton, people=[i for i in ids if i != 1])


def test_refusals() -> None:
    coco, mpii, lsp = (load_skeleton(name) for name in ("coco", "mpii", "lsp"))
    check_results("s3://b/r.json", coco, boxes="gt")
    check_results("pred.mat", mpii, boxes="gt")
    with pytest.raises(ConfigError, match=r"poses of coco are a \.json file"):
        check_results("r.mat", coco, boxes="gt")
    with pytest.raises(ConfigError, match=r"poses of mpii are a \.mat file"):
        check_results("r.json", mpii, boxes="gt")
    with pytest.raises(ConfigError, match=r"leave --boxes d\.json out"):
        check_results("pred.mat", mpii, boxes="d.json")
    with pytest.raises(ConfigError, match="no test server takes poses of lsp"):
        check_results("r.json", lsp, boxes="gt")
