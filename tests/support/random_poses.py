"""Truth and poses for tests of evaluators: everything that their rules distinguish, in small and in full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from icon_dist import datasets
from icon_dist.metrics.ground_truth import GroundTruth, ground_truth
from icon_dist.types import Annotations, Predictions

AREAS = (1024.0, 1023.99, 9216.0, 9216.01)  # on and beside the borders of small, medium, large


def truth_of(found: Annotations) -> GroundTruth:
    """The columns of what a reader found."""
    return ground_truth(found.truth, joints=found.skeleton.num_joints)


def random_set(seed: int, *, joints: int) -> tuple[dict[str, Any], Predictions]:
    """A few images: crowds, people without keypoints, twins, equal scores, more poses than count, empty images."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(50)[: rng.integers(1, 5)].tolist()
    people: list[dict[str, Any]] = []
    poses, photos = [], []
    for image in images:
        here = [_person(rng, image, joints) for _ in range(rng.choice([0, 1, 2, 3, 7]))]
        if here and rng.random() < 0.3:
            here.append({**here[0], "iscrowd": int(rng.random() < 0.3)})
        people += here
        for _ in range(rng.choice([0, 1, 4, 12, 27])):
            near = here[rng.integers(len(here))] if here else _person(rng, image, joints)
            poses.append(_pose(rng, near, spread=rng.choice([0, 0.02, 0.1, 0.5])))
            photos.append(image)
    people = [people[i] for i in rng.permutation(len(people))]
    truth = {
        "images": [{"id": image} for image in images],
        "annotations": [{**person, "id": i} for i, person in enumerate(people)],
    }
    return truth, _predictions(rng, poses, photos, joints=joints, scores=int(rng.choice([2, 5, 1000])))


def _person(rng: np.random.Generator, image: int, joints: int) -> dict[str, Any]:
    x, y, w, h = rng.integers(1, 200, size=4).tolist()
    points = np.zeros((joints, 3))
    points[:, 0], points[:, 1] = rng.integers(x, x + w, size=joints), rng.integers(y, y + h, size=joints)
    points[:, 2] = rng.choice([0, 1, 2], size=joints) * (rng.random() < 0.8)
    points[points[:, 2] == 0] = 0
    area = float(rng.choice(AREAS)) if rng.random() < 0.3 else w * h * 0.6
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [x, y, w, h],
        "area": area,
        "iscrowd": int(rng.random() < 0.15),
        "num_keypoints": int((points[:, 2] > 0).sum()),
        "keypoints": points.ravel().tolist(),
    }


def _pose(rng: np.random.Generator, person: dict[str, Any], *, spread: float) -> np.ndarray:
    pose = np.array(person["keypoints"], dtype=np.float64).reshape(-1, 3)
    x, y, w, h = person["bbox"]
    pose[pose[:, 2] == 0, :2] = x + w / 2, y + h / 2
    pose[:, :2] += rng.normal(size=(len(pose), 2)) * spread * np.sqrt(person["area"])
    if rng.random() < 0.2:  # a bounding box of exactly 32 x 32 or 96 x 96
        side = rng.choice([32, 96])
        pose[:, :2] = rng.integers(0, side, size=(len(pose), 2), endpoint=True)
        pose[0, :2], pose[1, :2] = 0, side
    return pose


def _predictions(
    rng: np.random.Generator, poses: list[np.ndarray], photos: list[int], *, joints: int, scores: int
) -> Predictions:
    n = len(poses)
    keypoints = np.array(poses, dtype=np.float32).reshape(n, joints, 3)
    keypoints[..., 2] = rng.uniform(size=(n, joints))
    return Predictions(
        instance=np.arange(n),
        image_id=np.array(photos, dtype=np.int64),
        keypoints=keypoints,
        box_score=(rng.integers(scores, size=n) / scores).astype(np.float32),
        area=rng.uniform(500, 90000, size=n).astype(np.float32),
    )


def full_size(shared: Path, *, seed: int = 0) -> tuple[dict[str, Any], Predictions]:
    """COCO val in size: 5000 images, 11004 people, 20 poses an image.

    The 6352 people of val that have keypoints are real; the crowds and the people without keypoints are copies of them.
    """
    rng = np.random.default_rng(seed)
    found = datasets.read("coco", shared / "coco/person_keypoints_val2017_rebuilt.json.gz").truth
    people: list[dict[str, Any]] = [{**person} for person in found["annotations"]]
    images: list[dict[str, Any]] = [{**image} for image in found["images"]]
    last = max(image["id"] for image in images)
    with_people = [image["id"] for image in images] + list(range(last + 1, last + 348))
    images += [{"id": i} for i in range(last + 1, last + 1 + 5000 - len(images))]
    copied = max(person["id"] for person in people) + 1
    for i in range(11004 - len(people)):
        person = {**people[rng.integers(6352)], "id": copied + i, "image_id": int(rng.choice(with_people))}
        if i % 8 == 0:
            person["iscrowd"] = 1
        elif i % 2:
            person |= {"keypoints": [0] * 51, "num_keypoints": 0}
        if i % 50 < len(AREAS):
            person["area"] = AREAS[i % 50]
        people.append(person)
    of: dict[int, list[dict[str, Any]]] = {}
    for person in people:
        of.setdefault(person["image_id"], []).append(person)
    poses, photos, quality = [], [], []
    for image in images:
        near = of.get(image["id"]) or [people[rng.integers(6352)]]
        for i in range(20):
            spread = float(rng.choice([0.0, 0.01, 0.03, 0.06, 0.2])) * (1 + i // len(near))
            poses.append(_pose(rng, near[i % len(near)], spread=spread))
            photos.append(image["id"])
            quality.append((image["id"] in of) * np.exp(-5 * spread))
    predictions = _predictions(rng, poses, photos, joints=17, scores=1000)
    score = np.round(0.7 * np.array(quality) + 0.3 * predictions.box_score, 2)  # ties
    return {"images": images, "annotations": people}, Predictions(
        **{**vars(predictions), "box_score": score.astype(np.float32)}
    )
