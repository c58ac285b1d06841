"""Detectors in ONNX files, run by OpenCV: RTMDet with its NMS inside, YOLOX with or without, as rtmlib has them.

Any other detector is a function from an RGB array to boxes.
"""

from __future__ import annotations

import re
import subprocess
import sys

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import DataError, TooLargeError, note, shorten

MAX_BYTES = 1 << 30  # of an ONNX file
INPUT_HW = (640, 640)  # where the file does not say
GRAY = 114  # around the image
STRIDES = (8, 16, 32)  # of YOLOX's cells
# Of BGR; YOLOX takes the pixels as they are.
RTMDET_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
RTMDET_STD = np.array([57.375, 57.12, 58.395], np.float32)
# Some damaged files end the process that reads them: another process goes first.
READ = "import sys, cv2, numpy; cv2.dnn.readNetFromONNX(numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8))"
EXPECTED = "dets [1, N, 5] with or without labels [1, N] (RTMDet, YOLOX with NMS), or [1, cells, 5 + classes] (YOLOX)"
F32 = NDArray[np.float32]


class OnnxDetector:
    """The boxes of things in an image by RTMDet or YOLOX.

    ``OnnxDetector("rtmdet_m.onnx")(image)`` gives boxes ``[n, 5]``: x, y, width, height in px, and score.
    """

    def __init__(self, uri: str, *, category: int = 0, least_score: float = 0.3, most_overlap: float = 0.45) -> None:
        """``category``: of the classes that the detector knows; 0 is a person in COCO's 80.

        Boxes with a lower score than ``least_score`` are left out, and of two that overlap by more than
        ``most_overlap`` (intersection over union) the worse one. A DataError for a file that is no detector of these.
        """
        self._uri = uri
        self._category, self._least_score, self._most_overlap = category, least_score, most_overlap
        self._net = _read(uri)
        self._outputs = self._net.getUnconnectedOutLayersNames()
        self._hw = _input_hw(self._net)
        found = self.answer(np.full((1, 3, *self._hw), GRAY, np.float32))
        self._cells = self._has_cells(found)
        self._normalized = not self._cells and not re.search("yolox", uri.rpartition("/")[2], re.IGNORECASE)
        if self._normalized and not re.search("rtmdet", uri.rpartition("/")[2], re.IGNORECASE):
            note(f"{uri}: the name says neither rtmdet nor yolox; its input is made for RTMDet; rename a YOLOX")

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "n 5"]:
        """Boxes and scores in an RGB image, the best first, cut at its edges."""
        pixels, zoom = _letterbox(image, self._hw)
        if self._normalized:
            pixels = (pixels - RTMDET_MEAN) / RTMDET_STD
        found = self.answer(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        corners, scores = self._of_cells(found[0][0]) if self._cells else self._of_nms(found)
        height, width = image.shape[:2]
        corners = (corners / zoom).reshape(-1, 2, 2).clip(0, (width, height))
        boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0], scores[:, None]], -1).astype(np.float64)
        kept = (scores >= self._least_score) & (boxes[:, 2:4] > 0).all(-1) & np.isfinite(boxes).all(-1)
        boxes = boxes[kept]
        return boxes[np.argsort(-boxes[:, 4], kind="stable")]

    def answer(self, pixels: F32) -> list[NDArray[np.generic]]:
        """Return the network's outputs for pixels [1, 3, H, W]; DataError where it does not take them."""
        try:
            self._net.setInput(pixels)
            return [np.asarray(one) for one in self._net.forward(self._outputs)]
        except cv2.error as error:
            shape = "x".join(map(str, pixels.shape))
            raise DataError(
                f"{self._uri}: does not take an image of {shape} ({_reason(error)}); expected RTMDet or YOLOX"
            ) from None

    def _has_cells(self, found: list[NDArray[np.generic]]) -> bool:
        """Whether the outputs are cells without NMS; DataError where they are neither these nor boxes."""
        shapes = [one.shape for one in found]
        cells = sum(self._hw[0] // stride * (self._hw[1] // stride) for stride in STRIDES)
        if len(shapes) == 1 and shapes[0][:2] == (1, cells) and len(shapes[0]) == 3 and shapes[0][2] > 5:
            return True
        boxes = [shape for shape in shapes if len(shape) == 3 and shape[0] == 1 and shape[2] == 5]
        labels = [shape for shape in shapes if len(shape) == 2 and shape[0] == 1]
        if len(boxes) == 1 and len(boxes) + len(labels) == len(shapes) <= 2:
            return False
        has = ", ".join(f"{name} {list(shape)}" for name, shape in zip(self._outputs, shapes, strict=True))
        raise DataError(f"{self._uri}: has outputs {shorten(has, 200)}; expected {EXPECTED}")

    def _of_nms(self, found: list[NDArray[np.generic]]) -> tuple[F32, F32]:
        """Corners ``[n, 4]`` and scores ``[n]`` of boxes that are chosen already."""
        dets = next(one for one in found if one.ndim == 3)[0].astype(np.float32)
        labels = next((one[0] for one in found if one.ndim == 2), np.full(len(dets), self._category))
        dets = dets[labels == self._category]
        return dets[:, :4], dets[:, 4]

    def _of_cells(self, cells: NDArray[np.generic]) -> tuple[F32, F32]:
        """Corners and scores of YOLOX's cells: offsets and logarithms of sizes in strides, objectness, classes."""
        values = cells.astype(np.float32)
        grid, stride = _grid(self._hw)
        center, size = (values[:, :2] + grid) * stride, np.exp(values[:, 2:4].clip(max=20)) * stride
        if 5 + self._category >= values.shape[1]:
            raise DataError(f"{self._uri}: knows {values.shape[1] - 5} classes, none has the number {self._category}")
        scores = values[:, 4] * values[:, 5 + self._category]
        corners = np.concatenate([center - size / 2, center + size / 2], -1)
        rows = np.flatnonzero(scores >= self._least_score)
        boxes = np.concatenate([corners[rows, :2], corners[rows, 2:] - corners[rows, :2]], -1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[rows].tolist(), self._least_score, self._most_overlap)
        rows = rows[np.asarray(kept, np.int64).reshape(-1)]
        return corners[rows], scores[rows]


def _read(uri: str) -> cv2.dnn.Net:
    try:
        data = storage.read(uri, most=MAX_BYTES)
    except FileNotFoundError:
        raise DataError(f"{uri}: no such file; give the ONNX file of RTMDet or YOLOX to --boxes") from None
    except TooLargeError as error:
        raise DataError(str(error)) from None
    done = subprocess.run([sys.executable, "-c", READ], input=data, capture_output=True, check=False)
    if done.returncode < 0:
        raise DataError(f"{uri}: damaged, OpenCV dies of it; download or export it again")
    try:
        net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
        if net.getUnconnectedOutLayersNames():
            return net
        reason = "no outputs"
    except cv2.error as error:
        reason = _reason(error)
    raise DataError(f"{uri}: OpenCV cannot read it as an ONNX model ({reason}); give RTMDet or YOLOX, exported to ONNX")


def _reason(error: cv2.error) -> str:
    """The last sentence of OpenCV's, without its file names."""
    text = str(error.err or error) if hasattr(error, "err") else str(error)
    return shorten(text.strip().splitlines()[-1].removeprefix("> "), 120) if text.strip() else "unknown"


def _input_hw(net: cv2.dnn.Net) -> tuple[int, int]:
    """Height and width of the input, which OpenCV tells in words only."""
    said = re.search(r"<Input> \w+ \[\w+ x 3 x (\d+) x (\d+)\]", net.dump())
    return (int(said[1]), int(said[2])) if said else INPUT_HW


def _letterbox(image: NDArray[np.uint8], hw: tuple[int, int]) -> tuple[F32, float]:
    """BGR pixels of the input's size, the image as large as fits in the upper left corner; and its zoom."""
    zoom = min(hw[0] / image.shape[0], hw[1] / image.shape[1])
    size = max(1, int(image.shape[1] * zoom)), max(1, int(image.shape[0] * zoom))
    canvas = np.full((*hw, 3), GRAY, np.float32)
    canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)[..., ::-1]
    return canvas, zoom


def _grid(hw: tuple[int, int]) -> tuple[F32, F32]:
    """Of every cell of YOLOX its place ``[cells, 2]`` in strides, and its stride ``[cells, 1]`` in px."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: hw[0] // stride, : hw[1] // stride]
        places.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)
