"""The window of a person holds every pixel that augmentation can ask for."""

from __future__ import annotations

import numpy as np
import pytest

from icon_dist.codec.affine import invert, transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import Augmentation
from icon_dist.datasets import load_skeleton
from icon_dist.shards import crop_window as windows
from icon_dist.types import Instance

WH = (4000, 3000)


def person(rng: np.random.Generator, joints: int) -> Instance:
    w, h = rng.uniform(20, 400, 2).tolist()
    x, y = rng.uniform(1200, 2000), rng.uniform(1200, 1800)
    xy = rng.uniform((x, y), (x + w, y + h), (joints, 2))
    v = rng.integers(0, 3, joints)
    return Instance(7, 1, "a.jpg", WH, (x, y, w, h), w * h, np.column_stack([xy, v]).astype(np.float32))


@pytest.mark.parametrize("codec", ["msra", "udp"])
@pytest.mark.parametrize("hw", [(256, 192), (256, 256), (64, 64), (384, 320)])
def test_no_augmentation_leaves_the_window(hw: tuple[int, int], codec: str) -> None:
    skeleton = load_skeleton("coco")
    config = AugmentConfig(half_body_p=0.7, half_body_min=2)
    rng = np.random.default_rng(0)
    height, width = hw
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    closest = np.inf
    for _ in range(40):
        one = person(rng, 17)
        (x, y, w, h), _ = windows.window(one, skeleton, aspects=windows.ASPECTS, max_input=None)
        box, keypoints = np.tile(one.box, (200, 1)), np.tile(one.keypoints, (200, 1, 1))
        random = rng.random((200, 9))
        random[0] = [1, 0, 0, 1e-12, 0.0, 1e-12, 0.0, 0, 0]
        placed = Augmentation(config, skeleton, InputFrame(hw, codec), 0).placed(box, keypoints, random)
        reached = transform(invert(placed.matrix), np.tile(np.array(corners, float), (200, 1, 1)))
        slack = np.minimum(reached - (x, y), (x + w - 1, y + h - 1) - reached).min()
        assert slack >= 1  # and one pixel more for bilinear sampling
        closest = min(closest, slack / max(one.box[2:]))
    assert closest < 0.25, "the window is much larger than anything asked for"


def test_square_of_side_2_11_box_heights() -> None:
    """Worked out for a 3:4 input."""
    one = Instance(1, 1, "a.jpg", WH, (1000.0, 1000.0, 60.0, 200.0), 1.0, np.zeros((17, 3), np.float32))
    (x, y, w, h), stored = windows.window(one, load_skeleton("coco"), aspects=(0.75,), max_input=None)
    assert abs(w - 2.11 * 200) < 5
    assert abs(h - 2.11 * 200) < 5
    assert abs(x + w / 2 - 1030) <= 1.5
    assert abs(y + h / 2 - 1100) <= 1.5
    assert stored == (w, h)


def test_clipped_to_the_photo() -> None:
    one = Instance(1, 1, "a.jpg", (300, 220), (-50.0, 10.0, 100.0, 200.0), 1.0, np.zeros((17, 3), np.float32))
    (x, y, w, h), _ = windows.window(one, load_skeleton("coco"), aspects=windows.ASPECTS, max_input=None)
    assert (x, y, h) == (0, 0, 220)
    assert w < 300
    outside = Instance(1, 1, "a.jpg", (300, 220), (900.0, 900.0, 10.0, 10.0), 1.0, np.zeros((17, 3), np.float32))
    part, stored = windows.window(outside, load_skeleton("coco"), aspects=windows.ASPECTS, max_input=None)
    assert part == (299, 219, 1, 1)
    assert stored == (1, 1)


@pytest.mark.parametrize("box", [(1000.0, 1000.0, 300.0, 1200.0), (500.0, 900.0, 2000.0, 700.0)])
def test_padded_box_is_stored_at_one_and_a_half_times_the_input(box: tuple[float, float, float, float]) -> None:
    one = Instance(1, 1, "a.jpg", WH, box, 1.0, np.zeros((17, 3), np.float32))
    (_, _, w, _), stored = windows.window(one, load_skeleton("coco"), aspects=windows.ASPECTS, max_input=(256, 192))
    padded_height = 1.25 * max(box[3], box[2] / 0.75)
    assert stored[0] / w * padded_height == pytest.approx(1.5 * 256, rel=0.01)
    small = Instance(1, 1, "a.jpg", WH, (1000.0, 1000.0, 100.0, 200.0), 1.0, np.zeros((17, 3), np.float32))
    part, stored = windows.window(small, load_skeleton("coco"), aspects=windows.ASPECTS, max_input=(256, 192))
    assert stored == part[2:]
