"""One generated photo: a cluttered place, people in it, and their COCO-17 labels read off the z-buffer."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from icon_dist.datasets.coco import SKELETON
from icon_dist.datasets.synthetic.body import Look, dress, sample_look
from icon_dist.datasets.synthetic.canvas import F64, U8, Canvas, Part, downsampled, supersampled
from icon_dist.datasets.synthetic.place import background, chair, limb_like, obstacle
from icon_dist.datasets.synthetic.pose import Pose, Rng, sample_pose
from icon_dist.types import Label

SIZES = ((320, 240), (288, 256), (256, 288), (240, 320))
FACTOR = 2  # canvas px per photo px
STEP = 1e4  # depth between people: nobody passes through somebody else
MIN_VISIBLE, MIN_SIDE = 4, 8.0  # joints, px of the box; people less visible stay unlabelled, as in COCO

# A joint is visible where one of these parts of its person is in front, at most so far (share of the height) before it.
SHOWS: dict[str, tuple[tuple[str, ...], float]] = {
    "nose": (("nose", "head"), 0.03),
    "eye": (("{}_eye", "head"), 0.03),
    "ear": (("{}_ear", "head"), 0.03),
    "shoulder": (("{}_upper_arm", "yoke", "chest"), 0.095),
    "elbow": (("{}_upper_arm", "{}_forearm"), 0.08),
    "wrist": (("{}_forearm", "{}_hand"), 0.07),
    "hip": (("{}_thigh", "pelvis", "belly", "skirt"), 0.125),
    "knee": (("{}_thigh", "{}_shin", "skirt"), 0.12),
    "ankle": (("{}_shin", "{}_foot"), 0.08),
}


@dataclass(frozen=True)
class Level:
    """How hard the images of one difficulty are.

    ``clutter`` 0-1 scales the number of things around the instances, ``contrast`` 0-1 the patterns of their clothes.
    """

    people: tuple[float, ...]  # shares of photos with 1, 2, ... people
    clutter: float
    obstacle: float  # chance per person of something in front
    truncated: float  # chance of standing partly outside
    apart: float  # people keep this share of a height from each other
    contrast: float


LEVELS = {
    "easy": Level(people=(0.40, 0.40, 0.20), clutter=0.15, obstacle=0.1, truncated=0.06, apart=0.75, contrast=0.5),
    "hard": Level(people=(0.15, 0.30, 0.30, 0.25), clutter=1.0, obstacle=0.4, truncated=0.3, apart=0.12, contrast=1.0),
}


@dataclass(frozen=True)
class Person:
    """One instance of a scene: its pose and look, and where and how large it stands on the canvas."""

    pose: Pose
    look: Look
    origin: F64  # [3] canvas px: the pelvis
    size: float  # canvas px of the standing height


@dataclass(frozen=True)
class Scene:
    """What a photo is taken of. ``canvas.owner`` counts ``parts``; a part of nobody's has person -1."""

    people: list[Person]
    canvas: Canvas
    parts: list[tuple[int, Part]]  # person, what was drawn


def render(seed: int, index: int, *, difficulty: str = "easy") -> tuple[U8, list[Label]]:
    """Photo ``index`` of the set ``seed``, RGB, and one COCO annotation a person, without ids."""
    rng = np.random.default_rng([seed, index])
    scene = compose(rng, difficulty=difficulty)
    return _photograph(rng, scene.canvas.color), [_label(scene, number) for number in range(len(scene.people))]


def compose(rng: Rng, *, difficulty: str) -> Scene:
    """Return a random scene of the given ``difficulty``, a key of LEVELS, drawn on its canvas.

    The same state of ``rng`` gives the same scene.
    """
    level = LEVELS[difficulty]
    wh = SIZES[rng.integers(len(SIZES))]
    people = _people(rng, level, wh=wh, difficulty=difficulty)
    place = background(rng, wh=wh, clutter=level.clutter)
    for person in people:
        _shadow(place, person)
    light = np.array([rng.uniform(-1, 1), -rng.uniform(0.2, 1.0), rng.uniform(0.5, 1.2)])
    scene = Scene(people, Canvas(supersampled(place, FACTOR), light=light), [])
    _draw(rng, level, scene)
    return scene


def _people(rng: Rng, level: Level, *, wh: tuple[int, int], difficulty: str) -> list[Person]:
    """People from back to front: the nearer, the taller."""
    w, h = wh
    count = 1 + int(rng.choice(len(level.people), p=level.people))
    people: list[Person] = []
    for size in np.sort(rng.uniform(0.4, 0.68, count) * h + rng.uniform(0, 25)):
        pose = sample_pose(rng, difficulty=difficulty)
        look = sample_look(rng, contrast=level.contrast)
        xyz = np.stack(list(pose.points.values())) * size
        low, high = xyz.min(0) - 0.03 * size, xyz.max(0) + 0.03 * size
        for _ in range(20):
            x = rng.uniform(-low[0], max(w - high[0], 1 - low[0]))
            y = rng.uniform(max(-low[1], 0.6 * h - high[1]), max(h - high[1], 1 - low[1]))
            if rng.random() < level.truncated:
                x, y = rng.uniform(0, w), rng.uniform(0.4, 1.0) * h
            if all(abs(x - other.origin[0] / FACTOR) > level.apart * size for other in people):
                break
        origin = np.array([FACTOR * x + 0.5, FACTOR * y + 0.5, STEP * len(people)])
        people.append(Person(pose, look, origin, FACTOR * float(size)))
    return people


def _draw(rng: Rng, level: Level, scene: Scene) -> None:
    """Distractors, then everybody with what they sit on and what stands before them."""

    def draw(parts: list[Part], person: int) -> None:
        for part in parts:
            scene.canvas.draw(part, len(scene.parts))
            scene.parts.append((person, part))

    h, w = scene.canvas.color.shape[:2]
    for _ in range(int(rng.integers(0, 2 + round(6 * level.clutter)))):
        draw(limb_like(rng, wh=(w, h), size=FACTOR * 150.0), -1)
    for number, person in enumerate(scene.people):
        origin, size = person.origin, person.size
        draw([part.placed(origin, size) for part in dress(person.pose, person.look)], number)
        if person.pose.seated:
            draw([part.placed(origin, size) for part in chair(rng, person.pose, girth=person.look.girth)], -1)
        if rng.random() < level.obstacle:
            foot = origin + np.array([0, size * max(p[1] for p in person.pose.points.values()), 0.5 * STEP])
            draw(obstacle(rng, foot=foot, size=size), -1)


def _shadow(place: U8, person: Person) -> None:
    """A soft dark patch under the feet."""
    size, points = person.size / FACTOR, person.pose.points
    feet = (points["left_toe"] + points["right_toe"] + points["left_ankle"] + points["right_ankle"]) / 4
    x = person.origin[0] / FACTOR + size * feet[0]
    y = person.origin[1] / FACTOR + size * (max(p[1] for p in points.values()) + 0.02)
    h, w = place.shape[:2]
    rx, ry = 0.22 * size, 0.05 * size
    rows = slice(max(0, int(y - ry)), max(0, min(h, int(y + ry))))
    cols = slice(max(0, int(x - rx)), max(0, min(w, int(x + rx))))
    yy, xx = np.ogrid[rows, cols]
    dark = 0.5 * np.clip(1 - ((xx - x) / rx) ** 2 - ((yy - y) / ry) ** 2, 0, 1)[..., None]
    place[rows, cols] = (place[rows, cols] * (1 - dark)).astype(np.uint8)


def _photograph(rng: Rng, color: U8) -> U8:
    """Canvas to photo: resampling, exposure and tint, a little blur, sensor noise."""
    image = downsampled(color, FACTOR)
    blur = rng.uniform(0, 0.8)
    if blur > 0.35:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur), dtype=np.uint8)
    gains = rng.uniform(0.75, 1.15) * rng.uniform(0.94, 1.06, 3)
    curve = np.clip(np.arange(256)[:, None] * gains, 0, 255).astype(np.uint8)
    exposed = cv2.LUT(image, curve[None])
    y, x = rng.integers(0, 64, 2)
    grain = GRAIN[y : y + image.shape[0], x : x + image.shape[1]] >> int(rng.integers(1, 4))
    return np.clip(exposed + grain, 0, 255).astype(np.uint8)


GRAIN = (np.random.default_rng(11).standard_normal((400, 400, 3)) * 12).astype(np.int16)


def _label(scene: Scene, number: int) -> Label:
    """The COCO annotation: v 2 in sight, 1 hidden, 0 outside the photo; area and box of what is in sight."""
    person, canvas = scene.people[number], scene.canvas
    own = np.array([owner == number for owner, _ in scene.parts] + [False])[canvas.owner]
    height, width = own.shape
    keypoints: list[float] = []
    for joint in SKELETON.joints:
        x, y, z = person.origin + person.size * person.pose.points[joint]
        column, row = round(x), round(y)
        if not (0 <= column < width and 0 <= row < height):
            keypoints += [0, 0, 0]
            continue
        side, _, kind = joint.rpartition("_")
        parts, margin = SHOWS[kind]
        front = scene.parts[canvas.owner[row, column]][1].name if own[row, column] else ""
        near = canvas.depth[row, column] - z < margin * person.size
        shown = near and front in {name.format(side) for name in parts}
        keypoints += [round((x - 0.5) / FACTOR, 2), round((y - 0.5) / FACTOR, 2), 2 if shown else 1]
    ys, xs = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    box = [xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]] if len(xs) else [0, 0, 0, 0]
    if sum(v == 2 for v in keypoints[2::3]) < MIN_VISIBLE or min(box[2:]) < MIN_SIDE * FACTOR:
        keypoints = [0] * len(keypoints)
    return {
        "category_id": 1,
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        "bbox": [float(v) / FACTOR for v in box],
        "area": float(own.sum()) / FACTOR**2,
        "iscrowd": 0,
    }
