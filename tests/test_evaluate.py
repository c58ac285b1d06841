"""``icon_dist.evaluate`` against the numbers of the run itself, and against shards packed from the same boxes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from icon_dist import config as configuration
from icon_dist import evaluate
from icon_dist.data import people as packing
from icon_dist.data.pack import Settings, build
from icon_dist.data.reading import photo_source
from icon_dist.data.shard import open_shards
from icon_dist.datasets import read, skeleton_from_dict
from icon_dist.errors import CheckpointError, ConfigError, DataError
from icon_dist.fetch import load_weights
from icon_dist.fetch import main as fetch
from tests.gang import run_gang, tiny


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    run_gang(tiny(people, folder, run__name="short", optim__epochs=1), scratch=folder)
    return folder / "short"


def scores_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    evaluate.main([*arguments, "--loaders", "0"])
    lines = capsys.readouterr().out.splitlines()
    return {line.split("  ")[0]: float(line.split("split=")[0].split()[-1]) for line in lines}


def test_one_process_scores_what_two_ranks_scored(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = next(event for event in events if event["kind"] == "eval")
    fetch([str(run), "--best", "-o", str(tmp_path / "best.safetensors")])
    capsys.readouterr()
    result, picture = tmp_path / "result.json", tmp_path / "poses.png"
    for checkpoint in (run, tmp_path / "best.safetensors"):
        found = scores_of(
            capsys, str(checkpoint), "--shards", f"{people}/val", "--json", str(result), "--picture", str(picture)
        )
        assert found == pytest.approx(logged["scores"], abs=1e-4)
    written = json.loads(result.read_text())
    assert written["scores"] == pytest.approx(logged["scores"])
    assert "split=val boxes=gt flip=yes decode=quarter evaluator=" in written["conditions"]
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.shape[0] > 256


def test_every_line_names_its_conditions(run: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(run), "--shards", f"{people}/val", "--no-flip", "--decode", "argmax", "--limit", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("PCK@0.2 ") for line in lines)
    assert all("split=val boxes=gt flip=no decode=argmax evaluator=icon_dist limit=5" in line for line in lines)


def test_a_limit_takes_whole_photos(people: Path) -> None:
    shards = open_shards(f"{people}/val")
    for limit in (1, 3, 10, len(shards)):
        rows = evaluate.first_photos(shards, limit)
        inside = np.isin(shards.image_id, shards.image_id[rows])
        assert inside.nonzero()[0].tolist() == rows.tolist(), "a photo with part of its people"
        assert limit <= len(rows) <= limit + 3


def test_a_detectors_boxes_on_photos_and_in_shards_agree(
    run: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = shared / "coco" / "four"
    truth = read("coco", four / "person_keypoints.json", images=four / "images")
    loose = Settings(max_input=None)
    build(truth, str(four / "images"), str(tmp_path / "gt"), dataset="coco", split="four", settings=loose)
    boxes = packing.detected(truth, str(four / "detections.json"))
    packed = str(tmp_path / "boxes")
    build(boxes, str(four / "images"), packed, dataset="coco", split="four", boxes="detections", settings=loose)

    tensors, metadata = load_weights(str(run))
    config, skeleton = configuration.from_dict(metadata["config"]), skeleton_from_dict(metadata["skeleton"])
    model = evaluate.load_model(config, skeleton, tensors, colour="rgb").eval()
    ours = []
    for people in (photo_source(str(four / "images"), boxes.instances, skeleton=truth.skeleton), open_shards(packed)):
        _, predictions = evaluate.evaluate(
            model,
            people,
            truth.truth,
            input_hw=config.input_hw,
            stride=model.stride,
            codec=config.data.codec,
            sigma=config.data.sigma,
            settings=config.eval,
            loaders=0,
            device="cpu",
        )
        ours.append(predictions)
    photos, shards = ours
    np.testing.assert_array_equal(photos.instance, shards.instance)
    np.testing.assert_allclose(photos.box_score, shards.box_score)
    assert len(set(photos.box_score.tolist())) > 10, "the detector's own scores"
    moved = np.linalg.norm((photos.keypoints - shards.keypoints)[..., :2], axis=-1) / np.sqrt(photos.area)[:, None]
    assert np.median(moved) < 1e-3  # JPEG windows against whole photos: of so weak a net, some peaks jump a pixel
    assert np.mean(moved < 0.1) > 0.8

    arguments = ["--shards", str(tmp_path / "gt"), "--boxes", str(four / "detections.json"), "--images"]
    evaluate.main([str(run), *arguments, str(four / "images"), "--loaders", "0"])
    assert "split=four boxes=detections.json flip=yes" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--images DIR"):
        evaluate.main([str(run), *arguments[:-1]])


def test_refusals(run: Path, people: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a weights file nor a run"):
        evaluate.main([str(tmp_path / "none"), "--shards", f"{people}/val"])
    with pytest.raises(DataError, match=r"build\.py"):
        evaluate.main([str(run), "--shards", str(tmp_path / "none")])
    lsp = packing.first(read("custom", shared / "lsp" / "lsp_train.json", skeleton="lsp"), 4)
    build(lsp, str(shared / "lsp" / "images"), str(tmp_path / "lsp"), dataset="custom", split="lsp")
    with pytest.raises(CheckpointError, match=r"predicts 17 joints of fake.*14 of lsp"):
        evaluate.main([str(run), "--shards", str(tmp_path / "lsp")])
