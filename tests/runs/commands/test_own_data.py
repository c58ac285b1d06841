"""``shards build`` of YOLO and Label Studio sets as a user types it: what is derived, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icon_dist.datasets import load_skeleton
from icon_dist.shards.shard_set import open_shards
from tests.support.builds import call, digests

POSE = "0 0.5 0.5 0.6 0.8 0.5 0.2 2 0.3 0.5 2 0.7 0.8 1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A YOLO set of three photos to train on and one to validate, and the same first photo in Label Studio."""
    random = np.random.default_rng(0)
    for number, split in enumerate(("train", "train", "train", "val")):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{split}/{number}.jpg")
        (tmp_path / f"labels/{split}/{number}.txt").write_text(f"{POSE}\n" * (number != 1))
    lines = ["path: .", "train: images/train", "val: images/val", "kpt_shape: [3, 3]", "names: [bird]"]
    (tmp_path / "data.yaml").write_text("\n".join([*lines, "kpt_names: [beak, left_wing, right_wing]"]))
    return tmp_path


def test_yolo(folder: Path) -> None:
    done = call("build.py", "yolo", "data.yaml", "--out", "train", "--jobs", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train: 2 people, 1 shard")
    assert "note: data.yaml: split train is read; --split val for the other photos" in done.stderr
    assert "skeleton derived: 3 joints; 1 pair of left and right by the names; 2 bones, estimated" in done.stderr
    shards = open_shards(str(folder / "train"))
    assert (shards.manifest["dataset"], shards.manifest["split"]) == ("custom", "train")
    assert load_skeleton(folder / "train/skeleton.yaml") == shards.skeleton
    sound = call("verify.py", "train", cwd=folder)
    assert "2 bones, estimated" in sound.stderr
    assert sound.returncode == 0, sound.stdout
    (folder / "train/skeleton.yaml").write_text("mine")
    again = call("build.py", "yolo", "data.yaml", "--out", "train", "--jobs", 1, cwd=folder)
    assert "already complete" in again.stdout
    assert (folder / "train/skeleton.yaml").read_text() == "mine"


def test_both_splits_with_one_skeleton(folder: Path) -> None:
    """The bytes of a set do not depend on whether its skeleton was derived or given, but for what notes say of it."""
    first = ["yolo", "data.yaml", "--jobs", 1, "--limit", 1]
    assert call("build.py", *first, "--out", "a", "--sigmas", ".04", cwd=folder).returncode == 0
    given = ("--skeleton", "a/skeleton.yaml")
    assert call("build.py", *first, "--out", "b", *given, cwd=folder).returncode == 0
    assert call("build.py", "yolo", "data.yaml", "--split", "val", "--out", "v", *given, cwd=folder).returncode == 0
    mine, other, val = (open_shards(str(folder / name)) for name in "abv")
    assert mine.skeleton == other.skeleton == val.skeleton
    assert set(mine.skeleton.sigmas) == {0.04}
    assert digests(folder / "a")["shard-00000.tar"] == digests(folder / "b")["shard-00000.tar"]
    assert not (folder / "b/skeleton.yaml").exists()
    assert val.manifest["split"] == "val"


def test_label_studio(folder: Path) -> None:
    value = {"original_width": 120, "original_height": 90, "type": "keypointlabels"}
    points = ((50, 20, "beak"), (30, 50, "left_wing"), (70, 80, "right_wing"))
    result = [value | {"id": name, "value": {"x": x, "y": y, "keypointlabels": [name]}} for x, y, name in points]
    tasks = [{"id": 3, "data": {"image": "s3://b/0.jpg"}, "annotations": [{"result": result}], "predictions": []}]
    (folder / "export.json").write_text(json.dumps(tasks))
    files = ["labelstudio", "export.json", "--images", "images/train"]
    done = call("build.py", *files, "--out", "ls", "--jobs", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert call("build.py", "yolo", "data.yaml", "--out", "yolo", "--jobs", 1, cwd=folder).returncode == 0
    one, two = open_shards(str(folder / "ls")), open_shards(str(folder / "yolo"))
    assert one.skeleton.joints == two.skeleton.joints
    row = [*two.key].index("000000001")
    np.testing.assert_allclose(one.keypoints[0, :, :2], two.keypoints[row, :, :2], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["yolo", "--out", "x"], 2, "the following arguments are required: --annotations"),
        (["labelstudio", "e.json", "--out", "x"], 2, "the following arguments are required: --images"),
        (["yolo", "data.yaml", "--out", "x", "--sigmas", "7"], 2, "expected numbers from .001 to 1"),
        (["yolo", "data.yaml", "--out", "x", "--sigmas", ".1,.2"], 2, "--sigmas: 2 numbers, 3 joints; give one, or"),
        (
            ["yolo", "data.yaml", "--out", "x", "--sigmas", ".1", "--skeleton", "lsp"],
            2,
            "has its own, change",
        ),
        (
            ["coco", "data.yaml", "--images", ".", "--out", "x", "--sigmas", ".1"],
            2,
            "dataset coco has no use for sigmas",
        ),
        (["yolo", "none.yaml", "--out", "x"], 3, "none.yaml: no such file"),
        (
            ["yolo", "images", "--out", "x"],
            3,
            "images: no data.yaml and no classes.txt in this folder; give the path of a data.yaml",
        ),
        (["yolo", "data.yaml", "--out", "x", "--split", "tset"], 3, "no split 'tset'"),
        (["yolo", "data.yaml", "--out", "x", "--images", "labels"], 3, "no such folder or list in"),
    ],
)
def test_one_line_and_nothing_written(folder: Path, words: list[str], code: int, message: str) -> None:
    done = call("build.py", *words, cwd=folder)
    *_, last = done.stderr.splitlines()
    assert done.returncode == code
    assert message in last
    assert done.stderr.count("icon_dist: error:") == 1
    assert not (folder / "x").exists()
