"""Public weights become a model to predict with: ``icon-dist fetch FILE --cfg PRESET``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import icon_dist
from icon_dist import fetch
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.errors import CheckpointError, ConfigError
from icon_dist.inference import trained
from icon_dist.models import Heads, PoseNet, build_model
from tests.runs.export.trained import fetched as written
from tests.support.paths import ROOT

SMALL = ["model.backbone=hrnet_w8", "data.input=64x64"]


@pytest.fixture(scope="module")
def official() -> PoseNet:
    torch.manual_seed(0)
    model = build_model("hrnet_w8", Heads(joints=17, projection=None, input_hw=(64, 64)))
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def public(official: PoseNet, tmp_path: Path) -> Path:
    """What MMPose 0.x saves of it."""
    heads = {name: f"keypoint_head.{name}" for name in ("final_layer.weight", "final_layer.bias")}
    state = {heads.get(name, f"backbone.{name}"): value for name, value in official.state_dict().items()}
    torch.save({"meta": {"epoch": 210}, "state_dict": state}, tmp_path / "public.pth")
    return tmp_path / "public.pth"


def heatmaps(model: PoseNet, crops: Tensor) -> Tensor:
    with torch.no_grad():
        return model(crops).heatmaps


def test_it_predicts_as_its_own_code_does(
    public: Path, official: PoseNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w8.safetensors"
    fetch.main([str(public), "--cfg", "coco", *SMALL, "-o", str(out)])
    assert capsys.readouterr().out.startswith(f"{out}: MMPose 0.x HRNet, 17 joints, ")
    found = trained.load(str(out))
    crops = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(heatmaps(found.model, crops), heatmaps(official, crops))
    assert (found.weights.step, found.weights.score, found.codec.name) == (0, None, "msra")
    card = out.with_suffix(".md").read_text()
    assert f"| Weights, not trained further | MMPose 0.x HRNet from {public}".replace("_", r"\_") in card
    assert "Manifest" not in card

    again = tmp_path / "again.safetensors"
    fetch.main([str(public), "--cfg", "coco", *SMALL, "-o", str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_real_weights_find_real_people(shared: Path, tmp_path: Path) -> None:
    """Of 12 joints that COCO and Leeds Sports Pose share, most lie within a fifth of the torso."""
    public = ROOT.parent / "shared" / "weights" / "movenet_thunder_fp16.safetensors"
    if not public.is_file():
        pytest.skip("no weights of MoveNet Thunder beside the checkout")
    out = tmp_path / "thunder.safetensors"
    fetch.main([str(public), "--cfg", "coco", "model.backbone=movenet_thunder", "data.input=256x256", "-o", str(out)])
    pose = icon_dist.load(str(out), device="cpu")
    truth = json.loads((shared / "lsp" / "lsp_train.json").read_text())
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    near = []
    for person in truth["annotations"][:12]:
        poses = pose(shared / "lsp" / "images" / files[person["image_id"]], boxes=[person["bbox"]])
        found = dict(zip(poses.names, poses.xy[0], strict=True))
        joints = np.reshape(person["keypoints"], (-1, 3))[:, :2]
        true = dict(zip(truth["categories"][0]["keypoints"], joints, strict=True))
        torso = np.linalg.norm(true["left_shoulder"] - true["right_hip"])
        near += [np.linalg.norm(found[name] - true[name]) < 0.2 * torso for name in true if name in found]
    assert len(near) == 12 * 12
    assert np.mean(near) > 0.7, "82 % of 1,000 people in docs/pretrained.md; with 12 people the error is 3 %"


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (
            ["--cfg", "crowdpose_opecnet", "model.backbone=hrnet_w8"],
            CheckpointError,
            "without joints head, neck of data.dataset=",
        ),
        (["--cfg", "lsp", *SMALL], ConfigError, "data.dataset=custom: its joints are those of shards"),
        (["--cfg", "coco"], CheckpointError, "in hrnet_w32; set the model.backbone it was trained as"),
        (SMALL, ConfigError, "unrecognized arguments: .*for public weights and want --cfg"),
        (["--cfg", "coco", *SMALL, "--best"], ConfigError, "--cfg: is for a file of public weights, without"),
        ([], CheckpointError, "for weights of others: icon-dist fetch FILE --cfg PRESET -o NEW.safetensors"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(
    public: Path, words: list[str], error: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=text):
        fetch.main([str(public), *words, "-o", str(tmp_path / "out.safetensors")])
    assert list(tmp_path.iterdir()) == [public]


def test_weights_without_a_head_are_trained_first(official: PoseNet, tmp_path: Path) -> None:
    state = {name: value for name, value in official.state_dict().items() if not name.startswith("final_layer.")}
    torch.save(state, tmp_path / "imagenet.pth")
    words = ["--cfg", "coco", *SMALL, "-o", str(tmp_path / "out.safetensors")]
    with pytest.raises(CheckpointError, match=r"ImageNet HRNet without final_layer; train from it with model\.pret"):
        fetch.main([str(tmp_path / "imagenet.pth"), *words])


def test_vitpose_was_trained_with_udp(tmp_path: Path) -> None:
    """And what was written for transformers comes back."""
    own = written(tmp_path / "own.safetensors", model__backbone="vit_s", data__codec="udp")
    fetch.main([str(own), "--hf", str(tmp_path / "folder")])
    public = str(tmp_path / "folder" / "model.safetensors")
    words = [public, "--cfg", "coco", "model.backbone=vit_s", "data.input=64x64"]
    out = str(tmp_path / "back.safetensors")
    with pytest.raises(ConfigError, match="is transformers VitPose, trained with udp; set it"):
        fetch.main([*words, "-o", out])
    fetch.main([*words, "data.codec=udp", "-o", out])
    back, before = stored_weights.load(out).tensors, stored_weights.load(str(own)).tensors
    assert all(torch.equal(value, before[name]) for name, value in back.items() if "num_batches" not in name)
