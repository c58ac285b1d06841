"""``evaluate --calibrate``: the file beside the model, and who reads it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import icon_dist
from icon_dist import evaluate, fetch
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.config import load
from icon_dist.errors import CheckpointError, ConfigError, DataError
from icon_dist.inference import calibration_file
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.metrics.calibration import probabilities
from icon_dist.training.loop import run_directory
from tests.support import small_sets, two_sets
from tests.support.small_sets import TRAINING

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def place(module_path: Path) -> Path:
    """A run, and ``hands``, the set it is of."""
    uri = two_sets.hands(module_path)
    small = ("run.zero=0", "loss.lambda_p=0", "optim.warmup_steps=0", "optim.ema=0", "data.val=")
    cfg = load("lsp", [*TRAINING, *small, f"data.train={uri}", f"run.dir={module_path}", "run.name=run"])
    launch(cfg, "icon_dist.training.loop:train", Logger(run_directory(cfg)))
    fetch.main([f"{module_path}/run", "--last", "-o", f"{module_path}/model.safetensors"])
    return module_path


def test_the_file_is_written_read_and_said(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copy(place / "model.safetensors", tmp_path / "model.safetensors")
    photo = next((place / "hands-photos").glob("*.jpg"))
    plain = icon_dist.load(model)
    before = plain(str(photo))
    assert "scores" not in plain.conditions
    capsys.readouterr()
    words = [str(model), "--shards", str(place / "hands"), "--loaders", "0", "--json", str(tmp_path / "s.json")]
    evaluate.main([*words, "--calibrate", "--diagnose", str(tmp_path / "page")])
    said = capsys.readouterr().out
    assert "of heatmap peaks" in said
    assert "(held out: 5 parts of the images)" in said
    assert "model.calibration.json" in said.splitlines()[-1]
    page = (tmp_path / "page" / "diagnosis.html").read_text()
    assert "Are scores probabilities?" in page
    assert "within 0.2 of the torso" in page
    numbers = json.loads((tmp_path / "s.json").read_text())["calibration"]
    assert numbers["joints"] == sum(row["joints"] for row in numbers["per_joint"].values()) == 6 * 4

    weights = stored_weights.load(str(model))
    known = calibration_file.read(str(model), weights)
    assert known is not None
    assert known.joints == two_sets.HANDS.joints
    for flip in (False, True):
        pose = icon_dist.load(model, flip=flip)
        assert pose.conditions["scores"] == "probabilities"
        if not flip:
            after = pose(str(photo))
            np.testing.assert_array_equal(after.xy, before.xy)
            expected = np.where(before.scores > 0, probabilities(before.scores, known.of(flip=False)), 0)
            np.testing.assert_allclose(after.scores, expected, atol=1e-6)
    evaluate.main([*words, "--force"])
    assert "once calibrated (by the file beside the model)" in capsys.readouterr().out


def test_suspects_by_two_runs(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run has learnt these people; a copy of it that says that it has not judges them."""
    weights = stored_weights.load(str(place / "model.safetensors"))
    (tmp_path / "other.safetensors").write_bytes(stored_weights.encode(dataclasses.replace(weights, index="0" * 64)))
    words = [
        str(place / "run"),
        "--shards",
        str(place / "hands"),
        "--loaders",
        "0",
        "--diagnose",
        str(tmp_path / "page"),
    ]
    evaluate.main(words)
    assert "6 people of these were learnt, perhaps with a wrong label" in capsys.readouterr().err
    evaluate.main([*words, "--force", "--second", str(tmp_path / "other.safetensors")])
    said = capsys.readouterr().err
    assert "predicting by" in said
    assert "were learnt" not in said
    assert "Whose labels look wrong?" in (tmp_path / "page" / "diagnosis.html").read_text()
    assert isinstance(json.loads((tmp_path / "page" / "diagnosis.json").read_text())["suspects"], list)


def test_a_run_keeps_it_and_a_fetched_file_brings_it(place: Path, tmp_path: Path) -> None:
    evaluate.main([str(place / "run"), "--shards", str(place / "hands"), "--loaders", "0", "--calibrate"])
    file = tmp_path / "again.safetensors"
    fetch.main([str(place / "run"), "--last", "-o", str(file)])
    assert icon_dist.load(file).conditions["scores"] == "probabilities"
    (place / "run" / "calibration.json").unlink()


def test_of_other_weights_and_damaged(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copy(place / "model.safetensors", tmp_path / "model.safetensors")
    beside = tmp_path / "model.calibration.json"
    curve = {"peak": [0.1, 0.5], "probability": [0.2, 0.9]}
    weights = stored_weights.load(str(model))
    good = {
        "format": 1,
        "manifest_sha256": weights.manifest_sha256,
        "joints": [*two_sets.HANDS.joints],
        "curves": {"flip": [curve] * 4, "plain": [curve] * 4},
    }
    beside.write_text(json.dumps(good))
    assert icon_dist.load(model).conditions["scores"] == "probabilities"
    for change in ({"manifest_sha256": "0" * 64}, {"joints": ["a", "b", "c", "d"]}):
        beside.write_text(json.dumps(good | change))
        capsys.readouterr()
        assert "scores" not in icon_dist.load(model).conditions
        assert "is of another checkpoint and not applied" in capsys.readouterr().err
    bad = [
        *("", "[]", "null", "{", "[" * 100_000),
        *(json.dumps(good | {"format": 2}), json.dumps(good | {"joints": [1, 2, 3, 4]})),
        json.dumps(good | {"curves": {"flip": [curve] * 4, "plain": [curve] * 3}}),
    ]
    wrongs = (
        {"peak": [0.5, 0.1]}, {"probability": [0.9, 0.2]}, {"probability": [0.2, 1.5]}, {"peak": [0.1]},
        {"peak": [], "probability": []}, {"peak": ["0", 1]}, {"peak": [0.1, float("nan")]}, {"peak": "01"},
    )  # fmt: skip
    curves = [{"flip": [curve] * 4, "plain": [curve | wrong] * 4} for wrong in wrongs]
    bad += [json.dumps(good | {"curves": one}) for one in curves]
    for text in bad:
        beside.write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.calibration\.json: no calibration, or damaged"):
            icon_dist.load(model)


def test_what_cannot_be_calibrated(place: Path, tmp_path: Path) -> None:
    words = [str(place / "model.safetensors"), "--shards", str(place / "hands"), "--calibrate"]
    with pytest.raises(ConfigError, match=r"--calibrate: needs annotated people .* leave --boxes found\.json out"):
        evaluate.main([*words, "--boxes", "found.json", "--images", str(tmp_path)])
    with pytest.raises(ConfigError, match="--second other: goes with --diagnose DIR"):
        evaluate.main([*words[:3], "--second", "other"])
    with pytest.raises(ConfigError, match="--calibrate --net 2: fetch that network into a file"):
        evaluate.main([*words, "--net", "2"])
    assert not (place / "model.calibration.json").exists()


def test_shards_of_a_detectors_boxes_have_nobody_to_calibrate_by(place: Path, tmp_path: Path) -> None:
    found = small_sets.shards_of(
        dataclasses.replace(two_sets.HANDS, name="found", metric="coco"), tmp_path, boxes="d.json"
    )
    words = [str(place / "model.safetensors"), "--shards", found, "--loaders", "0"]
    evaluate.main(words)
    with pytest.raises(DataError, match=r"the boxes of these shards are d\.json; take shards of annotated people"):
        evaluate.main([*words, "--calibrate"])


def test_joints_that_a_set_does_not_have_share_the_function_of_all(place: Path) -> None:
    """A set of two of the four joints."""
    none: dict[str, tuple[()]] = {"flips": (), "limbs": (), "bones": ()}
    two = dataclasses.replace(
        two_sets.HANDS, name="two", joints=("neck", "tail"), sigmas=(0.1, 0.1), torso=(0, 1), **none
    )
    uri = small_sets.shards_of(two, place, count=6, v=2)
    model = place / "model.safetensors"
    evaluate.main([str(model), "--shards", uri, "--loaders", "0", "--calibrate"])
    known = calibration_file.read(str(model), stored_weights.load(str(model)))
    (place / "model.calibration.json").unlink()
    assert known is not None
    assert len({tuple(curve.peak) for curve in known.of(flip=True)}) == 1
