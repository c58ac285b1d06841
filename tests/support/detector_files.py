"""Detectors in ONNX files, in the formats of RTMDet and YOLOX, that find the same boxes in every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto as T
from onnx import helper, numpy_helper

HW = (64, 96)
CORNERS = np.array([[8, 4, 40, 44], [9, 5, 41, 45], [50, 20, 90, 60], [1, 1, 20, 20]], np.float32)  # input px
SCORES = np.array([0.9, 0.8, 0.6, 0.2], np.float32)
CELLS = HW[0] * HW[1] * (1 / 64 + 1 / 256 + 1 / 1024)


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, ArrayLike], **outputs: Any) -> str:
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input", T.FLOAT, [1, 3, *HW])],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


def with_nms(path: Path, labels: list[int] | None = None) -> str:
    """RTMDet's and YOLOX's, as mmdeploy exports them: dets [1, N, 5] (and labels [1, N]) after NMS in the graph."""
    node = helper.make_node
    classes = np.array(labels or [0] * len(CORNERS), np.int64)
    nodes = [
        node("ReduceMean", ["input"], ["level"], axes=[1, 2, 3], keepdims=0),
        node("Mul", ["level", "none"], ["nothing"]),
        node("Add", ["nothing", "corners"], ["boxes"]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["chosen"]),
        node("Gather", ["chosen", "two"], ["rows"], axis=1),
        node("Gather", ["table", "rows"], ["kept"], axis=0),
        node("Unsqueeze", ["kept"], ["dets"], axes=[0]),
        node("Gather", ["classes", "rows"], ["their_classes"], axis=0),
        node("Unsqueeze", ["their_classes"], ["labels"], axes=[0]),
    ]
    constants: dict[str, ArrayLike] = {
        "none": np.float32(0),
        "corners": CORNERS[None],
        "scores": SCORES[None, None],
        "table": np.column_stack([CORNERS, SCORES]),
        "classes": classes,
        "most": np.array([100], np.int64),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.05], np.float32),
        "two": np.int64(2),
    }
    outputs: dict[str, Any] = {"dets": (T.FLOAT, [1, "N", 5])}
    if labels is None:
        nodes = nodes[:-2]
    else:
        outputs["labels"] = (T.INT64, [1, "N"])
    return save(path, nodes, constants, **outputs)


def of_cells(path: Path, *, classes: int = 80) -> str:
    """YOLOX's without NMS: offsets, logarithms of sizes, objectness and classes of every cell."""
    values = np.full((1, int(CELLS), 5 + classes), 0, np.float32)
    rows = (9, 10, 40, 100)  # of the first stride, 8 px: 12 cells in a row
    for row, (x0, y0, x1, y1), score in zip(rows, CORNERS.tolist(), SCORES.tolist(), strict=True):
        center = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) / 8 - (row % 12, row // 12)
        values[0, row, :6] = [*center, *np.log(np.array([x1 - x0, y1 - y0]) / 8), score, 1.0]
        values[0, row, 6:] = 0.5
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["level"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["level", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "values"], ["output"]),
    ]
    return save(path, nodes, {"none": np.float32(0), "values": values}, output=(T.FLOAT, list(values.shape)))
