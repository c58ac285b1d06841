"""Targets and frames of the dark and udp codecs against per-joint loops of the public code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from icon_dist.codec import heatmap
from icon_dist.codec.affine import affine, invert, transform
from icon_dist.codec.decode import decode
from icon_dist.codec.flip import flip_back
from icon_dist.codec.frame import InputFrame

RNG = np.random.default_rng(0)
F64 = NDArray[np.float64]
HW, MAP = (256, 192), (64, 48)


def dark_target(joint: F64, *, sigma: int) -> tuple[F64, float]:
    """MMPose's ``generate_unbiased_gaussian_heatmaps`` for one joint: nothing is rounded."""
    h, w = MAP
    out, radius = np.zeros((h, w)), 3 * sigma
    mu_x, mu_y = joint / 4
    if mu_x - radius >= w or mu_y - radius >= h or mu_x + radius + 1 < 0 or mu_y + radius + 1 < 0:
        return out, 0.0
    for y in range(h):
        for x in range(w):
            out[y, x] = math.exp(-((x - mu_x) ** 2 + (y - mu_y) ** 2) / (2 * sigma**2))
    return out, 1.0


def udp_target(joint: F64, *, sigma: int) -> tuple[F64, float]:
    """``generate_target`` of UDP-Pose, ``generate_udp_gaussian_heatmaps`` of MMPose: ``int`` goes toward zero."""
    h, w = MAP
    out, radius = np.zeros((h, w)), 3 * sigma
    exact = joint / ((np.array(HW[::-1]) - 1) / (np.array([w, h]) - 1))
    mu = [int(v + 0.5) for v in exact]
    if any(m - radius >= size or m + radius + 1 < 0 for m, size in zip(mu, (w, h), strict=True)):
        return out, 0.0
    for y in range(max(0, mu[1] - radius), min(h, mu[1] + radius + 1)):
        for x in range(max(0, mu[0] - radius), min(w, mu[0] + radius + 1)):
            out[y, x] = math.exp(-((x - exact[0]) ** 2 + (y - exact[1]) ** 2) / (2 * sigma**2))
    return out, 1.0


@pytest.mark.parametrize("sigma", [2, 3])
def test_targets_and_weights_equal_the_public_loops(sigma: int) -> None:
    joints = RNG.uniform(-60, 320, (8, 17, 2))
    joints[0, :3] = [[0, 0], [191, 255], [95.5, 127.5]]
    edges = np.array([-3 * sigma - 1, 48 + 3 * sigma])[:, None] * 4 + np.linspace(-7, 7, 17)  # where the weight turns
    joints[1:3, :, 0] = edges
    for codec, official in (("dark", dark_target), ("udp", udp_target)):
        maps, weight = heatmap.encode(
            torch.tensor(joints), torch.ones(8, 17).bool(), hw=MAP, stride=4, sigma=float(sigma), codec=codec
        )
        for n in range(8):
            for k in range(17):
                naive, naive_weight = official(joints[n, k], sigma=sigma)
                assert weight[n, k] == naive_weight
                np.testing.assert_allclose(maps[n, k], naive, atol=1e-12)
        assert {0.0, 1.0} == set(weight[1].tolist()) == set(weight[2].tolist())


def test_an_unlabelled_joint_has_no_target() -> None:
    for codec in ("msra", "dark", "udp"):
        maps, weight = heatmap.encode(
            torch.full((1, 2, 2), 90.0), torch.tensor([[True, False]]), hw=MAP, stride=4, sigma=2.0, codec=codec
        )
        assert weight.tolist() == [[1, 0]]
        assert maps[0, 1].count_nonzero() == 0


def test_corners_of_the_input_are_corners_of_the_map() -> None:
    corners = torch.tensor([[[0.0, 0.0], [47.0, 63.0]]])
    udp = heatmap.to_input(corners, hw=MAP, stride=4, codec="udp")
    torch.testing.assert_close(udp[0], torch.tensor([[0.0, 0.0], [191.0, 255.0]]))
    assert torch.equal(heatmap.to_input(corners, hw=MAP, stride=4), corners * 4)


def warp_matrix(center: F64, scale: F64, rotation: float, wh: tuple[int, int]) -> F64:
    """``get_udp_warp_matrix`` of MMPose, as public; its rotations turn the other way."""
    t = math.radians(rotation)
    (cx, cy), (sw, sh) = center, scale * 200
    zx, zy = (wh[0] - 1) / sw, (wh[1] - 1) / sh
    return np.array(
        [
            [zx * math.cos(t), -zx * math.sin(t), zx * (-cx * math.cos(t) + cy * math.sin(t) + sw / 2)],
            [zy * math.sin(t), zy * math.cos(t), zy * (-cx * math.sin(t) - cy * math.cos(t) + sh / 2)],
        ]
    )


def test_udp_affine_equals_the_public_matrix() -> None:
    center, scale, turn = RNG.uniform(50, 400, (20, 2)), RNG.uniform(0.3, 2, (20, 2)), RNG.uniform(-90, 90, 20)
    found = affine(center, scale, turn, out_wh=(192, 256), codec="udp")
    for i in range(20):
        np.testing.assert_allclose(found[i], warp_matrix(center[i], scale[i], -turn[i], (192, 256)), atol=1e-9)
    golden = [[0.9947917, 0, 35.8125], [0, 0.9960938, -41.8359375]]  # 95.5 - 60 * 191/192, 127.5 - 170 * 255/256
    by_hand = affine((60, 170), (0.96, 1.28), 0, out_wh=(192, 256), codec="udp")
    np.testing.assert_allclose(by_hand, golden, atol=1e-6)


def test_edges_of_the_box_are_the_outermost_pixel_centers() -> None:
    box = np.array([[30.0, 40.0, 90.0, 120.0]])  # 3:4, so that padding by 1.25 is all that happens
    padded = np.array([[75 - 56.25, 100 - 75.0], [75 + 56.25, 100 + 75.0]])
    found = transform(InputFrame(HW, "udp").boxes(box), padded[None])[0]
    np.testing.assert_allclose(found, [[0, 0], [191, 255]], atol=1e-9)


@pytest.mark.parametrize("codec", ["dark", "udp"])
def test_a_place_in_the_photo_comes_back(codec: str) -> None:
    """Photo -> crop -> target -> decoded -> photo: to a thousandth of a heatmap pixel."""
    box = np.column_stack([RNG.uniform(0, 300, (30, 2)), RNG.uniform(40, 200, (30, 2))])
    matrix = InputFrame(HW, codec).boxes(box)
    inside = RNG.uniform((40, 40), (150, 215), (30, 17, 2))
    photo = transform(invert(matrix), inside)
    joints = torch.from_numpy(transform(matrix, photo))
    maps, _ = heatmap.encode(joints, torch.ones(30, 17).bool(), hw=MAP, stride=4, sigma=2.0, codec=codec)
    xy, _ = decode(maps.float(), method="dark", sigma=2.0, codec=codec)
    back = heatmap.to_input(xy, hw=MAP, stride=4, codec=codec)
    back = heatmap.to_photo(back, matrix=torch.from_numpy(invert(matrix)).float())
    heatmap_px = 1 / np.linalg.norm(matrix[:, 0, :2], axis=-1) * 4
    assert (np.abs(back.numpy() - photo).max((1, 2)) / heatmap_px).max() < 1e-3


def test_to_photo_equals_the_public_transform_preds() -> None:
    """UDP's ``transform_preds``: ``x * scale_w / (w - 1) + center - scale_w / 2``."""
    center, scale = RNG.uniform(100, 400, (8, 2)), RNG.uniform(0.5, 2, (8, 2))
    xy = RNG.uniform(0, 48, (8, 17, 2))
    official = xy * (scale * 200 / (47, 63))[:, None] + (center - scale * 100)[:, None]
    matrix = invert(affine(center, scale, np.zeros(8), out_wh=(192, 256), codec="udp"))
    found = heatmap.to_input(torch.from_numpy(xy), hw=MAP, stride=4, codec="udp")
    found = heatmap.to_photo(found, matrix=torch.from_numpy(matrix))
    np.testing.assert_allclose(found, official, atol=1e-9)


def mirrored_targets(joints: torch.Tensor, codec: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets of joints, and those of the mirrored image brought back."""
    labelled = torch.ones(joints.shape[:2], dtype=torch.bool)
    flips = ((1, 2), (3, 4))
    there = joints * torch.tensor([-1.0, 1.0]) + torch.tensor([191.0, 0.0])
    there = there[:, [0, 2, 1, 4, 3]]
    straight, mirrored = (
        heatmap.encode(xy.double(), labelled, hw=MAP, stride=4, sigma=2.0, codec=codec)[0] for xy in (joints, there)
    )
    return straight, flip_back(mirrored, flips=flips, codec=codec)


def test_mirrored_udp_targets_are_the_same_targets() -> None:
    """The point of the paper: no shift, no bias."""
    straight, back = mirrored_targets(torch.from_numpy(RNG.uniform(30, 160, (20, 5, 2))), "udp")
    torch.testing.assert_close(straight, back, rtol=0, atol=1e-12)


def test_mirrored_msra_targets_need_the_shift() -> None:
    joints = torch.from_numpy(RNG.integers(30, 160, (20, 5, 2)).astype(np.float64))
    straight, shifted = mirrored_targets(joints, "msra")
    torch.testing.assert_close(straight, shifted, rtol=0, atol=1e-12)
    unshifted = torch.cat([shifted[..., 1:], shifted[..., -1:]], -1)
    assert (straight - unshifted).abs().max() > 0.1


def test_mirrored_dark_targets_keep_a_quarter_of_a_pixel() -> None:
    """What is left of the bias after the shift, in heatmap px: 1 - 3/4."""
    straight, shifted = mirrored_targets(torch.from_numpy(RNG.uniform(30, 160, (20, 5, 2))), "dark")
    there, back = (decode(maps, method="dark", sigma=2.0)[0] for maps in (straight, shifted))
    torch.testing.assert_close(back - there, torch.tensor([0.25, 0.0]).double().expand(20, 5, 2), rtol=0, atol=1e-3)


def test_the_way_back_twice_is_no_way_for_udp_alone() -> None:
    maps = torch.rand(2, 5, 6, 8)
    for codec in ("msra", "dark", "udp"):
        twice = flip_back(flip_back(maps, flips=((1, 2),), codec=codec), flips=((1, 2),), codec=codec)
        assert torch.equal(twice, maps) == (codec == "udp")
