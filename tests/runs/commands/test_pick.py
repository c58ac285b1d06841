"""``icon-dist pick`` on photos and on shards: tasks, interface and picture; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

import icon_dist
from icon_dist import evaluate, fetch, pick
from icon_dist.config import load
from icon_dist.errors import CheckpointError, ConfigError, DataError
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.shards.shard_set import open_shards
from icon_dist.training.loop import run_directory
from tests.support import two_sets
from tests.support.small_sets import SIDE, TRAINING

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def place(module_path: Path) -> Path:
    """``model.safetensors``, the shards ``hands`` and their photos."""
    uri = two_sets.hands(module_path)
    small = ("run.zero=0", "optim.warmup_steps=0", "loss.skcc.queries=2", "loss.skcc.negatives=2")
    pairs = ("loss.prcc.negatives=2", "loss.start_epoch=0", "loss.ramp_epochs=0")
    cfg = load("lsp", [*TRAINING, *small, *pairs, f"data.train={uri}", f"run.dir={module_path}", "run.name=run"])
    launch(cfg, "icon_dist.training.loop:train", Logger(run_directory(cfg)))
    fetch.main([f"{module_path}/run", "--last", "-o", f"{module_path}/model.safetensors"])
    return module_path


def tasks(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def test_photos(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "next" / "tasks.json"
    model = str(place / "model.safetensors")
    pick.main([model, str(place / "hands-photos"), "-n", "4", "-o", str(out)])
    said = capsys.readouterr()
    assert "4 images of 6 chosen" in said.out
    assert "how far its pose moves in the mirrored image" in said.out
    assert "each whole image is taken for one instance" in said.err
    found = tasks(out)
    assert len({one["data"]["image"] for one in found}) == 4
    assert found[0]["meta"]["doubt"] == max(one["meta"]["doubt"] for one in found)
    names = [one.get("value") for one in ElementTree.parse(out.with_suffix(".xml")).findall("KeyPointLabels/Label")]
    assert names == [*two_sets.HANDS.joints]
    assert cv2.imread(str(out.with_suffix(".jpg"))) is not None
    pose = icon_dist.load(model)
    for one in found:
        file = Path(one["meta"]["file"])
        assert one["data"]["image"] == f"/data/local-files/?d={str(file).lstrip('/')}"
        (predicted,) = one["predictions"]
        points = {r["value"]["keypointlabels"][0]: r for r in predicted["result"] if r["type"] == "keypointlabels"}
        own = pose(str(file))
        for name, (x, y), score in zip(own.names, own.xy[0], own.scores[0], strict=True):
            if name in points:
                value = points[name]["value"]
                np.testing.assert_allclose([value["x"], value["y"]], [100 * x / SIDE, 100 * y / SIDE], atol=0.01)
                assert points[name]["score"] == pytest.approx(float(score), abs=1e-3)


def test_photos_of_one_name_have_the_boxes_of_their_folder(place: Path, tmp_path: Path) -> None:
    some = sorted((place / "hands-photos").iterdir())[:2]
    boxes = {"left": [5, 10, 20, 30], "right": [11, 12, 33, 24]}
    images = [{"id": n, "file_name": f"moved/{side}/a.png"} for n, side in enumerate(boxes)]
    entries = [{"image_id": n, "category_id": 1, "bbox": box} for n, box in enumerate(boxes.values())]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": entries}))
    for photo, side in zip(some, boxes, strict=True):
        (tmp_path / side).mkdir()
        Image.open(photo).save(tmp_path / side / "a.png")
    folders = [str(tmp_path / side) for side in boxes]
    out = tmp_path / "tasks.json"
    pick.main([str(place / "model.safetensors"), *folders, "--boxes", str(tmp_path / "boxes.json"), "-o", str(out)])
    found = {Path(one["meta"]["file"]).parent.name: one["predictions"][0]["result"][0] for one in tasks(out)}
    for side, region in found.items():
        own = [region["value"][key] * SIDE / 100 for key in ("x", "y", "width", "height")]
        assert own == pytest.approx(boxes[side])
    assert found.keys() == boxes.keys()


def test_shards_by_probability(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, uri = str(place / "model.safetensors"), str(place / "hands")
    evaluate.main([model, "--shards", uri, "--loaders", "0", "--calibrate"])
    out = tmp_path / "tasks.json"
    pick.main([model, uri, "-n", "9", "-o", str(out), "--prefix", "https://host/photos/"])
    said = capsys.readouterr()
    assert "-n 9: there are 6 images; all are chosen" in said.err
    assert "1 - probability of its joints" in said.out
    found = tasks(out)
    assert sorted(one["data"]["image"] for one in found) == [f"https://host/photos/{n}.jpg" for n in range(6)]
    for one in found:
        assert one["meta"]["doubt"] == pytest.approx(1 - one["predictions"][0]["score"], abs=1e-3)
    boxes = open_shards(uri).box
    place_of_box = found[0]["predictions"][0]["result"][0]["value"]
    assert place_of_box["width"] == pytest.approx(100 * boxes[0, 2] / SIDE)
    (place / "model.calibration.json").unlink()


def test_several_instances_of_a_photo_are_one_task(place: Path, tmp_path: Path) -> None:
    photos = sorted((place / "hands-photos").glob("*.jpg"))[:2]
    boxes = [{"image_id": 0, "bbox": [5, 5, 40, 40], "category_id": 1, "score": 0.9, "keypoints": []}]
    boxes += [{**boxes[0], "bbox": [30, 30, 50, 60]}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    words = ["--boxes", str(tmp_path / "boxes.json"), "-o", str(tmp_path / "t.json")]
    pick.main([str(place / "model.safetensors"), *map(str, photos), *words])
    (one,) = tasks(tmp_path / "t.json")
    assert [r["id"] for r in one["predictions"][0]["result"] if r["type"] == "rectanglelabels"] == ["i0", "i1"]


def test_a_turned_photo_is_told_of(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label Studio shows it upright, and so are its size and poses."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    pick.main([str(place / "model.safetensors"), str(tmp_path / "a.jpg"), "-o", str(tmp_path / "t.json")])
    assert "1 photo is turned by EXIF; boxes and poses are in px of the upright photo" in capsys.readouterr().err
    (one,) = tasks(tmp_path / "t.json")
    assert {(r["original_width"], r["original_height"]) for r in one["predictions"][0]["result"]} == {(40, 60)}


def test_prefix_is_the_folder_of_photos(place: Path, tmp_path: Path) -> None:
    """Names follow it without the folders of this machine; of several folders, from the one that holds them all."""
    model, photos = str(place / "model.safetensors"), sorted((place / "hands-photos").glob("*.jpg"))[:2]
    for folder, photo in zip(("one", "two"), photos, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / photo.name).write_bytes(photo.read_bytes())
    words = ["--prefix", "https://host/photos", "-o", str(tmp_path / "t.json"), "--force"]
    pick.main([model, str(tmp_path / "one"), *words])
    assert [one["data"]["image"] for one in tasks(tmp_path / "t.json")] == [f"https://host/photos/{photos[0].name}"]
    pick.main([model, str(tmp_path / "one"), str(tmp_path / "two" / photos[1].name), *words])
    expected = {f"https://host/photos/{folder}/{p.name}" for folder, p in zip(("one", "two"), photos, strict=True)}
    assert {one["data"]["image"] for one in tasks(tmp_path / "t.json")} == expected


def test_refusals(place: Path, tmp_path: Path) -> None:
    model, photos, uri = str(place / "model.safetensors"), str(place / "hands-photos"), str(place / "hands")
    with pytest.raises(ConfigError, match=r"-o tasks\.xml: tasks are a JSON file"):
        pick.main([model, photos, "-o", "tasks.xml"])
    (tmp_path / "there.xml").write_text("mine")
    with pytest.raises(ConfigError, match=r"there\.xml exists already; give another name, or --force"):
        pick.main([model, photos, "-o", str(tmp_path / "there.json")])
    out = ["-o", str(tmp_path / "tasks.json")]
    with pytest.raises(ConfigError, match="is a set of shards, which is chosen from by itself"):
        pick.main([model, uri, photos, *out])
    with pytest.raises(ConfigError, match="--boxes whole: shards have boxes of their own"):
        pick.main([model, uri, "--boxes", "whole", *out])
    with pytest.raises(DataError, match="no photos or videos in this folder"):
        pick.main([model, str(tmp_path), *out])
    with pytest.raises(CheckpointError, match="none: nothing is there; check the path"):
        pick.main([str(tmp_path / "none"), photos, *out])
    assert not (tmp_path / "tasks.json").exists()
