"""``icon-dist fetch --hf``: a folder that transformers opens, with our heatmaps, or one line and nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from icon_dist import fetch
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.errors import CheckpointError, ConfigError, StorageError
from icon_dist.models import from_config
from icon_dist.models.pretrained import adapt
from tests.runs.export.trained import fetched

VIT = {"model__backbone": "vit_s6", "data__input": "64x64", "data__codec": "udp"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched(tmp_path_factory.mktemp("vit") / "m.safetensors", **VIT)


def test_the_folder_holds_the_weights_under_transformers_names(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "pose"
    fetch.main([str(model), "--hf", str(out)])
    assert {path.name for path in out.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    assert list(out.parent.iterdir()) == [out]
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: step 7, AP 50.0, config.json, preprocessor_config.json, model.safetens")
    assert printed.err == ""
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    weights = stored_weights.load(str(model))
    ours = from_config.restore(weights)
    adapted = adapt(tensors, ours, name="x.safetensors")
    assert (adapted.kind.name, adapted.new, adapted.dropped) == ("transformers VitPose", [], [])
    assert all(torch.equal(adapted.state[name], value) for name, value in ours.state_dict().items())
    config = json.loads((out / "config.json").read_text())
    size = {key: config["backbone_config"][key] for key in ("hidden_size", "num_attention_heads", "image_size")}
    assert size == {"hidden_size": 384, "num_attention_heads": 6, "image_size": [64, 64]}
    assert list(config["id2label"].values()) == list(weights.skeleton.joints)
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 64, "width": 64}
    assert processor["image_mean"] == [0.485, 0.456, 0.406]
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert 'VitPoseForPoseEstimation.from_pretrained("pose")' in card


def test_transformers_gives_our_heatmaps(model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: no outside oracle")
    fetch.main([str(model), "--hf", str(tmp_path / "pose")])
    theirs, info = transformers.VitPoseForPoseEstimation.from_pretrained(tmp_path / "pose", output_loading_info=True)
    assert not any(info.values()), info
    ours = from_config.restore(stored_weights.load(str(model))).eval()
    image = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = ours(image).heatmaps
        found = theirs.eval()(ours.normalize(image)).heatmaps
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    processor = transformers.VitPoseImageProcessor.from_pretrained(tmp_path / "pose")
    assert processor.size == {"height": 64, "width": 64}
    pixels = processor(np.zeros((80, 90, 3), np.uint8), boxes=[[[10, 10, 30, 40]]], return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels, ours.normalize(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)))


def test_another_codec_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fetched(tmp_path / "m.safetensors", **VIT | {"data__codec": "dark"})
    fetch.main([str(file), "--hf", str(tmp_path / "pose")])
    assert "as data.codec=udp does, and these weights learned dark: heatmaps are the same" in capsys.readouterr().err


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    file = fetched(tmp_path / "m.safetensors")
    with pytest.raises(
        ConfigError, match=r"^--hf: transformers has no resnet18, only vit_s, .* -o FILE.safetensors keep"
    ):
        fetch.main([str(file), "--hf", str(tmp_path / "pose")])
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_bad_calls_write_nothing(model: Path, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    for out, kind, says in (
        (full, StorageError, "full: exists; give another name"),
        (file, StorageError, "file: exists; give another name"),
        (file / "below", StorageError, "file: is a file, not a folder"),
        ("s3://bucket/pose", ConfigError, "transformers opens a folder of this machine"),
    ):
        with pytest.raises(kind, match=says):
            fetch.main([str(model), "--hf", str(out)])
    with pytest.raises(ConfigError, match="--hf, -o: two places"):
        fetch.main([str(model), "--hf", str(tmp_path / "a"), "-o", str(tmp_path / "b.safetensors")])
    with pytest.raises(CheckpointError, match="nothing is there; check the path"):
        fetch.main([str(tmp_path / "none"), "--hf", str(tmp_path / "a")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_an_empty_folder_is_taken_and_a_broken_write_leaves_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icon_dist.storage import local

    empty = tmp_path / "pose"
    empty.mkdir()
    write = local.write

    def full(path: Path, data: bytes) -> None:
        if path.name == "model.safetensors":
            raise StorageError("disk full")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(local, "write", full)
        with pytest.raises(StorageError, match="disk full"):
            fetch.main([str(model), "--hf", str(empty)])
    assert list(tmp_path.rglob("*")) == [empty]
    fetch.main([str(model), "--hf", str(empty)])
    assert len(list(empty.iterdir())) == 4
