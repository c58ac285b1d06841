"""Kinds of errors against planted ones and a loop over the definitions; what correcting them gains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from icon_dist.datasets import coco, crowdpose, mpii
from icon_dist.metrics import error_analysis
from icon_dist.metrics.ground_truth import GroundTruth, ground_truth
from icon_dist.types import Predictions, Skeleton
from tests.support.random_poses import random_set

COCO = coco.SKELETON
WRIST = COCO.joints.index("left_wrist")
OTHER_WRIST = COCO.joints.index("right_wrist")
AREA = 100.0**2


def people(*places: tuple[float, float], image: int = 3) -> dict[str, Any]:
    """People with all joints labelled, 60 px or more from one another."""
    grid = 60.0 * np.stack([np.arange(17) % 5, np.arange(17) // 5], 1)
    annotations = []
    for number, place in enumerate(places):
        xy = grid + place
        annotations.append(
            {
                "id": 70 + number,
                "image_id": image,
                "keypoints": np.concatenate([xy, np.full((17, 1), 2.0)], 1).ravel().tolist(),
                "num_keypoints": 17,
                "area": AREA,
                "bbox": [*place, 100.0, 100.0],
                "iscrowd": 0,
                "category_id": 1,
            }
        )
    return {"images": [{"id": image}], "annotations": annotations}


def columns(truth: dict[str, Any]) -> GroundTruth:
    return ground_truth(truth, joints=17)


def joints_of(truth: dict[str, Any], person: int) -> np.ndarray:
    return np.array(truth["annotations"][person]["keypoints"]).reshape(-1, 3)[:, :2]


def predict(*poses: np.ndarray, image: int = 3, scores: tuple[float, ...] = ()) -> Predictions:
    n = len(poses)
    keypoints = np.concatenate([np.stack(poses), np.ones((n, poses[0].shape[0], 1))], -1).astype(np.float32)
    return Predictions(
        instance=np.arange(n),
        image_id=np.full(n, image),
        keypoints=keypoints,
        box_score=np.array(scores or np.linspace(0.9, 0.5, n), np.float32),
        area=np.full(n, AREA, np.float32),
    )


def beside(joint: int, similarity: float, *, area: float = AREA) -> tuple[float, float]:
    """A step to the right after which a joint has that similarity."""
    return math.sqrt(-math.log(similarity) * 2 * area) * 2 * COCO.sigmas[joint], 0.0


def test_every_kind_is_found_where_it_was_planted() -> None:
    truth = people((0, 0), (400, 0))
    pose = joints_of(truth, 0).copy()
    joints = ("left_eye", "left_shoulder", "left_wrist", "left_knee", "left_ankle")
    planted = dict(zip(joints, error_analysis.KINDS, strict=True))
    at = COCO.joints.index
    pose[at("left_eye")] += beside(at("left_eye"), 0.9)
    pose[at("left_shoulder")] += beside(at("left_shoulder"), 0.6)
    pose[at("left_wrist")] = joints_of(truth, 0)[at("right_wrist")]
    pose[at("left_knee")] = joints_of(truth, 1)[at("right_knee")]  # the other side of the other person
    pose[at("left_ankle")] = 900, 900
    found = error_analysis.find(columns(truth), predict(pose), COCO)
    assert (found.pose.tolist(), found.person.tolist()) == ([0], [0])
    kinds = {joint: error_analysis.KINDS[found.kind[0, k]] for k, joint in enumerate(COCO.joints)}
    assert {joint: kinds[joint] for joint in planted} == planted
    assert all(kind == "good" for joint, kind in kinds.items() if joint not in planted)
    assert found.count().sum(axis=1).tolist() == [13, 1, 1, 1, 1]
    assert found.own[0, at("left_shoulder")] == pytest.approx(0.6, abs=1e-5)
    assert found.best[0, at("left_knee")] == pytest.approx(1)


def test_unlabelled_joints_have_no_kind_and_attract_nobody() -> None:
    truth = people((0, 0), (400, 0))
    for person, joint in ((0, "nose"), (0, "right_wrist"), (1, "left_knee")):
        truth["annotations"][person]["keypoints"][3 * COCO.joints.index(joint) + 2] = 0
    pose = joints_of(truth, 0).copy()
    pose[WRIST] = joints_of(truth, 0)[OTHER_WRIST]
    pose[COCO.joints.index("left_knee")] = joints_of(truth, 1)[COCO.joints.index("left_knee")]
    kind = error_analysis.find(columns(truth), predict(pose), COCO).kind[0]
    assert kind[COCO.joints.index("nose")] == kind[OTHER_WRIST] == -1
    assert kind[WRIST] == kind[COCO.joints.index("left_knee")] == error_analysis.MISS


def test_only_the_best_pose_is_matched_and_only_to_people_who_count() -> None:
    truth = people((0, 0), (400, 0), (800, 0))
    truth["annotations"][1]["iscrowd"] = 1
    truth["annotations"][2]["area"] = 32.0**2 - 0.01
    first, second, third = (joints_of(truth, i) for i in range(3))
    poses = predict(first + 1, first, second, third, scores=(0.5, 0.9, 0.8, 0.7))
    found = error_analysis.find(columns(truth), poses, COCO)
    assert (found.pose.tolist(), found.person.tolist()) == ([1], [0])
    assert error_analysis.find(columns(truth).among([]), predict(first, image=3), COCO).pose.tolist() == []


def test_perfect_poses_are_good_and_have_nothing_to_gain() -> None:
    truth = people((0, 0), (400, 0), (0, 400))
    poses = predict(*(joints_of(truth, i) for i in range(3)))
    found = error_analysis.find(columns(truth), poses, COCO)
    assert found.count()[error_analysis.GOOD].tolist() == [3] * 17
    for to_truth in (False, True):
        gains = error_analysis.gains(columns(truth), poses, found, COCO, to_truth=to_truth)
        assert gains == {"AP": pytest.approx(1), "jitter": 0, "inversion": 0, "swap": 0, "miss": 0}
    assert not len(error_analysis.worst(found, "miss", count=5))


def test_a_correction_moves_its_kind_only_to_the_public_codes_place() -> None:
    truth = people((0, 0), (400, 0))
    true = joints_of(truth, 0)
    pose = true.copy()
    pose[0] = 900, 900  # miss
    pose[5] += beside(5, 0.7)  # jitter
    pose[WRIST] = true[OTHER_WRIST] + beside(WRIST, 0.8)  # inversion, .8 like the other wrist
    poses = predict(pose)
    found = error_analysis.find(columns(truth), poses, COCO)
    for kind, joint, published in (("miss", 0, 0.5), ("jitter", 5, 0.85), ("inversion", WRIST, 0.8)):
        moved = error_analysis.correct(columns(truth), poses, found, COCO, kinds=[kind]).keypoints[0]
        # the public code takes sigma where the similarity has 2 sigma: a quarter of the exponent
        np.testing.assert_allclose(moved[joint, :2], true[joint] + beside(joint, published**0.25), atol=1e-3)
        others = np.arange(17) != joint
        np.testing.assert_array_equal(moved[others], poses.keypoints[0][others])
        exact = error_analysis.correct(columns(truth), poses, found, COCO, kinds=[kind], to_truth=True).keypoints[0]
        np.testing.assert_allclose(exact[joint, :2], true[joint], atol=1e-3)
    everything = error_analysis.correct(columns(truth), poses, found, COCO, kinds=error_analysis.WRONG, to_truth=True)
    np.testing.assert_allclose(everything.keypoints[0, :, :2], true, atol=1e-3)
    assert everything.keypoints[0, :, 2].tolist() == poses.keypoints[0, :, 2].tolist()


def test_gains_are_of_one_kind_at_a_time() -> None:
    truth = people((0, 0), (600, 0))
    inverted = joints_of(truth, 0).copy()
    inverted[5:] = inverted[COCO.mirrored][5:]  # the face is right: OKS .29, a match
    missed = joints_of(truth, 1).copy()
    missed[5:] += 5000
    poses = predict(inverted, missed)
    found = error_analysis.find(columns(truth), poses, COCO)
    gains = error_analysis.gains(columns(truth), poses, found, COCO, to_truth=True)
    assert gains["AP"] == pytest.approx(0)
    # one of two people right, below the other's score or above it: precision 1 or 1/2 up to a recall of 1/2
    assert gains["inversion"] == pytest.approx(51 / 101)
    assert gains["miss"] == pytest.approx(51 / 101 / 2)
    assert gains["jitter"] == gains["swap"] == 0
    assert error_analysis.worst(found, "miss", count=5).tolist() == [found.pose.tolist().index(1)]


@pytest.mark.parametrize("skeleton", [coco.SKELETON, crowdpose.SKELETON, mpii.SKELETON], ids=lambda s: s.name)
def test_random_crowds_like_the_loop(skeleton: Skeleton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_analysis, "BLOCK", 17)  # many blocks, so that their borders are seen
    seen = np.zeros(5, int)
    for seed in range(60):
        truth, poses = random_set(seed, joints=skeleton.num_joints)
        found = error_analysis.find(ground_truth(truth, joints=skeleton.num_joints), poses, skeleton)
        got = {int(p): (int(g), kind.tolist()) for p, g, kind in zip(found.pose, found.person, found.kind, strict=True)}
        assert got == loop(truth, poses, skeleton), seed
        seen += found.count().sum(axis=1)
    assert (seen > 5).all(), seen


def loop(truth: dict[str, Any], poses: Predictions, skeleton: Skeleton) -> dict[int, tuple[int, list[int]]]:
    """The definitions, one joint at a time: row of the pose -> row of the person, kind of each joint."""
    flipped = list(range(skeleton.num_joints))
    for a, b in skeleton.flips:
        flipped[a], flipped[b] = b, a

    def ks(pose: int, joint: int, person: dict[str, Any], of: int) -> float:
        x, y, v = person["keypoints"][3 * of : 3 * of + 3]
        if v == 0:
            return -1.0
        px, py = poses.keypoints[pose, joint, :2].astype(float).tolist()
        return math.exp(-((px - x) ** 2 + (py - y) ** 2) / (2 * person["area"] * (2 * skeleton.sigmas[joint]) ** 2))

    result: dict[int, tuple[int, list[int]]] = {}
    for image in {a["image_id"] for a in truth["annotations"]}:
        here = [(i, a) for i, a in enumerate(truth["annotations"]) if a["image_id"] == image]
        rows = [i for i in range(len(poses.instance)) if poses.image_id[i] == image]
        taken: set[int] = set()
        for pose in sorted(rows, key=lambda i: -float(poses.box_score[i]))[:20]:
            best, match = 0.1, -1
            for i, person in here:
                if i in taken or person["iscrowd"] or not person["num_keypoints"] or person["area"] < 1024:
                    continue
                own = [ks(pose, k, person, k) for k in range(skeleton.num_joints)]
                value = float(np.mean([v for v in own if v >= 0]))
                if value >= best:
                    best, match = value, i
            if match < 0:
                continue
            taken.add(match)
            kinds = []
            for k in range(skeleton.num_joints):
                candidates = [("own", truth["annotations"][match], k)]
                candidates += [("other", a, k) for i, a in here if i != match]
                candidates += [("inverted", truth["annotations"][match], flipped[k])]
                candidates += [("other", a, flipped[k]) for i, a in here if i != match]
                values = [ks(pose, k, person, of) for _, person, of in candidates]
                most = int(np.argmax(values))
                if values[0] < 0:
                    kinds.append(-1)
                elif values[most] < 0.5:
                    kinds.append(error_analysis.MISS)
                elif candidates[most][0] == "own":
                    kinds.append(error_analysis.GOOD if values[most] > 0.85 else error_analysis.JITTER)
                else:
                    kinds.append(error_analysis.SWAP if candidates[most][0] == "other" else error_analysis.INVERSION)
            result[pose] = (match, kinds)
    return result
