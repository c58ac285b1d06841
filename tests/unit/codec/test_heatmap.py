"""Targets, and the way to the photo, against per-joint loops of the official HRNet code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from icon_dist.codec import heatmap
from icon_dist.codec.affine import affine, invert, transform
from icon_dist.codec.flip import flip_back

RNG = np.random.default_rng(0)


def official_target(
    joint: NDArray[np.float64], labelled: bool, *, w: int, h: int, sigma: int
) -> tuple[NDArray[np.float64], float]:
    """``generate_target`` for one joint: ``int`` goes toward zero; a window that ends right before the map counts."""
    radius = sigma * 3
    out, weight = np.zeros((h, w)), float(labelled)
    mu_x, mu_y = int(joint[0] / 4 + 0.5), int(joint[1] / 4 + 0.5)
    ul, br = (mu_x - radius, mu_y - radius), (mu_x + radius + 1, mu_y + radius + 1)
    if ul[0] >= w or ul[1] >= h or br[0] < 0 or br[1] < 0:
        return out, 0.0
    size = 2 * radius + 1
    x = np.arange(0, size, 1.0)
    g = np.exp(-((x - size // 2) ** 2 + (x[:, None] - size // 2) ** 2) / (2 * sigma**2))
    g_x = max(0, -ul[0]), min(br[0], w) - ul[0]
    g_y = max(0, -ul[1]), min(br[1], h) - ul[1]
    if weight > 0.5:
        out[max(0, ul[1]) : min(br[1], h), max(0, ul[0]) : min(br[0], w)] = g[g_y[0] : g_y[1], g_x[0] : g_x[1]]
    return out, weight


def test_encode_equals_the_official_loop() -> None:
    for sigma in (2, 3):
        joints = RNG.uniform(-60, 260, size=(40, 17, 2))
        joints[0, :6] = [[0, 0], [-2.1, 5], [-5.9, 5], [190, 254], [-26, 9], [-26.1, 9]]
        joints[1:3] = -RNG.uniform(0, 45, size=(2, 17, 2))  # around where rounding and the weight turn
        labelled = RNG.random((40, 17)) < 0.8
        labelled[:3] = True
        target, weight = heatmap.encode(
            torch.tensor(joints), torch.tensor(labelled), hw=(64, 48), stride=4, sigma=float(sigma)
        )
        for n in range(40):
            for k in range(17):
                naive, naive_weight = official_target(joints[n, k], labelled[n, k], w=48, h=64, sigma=sigma)
                assert weight[n, k] == naive_weight
                np.testing.assert_allclose(target[n, k], naive, atol=1e-12)


def test_targets_left_of_the_map_by_hand() -> None:
    """x / 4 + .5 = -.95 is column 0 in the public code, -1.05 column -1; sigma 2 reaches the map down to column -7."""
    xs = [-5.8, -6.2, -29.9, -33.9, -34.1]
    joints = torch.tensor([[[x, 80.0] for x in xs]])
    target, weight = heatmap.encode(joints, torch.ones(1, len(xs)).bool(), hw=(64, 48), stride=4, sigma=2.0)
    row = target[0, :, 20, 0].tolist()
    expected = [1, math.exp(-1 / 8), math.exp(-36 / 8), 0, 0]  # peaks in columns 0, -1, -6, -7 and -8
    assert row == [pytest.approx(value) for value in expected]
    assert weight[0].tolist() == [1, 1, 1, 1, 0]


def test_encode_peak_is_one_at_the_joint() -> None:
    target, weight = heatmap.encode(
        torch.tensor([[[40.0, 80.0]]]), torch.tensor([[True]]), hw=(64, 48), stride=4, sigma=2.0
    )
    assert target[0, 0, 20, 10] == 1
    assert target.count_nonzero() == target[0, 0, 14:27, 4:17].count_nonzero() == 13 * 13
    assert weight[0, 0] == 1


def test_flip_back_equals_the_official_code() -> None:
    maps = RNG.normal(size=(2, 5, 6, 8))
    flips = ((1, 2), (3, 4))
    expected = maps[:, :, :, ::-1].copy()
    for a, b in flips:
        expected[:, [a, b]] = expected[:, [b, a]]
    expected[:, :, :, 1:] = expected.copy()[:, :, :, 0:-1]
    np.testing.assert_array_equal(flip_back(torch.from_numpy(maps), flips=flips), expected)


def test_to_photo_equals_the_official_transform_preds() -> None:
    """The official code inverts an affine built for the heatmap size."""
    center, scale = RNG.uniform(100, 400, (8, 2)), np.repeat(RNG.uniform(0.5, 2, (8, 1)), 2, 1) * [0.75, 1]
    xy = RNG.uniform(0, 48, (8, 17, 2))
    official = transform(invert(affine(center, scale, np.zeros(8), out_wh=(48, 64))), xy)
    matrix = invert(affine(center, scale, np.zeros(8), out_wh=(192, 256)))
    in_input = heatmap.to_input(torch.from_numpy(xy), hw=(64, 48), stride=4)
    found = heatmap.to_photo(in_input, matrix=torch.from_numpy(matrix))
    np.testing.assert_allclose(found, official, atol=1e-9)
