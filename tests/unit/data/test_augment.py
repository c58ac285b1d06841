"""Augmentation against the official ``JointsDataset.__getitem__``, one person at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from icon_dist.codec.affine import affine, center_scale, transform
from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import DRAWS, Augmentation, draws, place_joints
from icon_dist.datasets import load_skeleton
from icon_dist.rng import hashed, normal, uniforms

COCO = load_skeleton("coco")
HW = (256, 192)


def people(n: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    rng = np.random.default_rng(n)
    box = np.concatenate([rng.uniform(0, 300, (n, 2)), rng.uniform(30, 300, (n, 2))], -1)
    keypoints = np.zeros((n, 17, 3), np.float32)
    keypoints[..., :2] = box[:, None, :2] + rng.random((n, 17, 2)) * box[:, None, 2:]
    keypoints[..., 2] = rng.choice([0, 1, 2], size=(n, 17), p=[0.3, 0.2, 0.5])
    keypoints[keypoints[..., 2] == 0] = 0
    return box, keypoints


def official(
    box: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    u: NDArray[np.float64],
    config: AugmentConfig,
    *,
    photo_width: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The code of ``__getitem__`` for one person, with its draws given: joints [K, 2] and which are labelled."""
    joints, vis = keypoints[:, :2].astype(np.float64), keypoints[:, 2] > 0
    c, s = center_scale(box, aspect=HW[1] / HW[0])
    normals = [float(normal(u[i : i + 1], u[i + 1 : i + 2])[0]) for i in (1, 3, 5)]
    if vis.sum() > config.half_body_min and u[0] < config.half_body_p:
        upper = [joints[k] for k in range(17) if vis[k] and k in COCO.upper]
        lower = [joints[k] for k in range(17) if vis[k] and k in COCO.lower]
        first = upper if normals[0] < 0.5 and len(upper) > 2 else lower
        selected = first if first is upper or len(lower) > 2 else upper
        if len(selected) >= 2:
            points = np.array(selected)
            c = points.mean(0)
            w, h = points.max(0) - points.min(0)
            aspect = HW[1] / HW[0]
            if w > aspect * h:
                h = w / aspect
            elif w < aspect * h:
                w = h * aspect
            s = np.array([w, h]) / 200 * 1.5
    s = s * np.clip(normals[1] * config.scale + 1, 1 - config.scale, 1 + config.scale)
    rf = config.rotation
    r = np.clip(normals[2] * rf, -rf * 2, rf * 2) if u[7] < 0.6 else 0.0
    if u[8] < config.flip_p:
        joints[:, 0] = photo_width - 1 - joints[:, 0]
        for a, b in COCO.flips:
            joints[[a, b]], vis[[a, b]] = joints[[b, a]], vis[[b, a]]
        c = np.array([photo_width - 1 - c[0], c[1]])
    return transform(affine(c, s, r, out_wh=HW[::-1]), joints), vis


@pytest.mark.parametrize("photo_width", [640, 333])
def test_joints_equal_the_official_code(photo_width: int) -> None:
    box, keypoints = people(400)
    config = AugmentConfig(half_body_p=0.8)
    random = draws(1, 2, np.arange(400))
    placement = Augmentation(config, COCO, InputFrame(HW), 0).placed(box, keypoints, random)
    joints = place_joints(keypoints, placement, skeleton=COCO)
    assert 100 < placement.flipped.sum() < 300
    for n in range(400):
        xy, vis = official(box[n], keypoints[n], random[n], config, photo_width=photo_width)
        np.testing.assert_array_equal(joints.labelled[n], vis)
        np.testing.assert_allclose(joints.xy[n][vis], xy[vis], rtol=1e-5, atol=1e-3)
        assert (joints.xy[n][~vis] == 0).all()


def test_flip_keeps_left_and_right() -> None:
    """In a mirrored image the joint called left shoulder is where the person's right one would be drawn."""
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 5], keypoints[0, 6] = (80, 50, 2), (20, 50, 1)
    config = AugmentConfig(rotation=0.0, scale=0.0, flip_p=1.0, half_body_p=0.0)
    box = np.array([[0.0, 0.0, 100.0, 100.0]])
    augmentation = Augmentation(config, COCO, InputFrame((128, 128)), 0)
    placement = augmentation(box, keypoints, np.array([7]), 0)
    joints = place_joints(keypoints, placement, skeleton=COCO)
    unflipped = transform(InputFrame((128, 128)).boxes(box), keypoints[..., :2])[0]
    mirrored = 128 - unflipped[:, 0]
    np.testing.assert_allclose(joints.xy[0, [5, 6], 0], mirrored[[6, 5]], atol=1e-4)
    np.testing.assert_allclose(joints.xy[0, [5, 6], 1], unflipped[[6, 5], 1], atol=1e-4)
    assert joints.visible[0, 6]  # was v = 2 on joint 5
    assert not joints.visible[0, 5]
    assert [COCO.mirrored[joint] for joint in (0, 5, 6)] == [0, 6, 5]


def test_no_group_means_no_half_body() -> None:
    box, keypoints = people(200)
    random = draws(0, 0, np.arange(200))
    config = AugmentConfig(half_body_p=1.0)
    bare = dataclasses.replace(COCO, upper=(), lower=())
    without = Augmentation(config, bare, InputFrame(HW), 0).placed(box, keypoints, random)
    rarely = dataclasses.replace(config, half_body_p=0.0)
    never = Augmentation(rarely, COCO, InputFrame(HW), 0).placed(box, keypoints, random)
    always = Augmentation(config, COCO, InputFrame(HW), 0).placed(box, keypoints, random)
    np.testing.assert_array_equal(without.matrix, never.matrix)
    assert (without.matrix != always.matrix).any()


def test_two_joints_at_one_place_do_not_break_half_body() -> None:
    keypoints = np.full((1, 17, 3), 50, np.float32)
    augmentation = Augmentation(AugmentConfig(half_body_p=1.0), COCO, InputFrame(HW), 0)
    placement = augmentation(np.array([[0.0, 0.0, 100.0, 100.0]]), keypoints, np.array([0]), 0)
    assert np.isfinite(placement.matrix).all()


def test_draws_do_not_depend_on_the_batch() -> None:
    ids = np.array([5, 17, 2**40, 3])
    whole = draws(3, 4, ids)
    for i, one in enumerate(ids):
        np.testing.assert_array_equal(draws(3, 4, np.array([one]))[0], whole[i])
    assert whole.shape == (4, DRAWS)
    for other in (draws(2, 4, ids), draws(3, 5, ids), draws(4, 3, ids)):
        assert not (other == whole).any()


def test_splitmix64_reference() -> None:
    """First outputs for state 1234567, from the public reference implementation (prng.di.unimi.it/splitmix64.c)."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = uniforms(np.array(1234567, np.uint64), 4)
    np.testing.assert_array_equal(found, [(x >> 11) / 2**53 for x in reference])


def test_numbers_are_uniform_normal_and_uncorrelated() -> None:
    u = draws(0, 0, np.arange(20000))
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(u.T) - np.eye(DRAWS)).max() < 0.04
    epochs = np.stack([draws(0, e, np.arange(20000))[:, 0] for e in range(3)])
    assert np.abs(np.corrcoef(epochs) - np.eye(3)).max() < 0.04
    assert stats.kstest(normal(u[:, 1], u[:, 2]), "norm").pvalue > 1e-4
    assert np.isfinite(normal(np.zeros(1), np.zeros(1))).all()


def test_hash_tells_the_order_of_counters() -> None:
    assert hashed(1, 2) != hashed(2, 1)
    assert hashed(1) != hashed(1, 0)
    assert len(np.unique(hashed(np.arange(300)[:, None], np.arange(300)))) == 90000
