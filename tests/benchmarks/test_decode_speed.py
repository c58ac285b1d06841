"""Heatmaps to joints in the photo, against the per-joint loops of the public code; one process, interleaved, the least
of some rounds each, warm: the whole takes a millisecond, which a busy machine easily doubles.

PERFORMANCE: per person of 17 joints at 64x48, batches of 32. ``pytest -m slow tests/benchmarks/test_decode_speed.py``
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import icon_dist.codec.decode
import icon_dist.codec.heatmap
from icon_dist.codec.affine import affine, invert

pytestmark = pytest.mark.slow
N, K, H, W, KERNEL, SIGMA, ROUNDS = 32, 17, 64, 48, 11, 2.0, 25
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def unchecked(module: ModuleType) -> Any:
    """A second copy without the shape checks that tests install: on so short a path they cost as much as the work."""
    spec = importlib.util.spec_from_file_location("unchecked", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


decoding, heatmap = unchecked(icon_dist.codec.decode), unchecked(icon_dist.codec.heatmap)


def maps() -> F32:
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(8, size - 9, (N, K, 1, 1)) for size in (W, H))
    peaks = np.exp(-((np.arange(W) - x) ** 2 + (np.arange(H)[:, None] - y) ** 2) / (2 * SIGMA**2))
    return np.asarray(peaks + rng.normal(scale=0.01, size=peaks.shape), np.float32)


def max_preds(hm: F32) -> tuple[F32, F32]:
    flat = hm.reshape(N, K, -1)
    index, best = flat.argmax(2), flat.max(2)
    preds = np.stack([index % W, index // W], -1).astype(np.float32)
    return preds * (best > 0)[..., None], best


def in_photo(coords: F32, center: F64, scale: F64) -> F32:
    """``transform_preds`` of HRNet and DarkPose: a matrix a person, a product a joint."""
    out = np.zeros_like(coords)
    for n in range(N):
        direction = np.array([0, -100 * scale[n, 0]])
        there = np.array([[W / 2, H / 2], [W / 2, H / 2 - W / 2], [0, H / 2 - W / 2]], np.float32)
        here = np.array([center[n], center[n] + direction, center[n] + direction - [100 * scale[n, 0], 0]], np.float32)
        matrix = cv2.getAffineTransform(there, here)
        for k in range(K):
            out[n, k] = np.dot(matrix, np.array([coords[n, k, 0], coords[n, k, 1], 1.0]))
    return out


def in_photo_udp(coords: F32, center: F64, scale: F64) -> F32:
    """``transform_preds`` of UDP-Pose."""
    for n in range(N):
        lengths = scale[n] * 200
        coords[n] = coords[n] * (lengths / (W - 1, H - 1)) + center[n] - lengths * 0.5
    return coords


def quarter_loop(hm: F32) -> F32:
    """HRNet ``get_final_preds``."""
    coords, _ = max_preds(hm)
    for n in range(N):
        for k in range(K):
            one = hm[n, k]
            px, py = math.floor(coords[n, k, 0] + 0.5), math.floor(coords[n, k, 1] + 0.5)
            if 1 < px < W - 1 and 1 < py < H - 1:
                diff = np.array([one[py, px + 1] - one[py, px - 1], one[py + 1, px] - one[py - 1, px]])
                coords[n, k] += np.sign(diff) * 0.25
    return coords


def blurred(hm: F32) -> F32:
    """``gaussian_blur`` of MMPose and DarkPose: every map, whole."""
    border, out = KERNEL // 2, hm.copy()
    for n in range(N):
        for k in range(K):
            best = out[n, k].max()
            padded = np.zeros((H + 2 * border, W + 2 * border), np.float32)
            padded[border:-border, border:-border] = out[n, k]
            out[n, k] = cv2.GaussianBlur(padded, (KERNEL, KERNEL), 0)[border:-border, border:-border]
            out[n, k] *= best / out[n, k].max()
    return out


def dark_loop(hm: F32) -> F32:
    """``refine_keypoints_dark`` of MMPose, DarkPose's ``taylor``."""
    coords, _ = max_preds(hm)
    log = np.log(np.maximum(blurred(hm), 1e-10))
    for n in range(N):
        for k in range(K):
            (x, y), f = coords[n, k].astype(int), log[n, k]
            if 1 < x < W - 2 and 1 < y < H - 2:
                dx, dy = 0.5 * (f[y, x + 1] - f[y, x - 1]), 0.5 * (f[y + 1, x] - f[y - 1, x])
                dxx = 0.25 * (f[y, x + 2] - 2 * f[y, x] + f[y, x - 2])
                dxy = 0.25 * (f[y + 1, x + 1] - f[y - 1, x + 1] - f[y + 1, x - 1] + f[y - 1, x - 1])
                dyy = 0.25 * (f[y + 2, x] - 2 * f[y, x] + f[y - 2, x])
                if dxx * dyy - dxy**2 != 0:
                    coords[n, k] -= np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ np.array([dx, dy])
    return coords


def udp_loop(hm: F32) -> F32:
    """``refine_keypoints_dark_udp`` of MMPose: the joints of a person at once, people one by one."""
    coords, _ = max_preds(hm)
    padded = np.pad(np.log(np.clip(blurred(hm), 1e-3, 50)), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    for n in range(N):
        f, at = padded[n].ravel(), (coords[n, :, 0] + 1 + (coords[n, :, 1] + 1) * (W + 2)).astype(int)
        at += (W + 2) * (H + 2) * np.arange(K)
        right, left, down, up, here = f[at + 1], f[at - 1], f[at + W + 2], f[at - W - 2], f[at]
        dxy = 0.5 * (f[at + W + 3] - right - down + 2 * here - left - up + f[at - W - 3])
        hessian = np.stack([right - 2 * here + left, dxy, dxy, down - 2 * here + up], -1).reshape(K, 2, 2)
        inverse = np.linalg.inv(hessian + np.finfo(np.float32).eps * np.eye(2))
        coords[n] -= np.einsum("kij,kj->ki", inverse, 0.5 * np.stack([right - left, down - up], -1))
    return coords


def us_per_person(work: Callable[[], object]) -> float:
    work()
    start = time.process_time()
    work()
    return (time.process_time() - start) / N * 1e6


@pytest.mark.parametrize(
    ("method", "codec", "loop", "back"),
    [
        ("quarter", "msra", quarter_loop, in_photo),
        ("dark", "dark", dark_loop, in_photo),
        ("dark", "udp", udp_loop, in_photo_udp),
    ],
)
def test_decode(
    method: str,
    codec: str,
    loop: Callable[[F32], F32],
    back: Callable[[F32, F64, F64], F32],
    benchmark: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    hm, rng = maps(), np.random.default_rng(1)
    center, scale = rng.uniform(100, 400, (N, 2)), rng.uniform(0.5, 2, (N, 1)) * (0.75, 1)
    matrix = invert(affine(center, scale, np.zeros(N), out_wh=(4 * W, 4 * H), codec=codec))
    there, tensor = torch.from_numpy(matrix).float(), torch.from_numpy(hm)

    def ours() -> torch.Tensor:
        xy, _ = decoding.decode(tensor, method=method, sigma=SIGMA, codec=codec)
        xy = heatmap.to_input(xy, hw=(H, W), stride=4, codec=codec)
        return torch.as_tensor(heatmap.to_photo(xy, matrix=there))

    def theirs() -> F32:
        return back(loop(hm), center, scale)

    np.testing.assert_allclose(ours(), theirs(), atol=1e-2)  # photo px; the loops round to float32 on the way
    works = (ours, theirs, tensor.sum)
    mine, peer, floor = np.min([[us_per_person(work) for work in works] for _ in range(ROUNDS)], axis=0)
    benchmark.pedantic(ours, rounds=ROUNDS)
    with capsys.disabled():
        text = f"ours {mine:.1f}, loops {peer:.0f} us a person = {peer / mine:.1f} x; reading the maps {floor:.1f}"
        print(f"\n{method}, {codec}: {text}")
