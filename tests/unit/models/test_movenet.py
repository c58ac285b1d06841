"""MoveNet Thunder against a naive forward pass of the converted file's names, and its known figures on real people."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.codec.affine import invert
from icon_dist.codec.frame import InputFrame
from icon_dist.data.crops import cut
from icon_dist.datasets import coco, load_skeleton, read
from icon_dist.errors import CheckpointError
from icon_dist.inference.estimator import read_photo
from icon_dist.models import Heads, PoseNet, build_model
from icon_dist.models.pretrained import adapt, load, unpack
from tests.support.paths import ROOT

STAGES = ((32, 1, 1, 1), (40, 2, 2, 6), (56, 3, 2, 6), (112, 4, 2, 6), (168, 3, 1, 6), (280, 3, 2, 6), (560, 1, 1, 6))
LATERALS = {"l5": (1280, 64), "l4": (112, 64), "l3": (56, 32), "l2": (40, 24)}
MERGES = {"s4": (64, 32), "s3": (32, 24), "s2": (24, 24), "h": (24, 96)}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every key of the converted file."""
    weights: dict[str, tuple[int, ...]] = {"stem.c": (56, 3, 3, 3), "top.c": (1280, 560, 1, 1)}
    weights["final.c"] = (17, 96, 1, 1)
    width = 56
    for i, (channels, blocks, _, expansion) in enumerate(STAGES):
        for j in range(blocks):
            inner = width * expansion
            layers = [] if expansion == 1 else [(inner, width, 1, 1)]
            for k, shape in enumerate([*layers, (inner, 1, 3, 3), (channels, inner, 1, 1)]):
                weights[f"stages.{i}.{j}.m.{k}.c"] = shape
            width = channels
    weights |= {f"{name}.c": (outputs, inputs, 1, 1) for name, (inputs, outputs) in LATERALS.items()}
    weights |= {f"{name}.p.c": (outputs, inputs, 1, 1) for name, (inputs, outputs) in MERGES.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    out = {f"{name}.weight": shape for name, shape in weights.items()} | biases
    return out | {f"{name}.d.c.weight": (inputs, 1, 3, 3) for name, (inputs, _) in MERGES.items()}


def random_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(shape) * (2 / math.prod(shape[1:] or (32,))) ** 0.5 for name, shape in shapes().items()}


def naive(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits [N, 17, h, w]: the layer table, one line at a time, with TensorFlow's SAME padding by its formula."""

    def conv(x: Tensor, name: str, *, stride: int = 1, depthwise: bool = False) -> Tensor:
        kernel = w[f"{name}.weight"].shape[-1]
        pads = [
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[:1:-1]
        ]  # of width, height
        x = F.pad(x, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
        groups = x.shape[1] if depthwise else 1
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride=stride, groups=groups)

    def separable(x: Tensor, name: str) -> Tensor:
        return conv(conv(x, f"{name}.d.c", depthwise=True), f"{name}.p.c").clamp(min=0)

    x, maps = conv(x, "stem.c", stride=2).clamp(0, 6), []
    for i, (_, blocks, stride, expansion) in enumerate(STAGES):
        for j in range(blocks):
            y, k = x, 0
            if expansion > 1:
                y, k = conv(y, f"stages.{i}.{j}.m.0.c").clamp(0, 6), 1
            y = conv(y, f"stages.{i}.{j}.m.{k}.c", stride=stride if j == 0 else 1, depthwise=True).clamp(0, 6)
            y = conv(y, f"stages.{i}.{j}.m.{k + 1}.c")
            x = x + y if x.shape == y.shape else y
        maps.append(x)
    x = conv(conv(x, "top.c").clamp(0, 6), "l5.c")
    for n in (4, 3, 2):
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) + conv(maps[n - 1], f"l{n}.c")
        x = separable(x, f"s{n}")
    return conv(separable(x, "h"), "final.c")


def started(weights: dict[str, Tensor], *, hw: tuple[int, int] = (64, 96)) -> PoseNet:
    torch.manual_seed(0)
    model = build_model("movenet_thunder", Heads(joints=17, projection=None, input_hw=hw)).eval()
    adapted = adapt(weights, model, name="x.safetensors")
    assert (adapted.kind.name, adapted.new, adapted.dropped) == ("MoveNet Thunder", [], [])
    load(adapted, model)
    return model


def test_every_tensor_is_used_where_it_belongs() -> None:
    weights = random_weights()
    model = started(weights)
    assert sum(value.numel() for value in weights.values()) == sum(p.numel() for p in model.parameters()) == 6_211_505
    image = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits = naive(weights, image.permute(0, 3, 1, 2) / 127.5 - 1)
        torch.testing.assert_close(model(image).heatmaps, logits.sigmoid(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["top.c.bias", "s3.d.c.weight", "stages.6.0.m.1.c.bias", "final.c.bias"])
def test_a_file_that_lacks_a_tensor_or_has_another(key: str) -> None:
    model = build_model("movenet_thunder", Heads(joints=17, projection=None, input_hw=(64, 64)))
    with pytest.raises(CheckpointError, match=r"x: has no \S+ \[.*\], which MoveNet Thunder for movenet_thunder must"):
        adapt({name: value for name, value in random_weights().items() if name != key}, model, name="x")
    with pytest.raises(CheckpointError, match=r"x: s9.d.c.weight \[3\] \(MoveNet Thunder\) has no place in"):
        adapt(random_weights() | {"s9.d.c.weight": torch.zeros(3)}, model, name="x")


@pytest.fixture
def public() -> dict[str, Tensor]:
    file = ROOT.parent / "shared" / "weights" / "movenet_thunder_fp16.safetensors"
    if not file.is_file():
        pytest.skip(f"no weights: {file.relative_to(ROOT.parent)} is absent beside the checkout")
    return unpack(file.read_bytes(), name=file.name)


def test_the_public_file_has_these_names(public: dict[str, Tensor]) -> None:
    assert {name: tuple(value.shape) for name, value in public.items()} == shapes()


def pck(model: PoseNet, folder: Path, *, size: int, people: int) -> float:
    """PCK@0.2 of the 12 joints that LSP and COCO have, on the first people of lsp_train: plain argmax, no flip."""
    skeleton, theirs = load_skeleton("lsp"), coco.SKELETON.joints
    found = read("custom", folder / "lsp_train.json", skeleton=skeleton)
    frame = InputFrame((size, size))
    rows = [(i, theirs.index(joint)) for i, joint in enumerate(skeleton.joints) if joint in theirs]
    right = []
    for person in found.instances[:people]:
        crop, matrix = np.empty((size, size, 3), np.uint8), invert(frame.boxes(np.array([person.box])))[0]
        cut(read_photo(folder / "images" / person.file), matrix, out=crop)
        with torch.no_grad():
            maps = model(torch.from_numpy(crop)[None]).heatmaps[0]
        best = maps.flatten(1).argmax(1).numpy()
        xy = np.stack([best % maps.shape[2], best // maps.shape[2]], 1) * model.stride @ matrix[:, :2].T + matrix[:, 2]
        a, b = person.keypoints[list(skeleton.torso)]
        for i, j in rows:
            if min(a[2], b[2], person.keypoints[i, 2]) > 0:
                off = np.linalg.norm(xy[j] - person.keypoints[i, :2])
                right.append(off < 0.2 * np.linalg.norm((a - b)[:2]))
    assert len(right) > 11 * people
    return 100 * float(np.mean(right))


def test_it_finds_people_without_training(public: dict[str, Tensor], shared: Path) -> None:
    assert pck(started(public, hw=(128, 128)), shared / "lsp", size=128, people=60) > 60


@pytest.mark.slow
@pytest.mark.parametrize(("size", "known"), [(128, 65.1), (256, 82.3)])
def test_its_known_figures(public: dict[str, Tensor], shared: Path, size: int, known: float) -> None:
    """Peaks are read at 4 i, where ours are; this network has them about 2 px further: read there, 69.1 and 83.3."""
    assert pck(started(public, hw=(size, size)), shared / "lsp", size=size, people=1000) == pytest.approx(
        known, abs=0.3
    )
