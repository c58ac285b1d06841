"""COCO and CrowdPose scores: the truth fed back is perfect, anything else is what pycocotools says of the files."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icon_dist import datasets
from icon_dist.codec.affine import center_scale
from icon_dist.errors import DataError
from icon_dist.metrics.coco import NAMES
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.score import ENGINES, main_metric, score
from icon_dist.types import Annotations, Predictions
from tests.support.random_poses import truth_of


def fed_back(found: Annotations, *, noise: float = 0.0, seed: int = 0) -> Predictions:
    """The people themselves as predictions, moved by ``noise`` box sizes, with random scores if there is noise."""
    rng = np.random.default_rng(seed)
    people = found.instances
    keypoints = np.stack([p.keypoints for p in people])
    centers = np.array([[p.box[0] + p.box[2] / 2, p.box[1] + p.box[3] / 2] for p in people], dtype=np.float32)
    keypoints[..., :2] = np.where(
        keypoints[..., 2:] > 0, keypoints[..., :2], centers[:, None]
    )  # a net guesses somewhere
    sizes = np.sqrt([p.area for p in people])[:, None, None]
    keypoints[..., :2] += noise * sizes * rng.normal(size=keypoints[..., :2].shape)
    keypoints[..., 2] = rng.uniform(0.1, 1, keypoints.shape[:2]) if noise else 1
    return Predictions(
        instance=np.array([p.id for p in people]),
        image_id=np.array([p.image_id for p in people]),
        keypoints=keypoints,
        box_score=rng.uniform(0.2, 1, len(people)).astype(np.float32) if noise else np.ones(len(people), np.float32),
        area=np.array([center_scale(p.box, aspect=0.75)[1].prod() * 200**2 for p in people], dtype=np.float32),
    )


def by_files(annotations: Path, results: list[dict[str, object]], folder: Path) -> list[float]:
    """pycocotools as everybody calls it."""
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats]


def as_results(predictions: Predictions) -> list[dict[str, object]]:
    """The public loader's loop over people: rescoring, no suppression."""
    results = []
    for image, joints, box in zip(
        predictions.image_id, predictions.keypoints.tolist(), predictions.box_score.tolist(), strict=True
    ):
        counted = [s for _, _, s in joints if s > 0.2]
        final = np.float32(box * (sum(counted) / len(counted) if counted else 0))
        flat = [v for joint in joints for v in joint]
        results.append({"image_id": int(image), "category_id": 1, "keypoints": flat, "score": float(final)})
    return results


def test_the_truth_is_perfect(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/mini/person_keypoints.json")
    scores = score(truth_of(found), fed_back(found), found.skeleton)
    assert scores == dict.fromkeys(NAMES, 1.0)
    assert main_metric(found.skeleton) == "AP"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("noise", [0.02, 0.08])
def test_equals_pycocotools_on_files(shared: Path, tmp_path: Path, noise: float, engine: str) -> None:
    path = shared / "coco/mini/person_keypoints.json"
    found = datasets.read("coco", path)
    moved = fed_back(found, noise=noise)
    expected = by_files(path, as_results(moved), tmp_path)
    assert 0.1 < expected[0] < 0.95
    scores = score(truth_of(found), moved, found.skeleton, nms=None, engine=engine)
    assert list(scores.values()) == pytest.approx(expected, abs=1e-12)


def test_truth_is_left_alone_and_nothing_is_printed(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = datasets.read("coco", shared / "coco/four/person_keypoints.json")
    truth = truth_of(found)
    before = copy.deepcopy(truth)
    score(truth, fed_back(found), found.skeleton)
    for column, value in vars(before).items():
        np.testing.assert_array_equal(getattr(truth, column), value)
    assert capsys.readouterr().out == ""


def test_duplicates_cost_without_suppression(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/mini/person_keypoints.json")
    once = fed_back(found, noise=0.03)
    twice = Predictions(**{k: np.concatenate([v, v]) for k, v in vars(once).items()})
    alone = score(truth_of(found), once, found.skeleton)["AP"]
    assert score(truth_of(found), twice, found.skeleton)["AP"] == pytest.approx(alone)
    assert score(truth_of(found), twice, found.skeleton, nms=None)["AP"] < alone - 0.05


def test_person_zero_counts(tmp_path: Path, shared: Path) -> None:
    """pycocotools alone takes a match with annotation 0 for a false positive."""
    document = json.loads((shared / "coco/mini/person_keypoints.json").read_text())
    next(a for a in document["annotations"] if a["num_keypoints"] > 10 and not a["iscrowd"])["id"] = 0
    (tmp_path / "zero.json").write_text(json.dumps(document))
    found = datasets.read("coco", tmp_path / "zero.json")
    assert found.instances[0].id == 0
    assert score(truth_of(found), fed_back(found), found.skeleton)["AP"] == 1.0


def test_limited_to_some_images(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/mini/person_keypoints.json")
    moved = fed_back(found, noise=0.05)
    some = sorted({p.image_id for p in found.instances})[:9]
    few = moved.take(np.isin(moved.image_id, some))
    limited = score(truth_of(found), few, found.skeleton, image_ids=some)
    part = {
        "images": [i for i in found.truth["images"] if i["id"] in some],
        "annotations": [a for a in found.truth["annotations"] if a["image_id"] in some],
    }
    assert limited == score(ground_truth(part, joints=17), few, found.skeleton)
    assert limited == score(truth_of(found), moved, found.skeleton, image_ids=some)
    assert score(truth_of(found), few, found.skeleton)["AR"] < limited["AR"]


def test_no_predictions(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/four/person_keypoints.json")
    none = fed_back(found).take(np.zeros(len(found.instances), dtype=bool))
    assert score(truth_of(found), none, found.skeleton)["AP"] == 0


def test_other_set_and_broken_model(shared: Path) -> None:
    found = datasets.read("coco", shared / "coco/four/person_keypoints.json")
    other = datasets.read("coco", shared / "coco/mini/person_keypoints.json")
    with pytest.raises(DataError, match="not in the ground truth"):
        score(truth_of(found), fed_back(other), found.skeleton)
    with pytest.raises(DataError, match="image 12345: not in the ground truth"):
        score(truth_of(found), fed_back(found), found.skeleton, image_ids=[12345])
    broken = fed_back(found)
    broken.keypoints[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not all of them are finite"):
        score(truth_of(found), broken, found.skeleton)


def test_crowdpose_truth_is_perfect_in_every_subset(shared: Path) -> None:
    found = datasets.read("crowdpose", shared / "crowdpose/crowdpose_val.json.gz")
    some = [i["id"] for i in found.truth["images"]][:300]
    scores = score(truth_of(found), fed_back(found), found.skeleton, image_ids=some, nms=None)
    assert {v for k, v in scores.items() if "AR" in k} == {1.0}
    assert min(scores.values()) > 0.99  # some people are annotated twice, and one of two equal poses is matched first
    assert {f"AP {s} {c}" for s in ("easy", "medium", "hard") for c in (".1/.8", ".2/.8")} < set(scores)


def test_crowdpose_subsets_are_cut_as_in_the_public_api(shared: Path) -> None:
    """Only images of one subset are predicted right: its AP is 1, the others' 0."""
    found = datasets.read("crowdpose", shared / "crowdpose/crowdpose_val.json.gz")
    images = found.truth["images"]
    on_the_cut = [i["id"] for i in images if i["crowdIndex"] in (0.1, 0.2, 0.8)]
    some = [i["id"] for i in images][:150] + on_the_cut[:20]
    right = fed_back(found)
    for first, label in ((0.1, ".1/.8"), (0.2, ".2/.8")):
        easy, medium, hard = [], [], []
        for item in images:  # crowdposetools.COCOeval.split
            if item["crowdIndex"] < first:
                easy.append(item["id"])
            elif item["crowdIndex"] < 0.8:
                medium.append(item["id"])
            else:
                hard.append(item["id"])
        for name, members in (("easy", easy), ("medium", medium), ("hard", hard)):
            only = right.take(np.isin(right.image_id, members))
            scores = score(truth_of(found), only, found.skeleton, image_ids=some, nms=None)
            got = {s: round(scores[f"AP {s} {label}"], 1) for s in ("easy", "medium", "hard")}
            assert got == {"easy": 0.0, "medium": 0.0, "hard": 0.0, name: 1.0}


def test_crowdpose_uses_its_own_sigmas_and_area(shared: Path) -> None:
    """One moved joint of one person, by hand: OKS = (n - 1 + exp(-d^2 / (2 area (2 sigma)^2))) / n."""
    found = datasets.read("crowdpose", shared / "crowdpose/annotations.json")
    person = max(found.instances, key=lambda p: (p.keypoints[:, 2] > 0).sum())
    n = int((person.keypoints[:, 2] > 0).sum())
    wrist = int(np.flatnonzero(person.keypoints[:, 2] > 0)[-3])
    area = next(a for a in found.truth["annotations"] if a["id"] == person.id)["area"]
    sigma = found.skeleton.sigmas[wrist]
    everybody = fed_back(found)
    row = everybody.instance.tolist().index(person.id)
    only = everybody.take(np.array([row]))
    distance = 2 * sigma * np.sqrt(2 * area)
    only.keypoints[0, wrist, 0] += distance
    expected_oks = (n - 1 + np.exp(-1)) / n
    truth = truth_of(found)
    truth = truth.people(truth.id == person.id).among([person.image_id])
    thresholds = np.linspace(0.5, 0.95, 10)
    assert score(truth, only, found.skeleton)["AR"] == pytest.approx((thresholds <= expected_oks).mean())
