"""Decoding against per-joint loops of the public code: HRNet's quarter offset, DARK's and UDP's Taylor steps."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from icon_dist.codec import heatmap
from icon_dist.codec.dark import blur_kernel
from icon_dist.codec.decode import decode

RNG = np.random.default_rng(0)
F64 = NDArray[np.float64]
SIZES = [((64, 48), 2.0), ((96, 72), 3.0), ((32, 24), 1.0)]


def official_quarter(maps: NDArray[np.float32], *, quarter: bool) -> tuple[F64, NDArray[np.float32]]:
    """``get_max_preds`` and the post-processing of ``get_final_preds``."""
    n, k, h, w = maps.shape
    xy, peaks = np.zeros((n, k, 2)), np.zeros((n, k), np.float32)
    for i in range(n):
        for j in range(k):
            index = int(np.argmax(maps[i, j]))
            peaks[i, j] = maps[i, j].max()
            if peaks[i, j] > 0:
                xy[i, j] = index % w, index // w
            px, py = math.floor(xy[i, j, 0] + 0.5), math.floor(xy[i, j, 1] + 0.5)
            if quarter and 1 < px < w - 1 and 1 < py < h - 1:
                hm = maps[i, j]
                xy[i, j] += 0.25 * np.sign([hm[py, px + 1] - hm[py, px - 1], hm[py + 1, px] - hm[py - 1, px]])
    return xy, peaks


def blurred(hm: F64, kernel: int) -> F64:
    """``gaussian_blur`` of DarkPose and MMPose: the whole map, zeros around it, scaled to its old peak."""
    border = kernel // 2
    padded = cv2.GaussianBlur(np.pad(hm, border), (kernel, kernel), 0)[border:-border, border:-border]
    out: F64 = padded * (hm.max() / padded.max())
    return out


def official_dark(hm: F64, kernel: int) -> F64:
    """``get_final_preds`` and ``taylor`` of DarkPose."""
    h, w = hm.shape
    y, x = divmod(int(hm.argmax()), w)
    log = np.log(np.maximum(blurred(hm, kernel), 1e-10))
    coord = np.array([x, y], float)
    if 1 < x < w - 2 and 1 < y < h - 2:
        dx = 0.5 * (log[y, x + 1] - log[y, x - 1])
        dy = 0.5 * (log[y + 1, x] - log[y - 1, x])
        dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
        dxy = 0.25 * (log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1])
        dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
        if dxx * dyy - dxy**2 != 0:
            coord -= np.linalg.inv([[dxx, dxy], [dxy, dyy]]) @ [dx, dy]
    return coord


def official_udp(hm: F64, kernel: int) -> F64:
    """``refine_keypoints_dark_udp`` of MMPose 1.x, ``post`` of UDP-Pose; without MMPose's 1e-7 on H's diagonal."""
    y, x = divmod(int(hm.argmax()), hm.shape[1])
    log = np.pad(np.log(np.clip(blurred(hm, kernel), 1e-3, 50)), 1, mode="edge")
    at = {(i, j): log[y + 1 + i, x + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    dx, dy = 0.5 * (at[0, 1] - at[0, -1]), 0.5 * (at[1, 0] - at[-1, 0])
    dxx = at[0, 1] - 2 * at[0, 0] + at[0, -1]
    dyy = at[1, 0] - 2 * at[0, 0] + at[-1, 0]
    dxy = 0.5 * (at[1, 1] - at[0, 1] - at[1, 0] + 2 * at[0, 0] - at[0, -1] - at[-1, 0] + at[-1, -1])
    out: F64 = np.array([x, y]) - np.linalg.inv([[dxx, dxy], [dxy, dyy]]) @ [dx, dy]
    return out


def seen_by_a_net(hw: tuple[int, int], sigma: float, *, people: int, margin: float) -> NDArray[np.float32]:
    """Peaks of every height at any place, wider and narrower than the target, with noise around them and below zero."""
    h, w = hw
    x, y = (RNG.uniform(margin, size - 1 - margin, (people, 17, 1, 1)) for size in (w, h))
    wide = sigma * RNG.uniform(0.8, 1.4, (people, 17, 1, 1))
    maps = np.exp(-((np.arange(w) - x) ** 2 + (np.arange(h)[:, None] - y) ** 2) / (2 * wide**2))
    maps *= RNG.uniform(0.05, 1, (people, 17, 1, 1))
    noise = RNG.normal(scale=0.01, size=maps.shape) * maps.max((2, 3), keepdims=True)
    return np.asarray(maps + noise, np.float32)


def test_peak_and_quarter_equal_the_official_loop() -> None:
    maps = RNG.normal(size=(30, 17, 16, 12)).astype(np.float32)
    maps[0] = -1.0  # nothing found
    maps[1] = 0.5  # a plateau: the first index wins, and no neighbor is higher
    for k, (x, y) in enumerate([(0, 5), (1, 5), (2, 5), (9, 5), (10, 5), (11, 5), (5, 1), (5, 2), (5, 14), (5, 15)]):
        maps[2, k, y, x] = 9
    maps[3, :, 3, 2] = maps[3, :, 3, 9] = maps[3, :, 12, 1] = 9  # equal peaks
    for shape in ((16, 12), (6, 32), (3, 64)):  # heights that make bands of four, two and single rows
        some = maps.reshape(30, 17, *shape)
        for method in ("argmax", "quarter"):
            xy, score = decode(torch.from_numpy(some), method=method, sigma=2.0)
            expected = official_quarter(some, quarter=method == "quarter")
            np.testing.assert_array_equal(xy, expected[0])
            np.testing.assert_array_equal(score, expected[1])
        assert (xy[0] == 0).all()


@pytest.mark.parametrize(("hw", "sigma"), SIZES)
@pytest.mark.parametrize("codec", ["dark", "udp"])
def test_taylor_step_on_a_patch_equals_the_whole_map(hw: tuple[int, int], sigma: float, codec: str) -> None:
    """PERFORMANCE asks for 4e-6 px, the rounding of float32 coordinates; also for peaks on the border."""
    maps = seen_by_a_net(hw, sigma, people=12, margin=-0.5)
    found, score = decode(torch.from_numpy(maps), method="dark", sigma=sigma, codec=codec)
    official = official_udp if codec == "udp" else official_dark
    expected = [[official(hm.astype(np.float64), blur_kernel(sigma)) for hm in person] for person in maps]
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6)
    exact, _ = decode(torch.from_numpy(maps).double(), method="dark", sigma=sigma, codec=codec)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(score, maps.max((2, 3)))
    moved = np.abs(np.array(expected) - decode(torch.from_numpy(maps), method="argmax", sigma=sigma)[0].numpy())
    assert np.mean(moved > 0.1) > 0.4


def test_msra_and_dark_models_are_decoded_alike() -> None:
    maps = torch.from_numpy(seen_by_a_net((64, 48), 2.0, people=2, margin=5))
    msra, dark, udp = (decode(maps, method="dark", sigma=2.0, codec=codec)[0] for codec in ("msra", "dark", "udp"))
    assert torch.equal(msra, dark)
    assert not torch.equal(udp, dark)


def test_golden_step() -> None:
    """Two pixels of equal height: DARK finds the middle, whatever stands below them."""
    maps = torch.zeros(1, 1, 64, 48)
    maps[0, 0, 30, 20] = maps[0, 0, 30, 21] = 0.8
    xy, score = decode(maps, method="dark", sigma=2.0)
    torch.testing.assert_close(xy[0, 0], torch.tensor([20.5, 30.0]), rtol=0, atol=2e-3)
    assert score.item() == pytest.approx(0.8)


@pytest.mark.parametrize("codec", ["msra", "udp"])
def test_no_step_without_an_inverse(codec: str) -> None:
    """A plateau, ridges along the axes, nothing at all, and nothing positive."""
    x, y = torch.arange(48, dtype=torch.float64), torch.arange(64, dtype=torch.float64)[:, None]
    plateau, zero = torch.full((64, 48), 0.3, dtype=torch.float64), torch.zeros(64, 48, dtype=torch.float64)
    ridges = [zero + torch.exp(-((y - 30.4) ** 2) / 8), zero + torch.exp(-((x - 20.4) ** 2) / 8)]
    maps = torch.stack([plateau, *ridges, zero, zero - 1])[None]
    maps[0, :3, 30, 20] += 1e-13  # the peak, away from the border
    xy, _ = decode(maps, method="dark", sigma=2.0, codec=codec)
    assert xy[0].tolist() == [[20, 30]] * 3 + [[0, 0]] * 2


def round_trip(hw: tuple[int, int], sigma: float, codec: str, method: str) -> float:
    """Largest error, heatmap px, at joints whose blur does not see the border."""
    margin = blur_kernel(sigma) // 2 + 3
    unit = np.array(heatmap.unit(hw, stride=4, codec=codec))
    inside = RNG.uniform(margin, np.array(hw[::-1]) - 1 - margin, (40, 17, 2))
    joints = torch.from_numpy((inside * unit).astype(np.float32))
    maps, weight = heatmap.encode(
        joints, torch.ones(40, 17, dtype=torch.bool), hw=hw, stride=4, sigma=sigma, codec=codec
    )
    assert (weight == 1).all()
    xy, _ = decode(maps, method=method, sigma=sigma, codec=codec)
    back = heatmap.to_input(xy, hw=hw, stride=4, codec=codec)
    return float((back - joints).abs().max() / unit.max())


@pytest.mark.parametrize(("hw", "sigma"), SIZES)
@pytest.mark.parametrize("codec", ["dark", "udp"])
def test_exact_targets_come_back(hw: tuple[int, int], sigma: float, codec: str) -> None:
    """sigma 1 is coarse for differences of one and two pixels: the parabola is not the logarithm of what DARK blurs."""
    assert round_trip(hw, sigma, codec, "dark") < (1e-3 if sigma > 1 else 2e-2)
    assert 0.2 < round_trip(hw, sigma, codec, "quarter") < 0.2501
    assert 0.4 < round_trip(hw, sigma, codec, "argmax") < 0.5001


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
def test_rounded_targets_come_back_to_half_a_pixel(method: str) -> None:
    assert 0.4 < round_trip((64, 48), 2.0, "msra", method) < 0.5001


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
def test_one_person_decodes_as_in_a_batch(method: str) -> None:
    maps = torch.from_numpy(seen_by_a_net((64, 48), 2.0, people=5, margin=0))
    together, _ = decode(maps, method=method, sigma=2.0)
    alone = torch.cat([decode(one[None], method=method, sigma=2.0)[0] for one in maps])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
