"""What is drawn against a naive oracle: march every ray through all parts, count nothing twice.

The oracle knows a part only as "a sphere that moves from a to b", not the closed-form intersection that draws it.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from icon_dist.datasets import synthetic
from icon_dist.datasets.synthetic.canvas import FAR, Part
from icon_dist.datasets.synthetic.pose import FOREARM, SHIN, THIGH, UPPER_ARM, Pose, sample_pose
from icon_dist.datasets.synthetic.scene import FACTOR, SHOWS, Scene, compose
from icon_dist.types import Label

TAU = np.linspace(0, 1, 121)


def inside(part: Part, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of ``points`` [n, 3] lie in one of the spheres."""
    centers = part.a + TAU[:, None] * (part.b - part.a)
    offset = points[:, None] - centers
    along = offset @ part.front
    distance2 = (offset**2).sum(-1) - along**2 + (along / part.flat) ** 2
    return np.asarray((distance2 < (part.ra + TAU * (part.rb - part.ra)) ** 2).any(1))


def front(scene: Scene, x: int, y: int) -> tuple[int, float]:
    """(number of the part in front, its depth) at a canvas px; skirts are not balls and left out."""
    best, depth = -1, float(FAR)
    for number, (_, part) in enumerate(scene.parts):
        reach = max(part.ra, part.rb)
        low, high = np.minimum(part.a, part.b) - reach, np.maximum(part.a, part.b) + reach
        if part.open_end or not (low[0] <= x <= high[0] and low[1] <= y <= high[1]) or high[2] <= depth:
            continue
        z = np.arange(low[2], high[2], 0.25)
        hits = z[inside(part, np.stack([np.full_like(z, x), np.full_like(z, y), z], axis=1))]
        if len(hits) and hits[-1] > depth:
            best, depth = number, float(hits[-1])
    return best, depth


def scenes(difficulty: str) -> list[tuple[Scene, list[Label]]]:
    """Photos without skirts, and their labels."""
    found = []
    for index in range(7):
        scene = compose(np.random.default_rng([8, index]), difficulty=difficulty)
        if not any(part.open_end for _, part in scene.parts):
            found.append((scene, synthetic.render(8, index, difficulty=difficulty)[1]))
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("difficulty", [pytest.param("easy", marks=pytest.mark.slow), "hard"])
def test_visibility_agrees_with_marched_rays(difficulty: str) -> None:
    """v = 0 outside, else 2 exactly if the first thing on the way from the viewer is the joint's own limb, near it."""
    checked, wrong, hidden_by_others = 0, [], 0
    for scene, labels in scenes(difficulty):
        height, width = scene.canvas.depth.shape
        for number, (person, label) in enumerate(zip(scene.people, labels, strict=True)):
            values = np.array(label["keypoints"]).reshape(17, 3)
            if not values.any():
                continue
            for joint, (lx, ly, v) in zip(synthetic.SKELETON.joints, values, strict=True):
                x, y, z = person.origin + person.size * person.pose.points[joint]
                column, row = round(x), round(y)
                if not (0 <= column < width and 0 <= row < height):
                    assert v == 0
                    continue
                assert (FACTOR * lx + 0.5, FACTOR * ly + 0.5) == pytest.approx((x, y), abs=0.011)
                part, depth = front(scene, column, row)
                owner, name = (scene.parts[part][0], scene.parts[part][1].name) if part >= 0 else (-1, "")
                side, _, kind = joint.rpartition("_")
                names, margin = SHOWS[kind]
                own = owner == number and name in {n.format(side) for n in names}
                expected = 2 if own and depth - z < margin * person.size else 1
                checked += 1
                hidden_by_others += owner != number
                if v != expected:
                    wrong.append((joint, v, expected, name))
    assert checked > 100
    assert hidden_by_others > 0
    assert len(wrong) <= 0.01 * checked, wrong  # within the oracle's step of an outline or a margin


@pytest.mark.slow  # whose limb a ray meets first, above, says most of it
def test_depth_and_area_agree_with_marched_rays() -> None:
    rng = np.random.default_rng(0)
    errors, outlines = [], 0
    for scene, labels in scenes("hard")[:4]:
        for number, label in enumerate(labels):
            x, y, w, h = (int(FACTOR * v) for v in label["bbox"])
            if min(w, h) < 20:
                continue
            hits, samples = 0, 150
            for column, row in zip(rng.integers(x, x + w, samples), rng.integers(y, y + h, samples), strict=True):
                part, depth = front(scene, int(column), int(row))
                drawn = int(scene.canvas.owner[row, column])
                hits += part >= 0 and scene.parts[part][0] == number
                if part == drawn >= 0:
                    errors.append(abs(depth - float(scene.canvas.depth[row, column])))
                outlines += part != drawn
            share, sigma = hits / samples, 0.5 / samples**0.5
            assert label["area"] == pytest.approx(share * w * h / FACTOR**2, abs=4 * sigma * w * h / FACTOR**2)
    assert len(errors) > 500
    assert np.quantile(errors, 0.95) < 1.0  # px; steep surfaces and 0.25 px steps
    assert outlines < 0.03 * len(errors)


@pytest.fixture(scope="module")
def poses() -> list[Pose]:
    rng = np.random.default_rng(0)
    return [sample_pose(rng, difficulty=difficulty) for difficulty in ("easy", "hard") for _ in range(300)]


def test_bodies_are_human(poses: list[Pose]) -> None:
    """Limbs keep their lengths, knees bend backwards only, elbows do not fold through."""
    bones = (("hip", "knee", THIGH), ("knee", "ankle", SHIN), ("shoulder", "elbow", UPPER_ARM))
    for pose in poses:
        p = pose.points
        for side in ("left", "right"):
            for a, b, length in (*bones, ("elbow", "wrist", FOREARM)):
                assert np.linalg.norm(p[f"{side}_{a}"] - p[f"{side}_{b}"]) == pytest.approx(length)
            thigh = (p[f"{side}_knee"] - p[f"{side}_hip"]) / THIGH
            shin = (p[f"{side}_ankle"] - p[f"{side}_knee"]) / SHIN
            down, forward = pose.pelvis[:, 1], pose.pelvis[:, 2]
            behind = down * (thigh @ forward) - forward * (thigh @ down)
            assert shin @ behind > -1e-9
            upper = (p[f"{side}_elbow"] - p[f"{side}_shoulder"]) / UPPER_ARM
            fore = (p[f"{side}_wrist"] - p[f"{side}_elbow"]) / FOREARM
            assert np.degrees(np.arccos(np.clip(upper @ fore, -1, 1))) < 141


def test_left_is_the_persons_left(poses: list[Pose]) -> None:
    """Who faces us has the left side at image right; right-handed frames: nobody is mirrored."""
    facing = 0
    for pose in poses:
        assert np.linalg.det(pose.pelvis) == pytest.approx(1)
        across = pose.points["left_hip"] - pose.points["right_hip"]
        assert across @ pose.pelvis[:, 0] > 0
        upright, towards = pose.pelvis[1, 1] > 0.8, pose.pelvis[2, 2]
        if upright and abs(towards) > 0.7:
            assert across[0] * towards > 0
            facing += towards > 0
    assert facing > 100


def test_faces_are_seen_from_the_front_and_hair_from_behind() -> None:
    seen: dict[bool, list[float]] = {True: [], False: []}
    for index in range(20):
        scene = compose(np.random.default_rng([9, index]), difficulty="easy")
        for person, label in zip(scene.people, synthetic.render(9, index)[1], strict=True):
            towards = person.pose.head[2, 2]
            if abs(towards) > 0.6 and label["num_keypoints"]:
                seen[bool(towards > 0)] += label["keypoints"][2:9:3]
    assert np.mean(np.array(seen[True]) == 2) > 0.8
    assert np.mean(np.array(seen[False]) == 2) < 0.02
