"""``icon-dist export``: its files run in onnxruntime and torch.export and give torch's joints, at any batch size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icon_dist import datasets, export
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.codec import Codec, codec_of
from icon_dist.config import EvalConfig
from icon_dist.datasets import skeleton_to_dict
from icon_dist.errors import CheckpointError, ClusterError, ConfigError, StorageError
from icon_dist.inference import export_file
from icon_dist.inference import export_program as programs
from icon_dist.inference.predictor import predict
from icon_dist.models import PoseNet, from_config
from icon_dist.shards.reader import photo_source
from icon_dist.types import Batch, Instance, Skeleton
from tests.runs.export import trained
from tests.runs.export.trained import exported as write
from tests.support.small_models import CRATE, DOG, HAND, weights_file

NEAR = 1e-3  # input px


def run(file: Path, image: Tensor) -> list[Tensor]:
    """The outputs of an ONNX file."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {"image": image.numpy()})]


def model_of(weights: Path) -> tuple[PoseNet, Codec, Skeleton, EvalConfig]:
    found = stored_weights.load(str(weights))
    model = from_config.restore(found).eval()
    return model, codec_of(found.config), found.skeleton, found.config.eval


def by_predictor(weights: Path, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Joints in px of the crops, and scores, as ``icon-dist evaluate --no-flip`` finds them."""
    model, codec, skeleton, settings = model_of(weights)
    count, (height, width) = len(crops), codec.input_hw
    empty = np.zeros((skeleton.num_joints, 3), np.float32)
    box = (0.0, 0.0, float(width), float(height))
    people = [Instance(i, i, "x.jpg", (width, height), box, 1.0, empty) for i in range(count)]
    row, none = torch.arange(count), torch.zeros(count, skeleton.num_joints, dtype=torch.bool)
    unknown, same = torch.zeros(count, skeleton.num_joints, 2), torch.eye(2, 3).repeat(count, 1, 1)
    batch = Batch(crops, unknown, none, none, row, row, row, same)
    source = photo_source("x", people, skeleton=skeleton)
    found = predict(
        model, [batch], source, codec=codec, settings=EvalConfig(flip=False, decode=settings.decode), device="cpu"
    )
    return torch.from_numpy(found.keypoints[..., :2]), torch.from_numpy(found.keypoints[..., 2])


def agree(file: Path, crops: Tensor, joints: Tensor, scores: Tensor, *, least: float = 0.7) -> None:
    """Joints and scores of an exported program are those of our own code, but for ties; ``least`` of them are none."""
    xy, peak = by_predictor(file.parent / "m.safetensors", crops)
    torch.testing.assert_close(scores, peak, atol=1e-5, rtol=1e-5)
    model, codec, _, settings = model_of(file.parent / "m.safetensors")
    program = programs.JointsProgram(model, codec, decode=settings.decode, refine_below=settings.refine_below)
    with torch.no_grad():
        certain = program.certain(crops, within=NEAR)
    assert certain.float().mean() > least
    assert (joints - xy)[certain].abs().max() < NEAR


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("joints"), "m.onnx", eval__decode="dark")


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_onnxruntime_gives_our_joints(onnx_file: Path, batch: int) -> None:
    crops = programs.drawn_crops(9, hw=(64, 64))[1 : 1 + batch]
    joints, scores = run(onnx_file, crops)
    assert joints.shape == (batch, 17, 2)
    agree(onnx_file, crops, joints, scores)


def test_onnxruntime_gives_our_joints_on_real_people(onnx_file: Path, rtmlib_file: Path, shared: Path) -> None:
    crops = trained.lsp_crops(shared, 24, hw=(64, 64), codec="msra")[0]
    agree(onnx_file, crops, *run(onnx_file, crops))
    bgr = crops.flip(-1).permute(0, 3, 1, 2).float().contiguous()
    agree(rtmlib_file, crops, *run(rtmlib_file, bgr)[1:])


def test_the_program_of_torch_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And what the command prints: two lines and a note, and none of torch's."""
    file = write(tmp_path, "m.pt2", skeleton=trained.of_joints(1))
    shown = capfd.readouterr()
    first, second = shown.out.splitlines()
    assert "resnet18 64x64, 1 joint, step 7, codec=msra decode=quarter, 6" in first
    assert second.startswith("it and torch differ by 0 px at most (")
    assert shown.err == "icon_dist: resnet18: is traced, then compared with torch; this takes a minute\n"
    assert sorted(os.listdir(tmp_path)) == ["m.pt2", "m.pt2.json", "m.safetensors"]
    with programs.quiet():
        program = torch.export.load(file).module()
        for batch in (1, 3):
            crops = programs.drawn_crops(batch, hw=(64, 64))
            agree(file, crops, *program(crops))


def test_the_json_beside_it_says_how_to_use_it(onnx_file: Path, rtmlib_file: Path) -> None:
    said = json.loads(Path(f"{onnx_file}.json").read_text())
    coco = datasets.load_skeleton("coco")
    assert said["sha256"] == hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    assert said["joints"] == list(coco.joints)
    assert said["flips"][0] == ["left_eye", "right_eye"]
    assert said["bones"][0] == ["left_ankle", "left_knee"]
    assert said["inputs"] == {"image": {"shape": ["N", 64, 64, 3], "dtype": "uint8", "channels": "rgb"}}
    assert (said["input"], said["codec"], said["decode"]) == ([64, 64], "msra", "dark")
    assert (said["weights"]["step"], said["score"], said["licence_of_data"]) == (7, 0.5, None)
    other = json.loads(Path(f"{rtmlib_file}.json").read_text())
    assert (other["for"], other["codec"], other["weights_channels"], other["flips"]) == ("rtmlib", "udp", "bgr", [])
    assert other["outputs"]["heatmaps"]["shape"] == ["N", 21, 33, 33]


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_program_that_disagrees_is_refused(tmp_path: Path) -> None:
    model, codec, _, _ = model_of(trained.fetched(tmp_path / "m.safetensors"))
    right, wrong = (programs.JointsProgram(model, codec, decode=d, refine_below=0.2) for d in ("quarter", "argmax"))
    crops = programs.drawn_crops(4, hw=(64, 64))
    assert programs.check(right, right, right, crops, name="m.onnx").largest == 0
    with pytest.raises(CheckpointError, match=r"m.onnx: its joints are up to 1 px and its scores 0 from torch's"):
        programs.check(wrong, right, right, crops, name="m.onnx")
    with pytest.raises(CheckpointError, match=r"its joints are up to 0 px and its scores 0\.0"):
        programs.check(lambda x: (right(x)[0], right(x)[1] * 1.01), right, right, crops, name="m.onnx")
    torch.nn.init.constant_(model.final_layer.bias, float("nan"))
    with pytest.raises(CheckpointError, match="the model's joints are not finite"):
        programs.check(right, right, right, crops, name="m.onnx")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (["-o", "m.pth"], ConfigError, "-o m.pth: ends with none of .onnx, .pt2; name it FILE.onnx"),
        (["-o", "m"], ConfigError, "ends with none of"),
        (["-o", "m.pt2", "--for", "rtmlib"], ConfigError, "rtmlib reads ONNX files"),
        (["-o", "old.onnx"], ConfigError, "old.onnx exists already; give another name, or --force"),
        (["-o", "new.onnx", "--which", "best"], ConfigError, "--which: m.safetensors is no run with several"),
        (["-o", "new.onnx", "--net", "1"], ConfigError, "--net: m.safetensors is no run with several"),
        (["-o", "m.safetensors/new.onnx"], StorageError, "is a file, not a folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    options: list[str], error: type[Exception], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m.safetensors", "old.onnx"):
        Path(name).write_bytes(b"x")
    with pytest.raises(error) as raised:
        export.main(["m.safetensors", *options])
    assert text in str(raised.value)
    assert sorted(os.listdir()) == ["m.safetensors", "old.onnx"]


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is there; check the path, and give the folder of a run"):
        export.main([str(tmp_path / "none"), "-o", str(tmp_path / "m.pt2")])
    assert os.listdir(tmp_path) == []


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ClusterError, match="needs onnxscript, which is not here; pip install onnx onnxscript onnxrun"):
        export.main([str(tmp_path / "none"), "-o", str(tmp_path / "m.onnx")])


def test_both_files_or_neither(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()  # what no file can replace
    for before in (None, b"old"):
        if before:
            (tmp_path / "m.onnx.json").write_bytes(before)
        with pytest.raises(StorageError):
            export_file.write(str(tmp_path / "m.onnx"), b"program", b"about")
        beside = tmp_path / "m.onnx.json"
        assert (beside.read_bytes() if beside.exists() else None) == before
    export_file.write(str(tmp_path / "new.onnx"), b"program", b"about")
    assert (tmp_path / "new.onnx").read_bytes() == b"program"


# ------------------------------------------------------------------------------------------------ every kind of model


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("use", "config"),
    [
        ("joints", {"model__backbone": "resnet18", "data__codec": "dark", "eval__decode": "dark"}),
        ("joints", {"model__backbone": "efficientnet_lite0", "data__codec": "udp", "eval__decode": "dark"}),
        ("joints", {"model__backbone": "opecnet_resnet18"}),
        ("rtmlib", {"model__backbone": "resnet18", "data__input": "96x64", "data__sigma": 1.5}),
    ],
)
def test_two_hundred_real_people(use: str, config: dict[str, Any], tmp_path: Path, shared: Path) -> None:
    """Of a trained network every joint is equal. A fresh one has no peaks, and DARK makes much of their rounding."""
    trained.taught(tmp_path / "m.safetensors", shared, **config)
    file = tmp_path / "m.onnx"
    export.main([str(tmp_path / "m.safetensors"), "-o", str(file), "--for", use])
    hw = tuple(json.loads(Path(f"{file}.json").read_text())["input"])
    crops, _ = trained.lsp_crops(shared, 200, hw=(hw[0], hw[1]), codec=config.get("data__codec", "msra"))
    image = crops.flip(-1).permute(0, 3, 1, 2).float().contiguous() if use == "rtmlib" else crops
    parts = [run(file, part) for part in image.split(40)]
    agree(file, crops, *(torch.cat([part[i] for part in parts]) for i in (-2, -1)), least=0.99)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("skeleton", [CRATE, HAND, DOG], ids=lambda skeleton: skeleton.name)
def test_any_skeleton_and_a_second_student_from_s3(skeleton: Skeleton, s3: str, tmp_path: Path) -> None:
    """A run with two students on S3: what is exported is the one that was asked for."""
    students = [weights_file(tmp_path / f"{seed}.safetensors", skeleton, seed=seed) for seed in (1, 2)]
    first, second = (stored_weights.load(str(student)) for student in students)
    both = {f"net{n}.{key}": value for n, one in enumerate((first, second), 1) for key, value in one.tensors.items()}
    said = {"config": dataclasses.asdict(first.config), "skeleton": skeleton_to_dict(skeleton), "evaluated": "model"}
    checkpoint.save(f"{s3}/run", step=7, attempt="a", tensors={"model": both}, state={}, manifest=said, keep=1)
    export.main([f"{s3}/run", "--net", "2", "-o", str(tmp_path / "m.pt2")])
    students[1].rename(tmp_path / "m.safetensors")
    crops = programs.drawn_crops(3, hw=(32, 32))
    with programs.quiet():
        agree(tmp_path / "m.pt2", crops, *torch.export.load(tmp_path / "m.pt2").module()(crops), least=0.5)
