"""rtmlib's own class finds our joints in the photo, with the file of ``icon-dist export --for rtmlib``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from icon_dist.codec.affine import invert, transform
from icon_dist.datasets.synthetic import render
from icon_dist.inference.rtmlib_heatmaps import FLOOR, PIXEL, RtmlibHeatmaps, blur_matrix
from tests.runs.export.test_export_files import model_of
from tests.runs.export.trained import exported

rtmlib = pytest.importorskip("rtmlib", reason="needs rtmlib: pip install --no-deps rtmlib")
F32 = NDArray[np.float32]


def read_by_rtmlib(maps: F32, hw: tuple[int, int]) -> tuple[NDArray[Any], F32]:
    """Joints in px of the input, and scores, of one instance, by ``ViTPose.postprocess``."""
    size = np.array(hw[::-1], np.float64)
    xy, scores = rtmlib.ViTPose.postprocess(None, [maps.copy()], size / 2, size)
    return xy[0], scores[0]


@pytest.mark.parametrize("hw", [(64, 64), (256, 192), (32, 96)])
def test_rtmlib_reads_the_joints_that_were_drawn(hw: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    count = 100  # rtmlib counts pixels of all maps of an instance in float32
    for part in range(5):
        xy = random.uniform(3.01, np.array(hw[::-1]) - 4, (1, count, 2)).astype(np.float32)
        xy[:, ::2] = np.round(xy[:, ::2] / 4) * 4 + random.choice([-1, 0, 1], (1, count // 2, 2))  # a quarter's grid
        xy = np.clip(xy, 3.01, np.array(hw[::-1]) - 4).astype(np.float32)
        scores = random.uniform(0.4, 1.2, (1, count)).astype(np.float32)
        maps = RtmlibHeatmaps(hw)(torch.from_numpy(xy), torch.from_numpy(scores))
        found, peaks = read_by_rtmlib(maps.numpy(), hw)
        np.testing.assert_array_equal(peaks, scores[0])
        np.testing.assert_allclose(found, xy[0], atol=1e-3, err_msg=str(part))


def test_what_rtmlib_cannot_read_is_rounded() -> None:
    """Joints at and beyond the border, and low scores; a joint that is not found stays so."""
    hw = (64, 48)
    xy = torch.tensor([[[0, 0], [0.4, 62.8], [47, 20], [-30, 20], [20.3, 30.2], [9, 9], [100, 100]]])
    scores = torch.tensor([[0.5, 0.01, 1.0, 0.9, 0.5 * FLOOR, -0.2, 0.3]])
    found, peaks = read_by_rtmlib(RtmlibHeatmaps(hw)(xy, scores).numpy(), hw)
    inside = xy[0].clamp(min=0).minimum(torch.tensor([48, 64])).numpy()
    np.testing.assert_array_equal(peaks, scores[0])
    assert np.abs(found - inside)[:5].max() <= PIXEL / 2
    np.testing.assert_array_equal(found[0], (0, 0))
    np.testing.assert_allclose(found[5], (-PIXEL, -PIXEL))  # rtmlib's mark: one pixel before the map
    np.testing.assert_array_equal(found[6], (48, 64))


def test_the_blur_is_that_of_opencv() -> None:
    row = np.random.default_rng(0).uniform(size=(1, 33))
    expected = cv2.GaussianBlur(row, (11, 1), 0)
    np.testing.assert_allclose(row @ blur_matrix(33).numpy().T, expected, atol=1e-12)


def compare(file: Path, *, atol: float) -> list[float]:
    """The joints of rtmlib's class are our model's on rtmlib's crop. Returns medians of what another crop makes, px."""
    model, codec, _, settings = model_of(file.parent / "m.safetensors")
    height, width = codec.input_hw
    pose = rtmlib.ViTPose(str(file), model_input_size=(width, height), mean=None)

    def ours(crop: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.no_grad():
            maps = model(torch.from_numpy(crop.copy())[None]).heatmaps
        return codec.decode(maps, method=settings.decode)[0][0].numpy()

    random, medians = np.random.default_rng(0), []
    for number in range(6):
        rgb, _ = render(0, number)
        photo = np.ascontiguousarray(rgb[..., ::-1])
        x, y, w, h = random.uniform((5, 5, 60, 80), (40, 40, 100, 120))
        found, scores = pose(photo, [[x, y, x + w, y + h]])
        crop, center, scale = pose.preprocess(photo, [x, y, x + w, y + h])
        zoom = width / scale[0]
        expected = ours(crop[..., ::-1])
        inside = ((expected > 3) & (expected < np.array([width, height]) - 4)).all(-1) & (scores[0] > 0.2)
        assert inside.sum() > 4
        on_crop = (found[0] - center) * zoom + np.array([width, height]) / 2
        np.testing.assert_allclose(on_crop[inside], expected[inside], atol=atol)
        matrix = codec.frame.boxes(np.array([[x, y, w, h]], np.float64))[0]
        own = ours(cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR))
        off = np.abs(transform(invert(matrix), own) - found[0]).max(-1) * zoom
        medians.append(float(np.median(off[inside])))
    return medians


def test_vitpose_of_rtmlib_finds_our_joints(rtmlib_file: Path) -> None:
    compare(rtmlib_file, atol=1e-2)  # DARK on a fresh network's peaks makes much of the last digits


@pytest.mark.slow
def test_vitpose_crops_as_we_do(tmp_path: Path) -> None:
    """Where the codec is not UDP: the very joints of the evaluation, from the photo on."""
    medians = compare(exported(tmp_path, "m.onnx", "--for", "rtmlib"), atol=1e-3)
    assert max(medians) < 1e-3
