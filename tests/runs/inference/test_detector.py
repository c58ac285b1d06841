"""Detectors in ONNX files, made here in the formats of RTMDet and YOLOX; rtmlib is the oracle for pixels and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper

from icon_dist.errors import DataError
from icon_dist.inference import detector
from icon_dist.inference.detector import OnnxDetector
from tests.support.detector_files import HW, of_cells, save, with_nms
from tests.support.small_models import picture


def test_rtmdet_gives_its_people_in_px_of_the_image(tmp_path: Path) -> None:
    """The image is twice the input, so boxes are; the second is NMS's, the last is unlikely, the third a dog."""
    image = picture(hw=(128, 192))
    boxes = np.array([[16, 8, 64, 80, 0.9], [100, 40, 80, 80, 0.6]])
    np.testing.assert_allclose(OnnxDetector(with_nms(tmp_path / "rtmdet.onnx", [0] * 4))(image), boxes, atol=1e-4)
    np.testing.assert_allclose(OnnxDetector(with_nms(tmp_path / "rtmdet_1.onnx"))(image), boxes, atol=1e-4)
    dogs = with_nms(tmp_path / "rtmdet_2.onnx", [0, 0, 16, 0])
    np.testing.assert_allclose(OnnxDetector(dogs)(image), boxes[:1], atol=1e-4)
    np.testing.assert_allclose(OnnxDetector(dogs, category=16)(image), boxes[1:], atol=1e-4)
    assert OnnxDetector(dogs, category=3)(image).shape == (0, 5)


def test_boxes_are_cut_at_the_edges_of_the_image(tmp_path: Path) -> None:
    """Of a narrow image the input shows gray on the right: what is found there is none of it."""
    found = OnnxDetector(with_nms(tmp_path / "rtmdet.onnx"))(picture(hw=(64, 60)))
    np.testing.assert_allclose(found, [[8, 4, 32, 40, 0.9], [50, 20, 10, 40, 0.6]], atol=1e-4)
    assert len(OnnxDetector(with_nms(tmp_path / "rtmdet.onnx"))(picture(hw=(64, 50)))) == 1


def test_yolox_without_nms_as_rtmlib_has_it(tmp_path: Path) -> None:
    rtmlib = pytest.importorskip("rtmlib")
    image = picture(hw=(100, 140))
    file = of_cells(tmp_path / "yolox.onnx")
    theirs = rtmlib.YOLOX(file, HW, det_mode="multiclass", nms_thr=0.45, score_thr=0.3)
    boxes, classes = theirs(np.ascontiguousarray(image[..., ::-1]))
    boxes = boxes[classes == 0].clip(0, (140, 100, 140, 100))
    ours = OnnxDetector(file)(image)
    assert len(ours) == 2
    np.testing.assert_allclose(ours[:, :2], boxes[:, :2], atol=1e-3)
    np.testing.assert_allclose(ours[:, :2] + ours[:, 2:4], boxes[:, 2:], atol=1e-3)
    np.testing.assert_allclose(ours[:, 4], [0.9, 0.6], atol=1e-5)
    one = OnnxDetector(of_cells(tmp_path / "yolox_1.onnx", classes=1))(image)
    np.testing.assert_allclose(one, ours, atol=1e-5)
    with pytest.raises(DataError, match="knows 1 classes, none has the number 1"):
        OnnxDetector(of_cells(tmp_path / "yolox_1.onnx", classes=1), category=1)(image)


@pytest.mark.parametrize("name", ["rtmdet", "yolox"])
def test_the_pixels_are_those_of_rtmlib(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtmlib = pytest.importorskip("rtmlib")
    image = picture(hw=(100, 130))
    ours = OnnxDetector(with_nms(tmp_path / f"{name}_tiny.onnx"))
    pixels: list[NDArray[np.float32]] = []
    monkeypatch.setattr(ours, "answer", lambda given: pixels.append(given) or [np.zeros((1, 0, 5), np.float32)])
    ours(image)
    theirs = (rtmlib.RTMDet if name == "rtmdet" else rtmlib.YOLOX)(of_cells(tmp_path / "any.onnx"), HW)
    expected, _ = theirs.preprocess(np.ascontiguousarray(image[..., ::-1]))
    np.testing.assert_allclose(pixels[0][0].transpose(1, 2, 0), expected, atol=1e-4)


def test_a_file_whose_name_does_not_tell_is_taken_for_rtmdet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    OnnxDetector(with_nms(tmp_path / "people.onnx"))
    assert (
        "people.onnx: the name says neither rtmdet nor yolox; its input is made for RTMDet" in capsys.readouterr().err
    )
    OnnxDetector(of_cells(tmp_path / "people.onnx"))
    assert capsys.readouterr().err == ""


def test_a_file_that_ends_the_process_which_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV crashes on some damaged files; which, changes with its version."""
    monkeypatch.setattr(detector, "READ", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(DataError, match=r"rtmdet\.onnx: damaged, OpenCV dies of it; download or export it again"):
        OnnxDetector(with_nms(tmp_path / "rtmdet.onnx"))


def test_files_that_are_no_such_detector(tmp_path: Path) -> None:
    identity = helper.make_node("Identity", ["input"], ["heatmaps"])
    save(tmp_path / "pose.onnx", [identity], {}, heatmaps=(T.FLOAT, [1, 3, *HW]))
    mean = helper.make_node("ReduceMean", ["input"], ["class"], axes=[2, 3], keepdims=0)
    save(tmp_path / "class.onnx", [mean], {}, **{"class": (T.FLOAT, [1, 3])})
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 20)
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, says in (
        ("pose", r"has outputs heatmaps \[1, 3, 64, 96\]; expected dets \[1, N, 5\]"),
        ("class", r"has outputs class \[1, 3\]; expected dets"),
        ("junk", "OpenCV cannot read it as an ONNX model"),
        ("empty", "OpenCV cannot read it as an ONNX model"),
        ("none", "no such file; give the ONNX file of RTMDet or YOLOX"),
    ):
        with pytest.raises(DataError, match=says):
            OnnxDetector(str(tmp_path / f"{name}.onnx"))
