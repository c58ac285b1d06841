"""What build and verify say about the annotation files that tools write, on the small ones of ``shared/cases``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import yaml

from icon_dist.command_exit import run_cli
from icon_dist.shards import build, verify
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import open_shards


class Result(NamedTuple):
    code: int
    out: str
    notes: list[str]  # lines on stderr, without what packing says

    @property
    def found(self) -> list[str]:
        return [line.removeprefix("FOUND ") for line in self.out.splitlines() if line.startswith("FOUND")]


def call(main: Any, *arguments: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        run_cli(main, [*map(str, arguments)])
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("packed")]
    return Result(int(left.value.code or 0), out.getvalue(), lines)


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    folder = shared.parent / "cases"
    if not folder.is_dir():
        pytest.skip("no small cases beside the checkout")
    return folder


@pytest.fixture
def photos(shared: Path, tmp_path: Path) -> Path:
    """The four photos under the names that the cases use, and gray ones for other skeletons."""
    folder = Path(shutil.copytree(shared / "coco/four/images", tmp_path / "photos"))
    (folder / "train").mkdir()
    for photo in list(folder.glob("*.jpg")):
        shutil.copy(photo, folder / "train" / photo.name)
        shutil.copy(photo, folder / f"2021-05-01 12:30:05 {photo.name}")
    for i in range(30):
        cv2.imwrite(str(folder / f"p{i:03d}.jpg"), np.full((120, 140, 3), 100, np.uint8))
    return folder


def built(photos: Path, file: Path, out: Path, *more: object, dataset: str = "coco") -> Result:
    small = ("--jobs", 1, "--max-input", "64x64")
    return call(build.main, dataset, "--annotations", file, "--images", photos, "--out", out, *small, *more)


AREA = "area of {} of 14 annotations taken from the box, width x height: {}"
NOTED = {  # name of the file: people packed, people in the truth, notes
    "area_zero_some": (12, 14, [AREA.format(6, "6 with 0 or less")]),
    "area_zero_all": (12, 14, [AREA.format(12, "12 with 0 or less")]),
    "kp_only_bbox0": (
        12,
        14,
        ["bbox of 12 people missing or empty; taken around", AREA.format(12, "12 with 0 or less")],
    ),
    "no_area": (12, 14, [AREA.format(14, "14 missing")]),
    "no_wh": (12, 14, ["4 images without width and height; taken from the photos"]),
    "v1_only": (12, 14, ["no joint has v=2, so none counts as visible for contrast; train with loss.counted=labelled"]),
    "kp_outside": (12, 14, ["12 of 181 labelled joints further outside the image than it is large"]),
    "roboflow_super": (
        12,
        14,
        ["left out 1 category without annotations, not of the joints of skeleton coco: 'people'"],
    ),
    "cat0_nocrowd": (12, 14, []),
    "numkp_total": (12, 14, ["num_keypoints of 12 annotations is not the number of joints with v > 0; recounted"]),
    "box_only": (12, 15, []),
    "kp_empty": (12, 15, []),
    "names_backslash": (12, 14, ["4 file names with a backslash; read with '/' between folders"]),
    "names_colon": (12, 14, []),
}


@pytest.mark.parametrize("name", list(NOTED))
def test_files_that_are_read_with_a_note(name: str, cases: Path, photos: Path, tmp_path: Path) -> None:
    packed, people, texts = NOTED[name]
    result = built(photos, cases / "annotations" / f"{name}.json", tmp_path / "out")
    assert result.code == 0
    assert f"out: {packed} of {people} people ({people - packed} without joints), 1 shard," in result.out
    checked = call(verify.main, tmp_path / "out")
    assert (checked.code, checked.found) == (0, [])
    assert result.notes == checked.notes, "the two never disagree"
    assert len(result.notes) == len(texts)
    assert all(n.startswith("icon_dist: note: ") and t in n for n, t in zip(result.notes, texts, strict=True))
    truth, shards = read_truth(str(tmp_path / "out")), open_shards(str(tmp_path / "out"))
    scored = {a["id"]: a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]}
    assert set(scored) == set(shards.instance.tolist()), "who counts is trained on"
    assert [scored[i]["area"] for i in shards.instance.tolist()] == shards.area.tolist()
    assert shards.area.min() > 0


FOUND = {
    "bbox_xyxy": (12, "boxes look like x1, y1, x2, y2: read so they fit for 12 of 12 people"),
    "percent_kp": (12, "joints look like percent of the image: read so they fit for 12 of 12 people"),
    "dup_ann": (13, "1 person is in the set twice, with equal joints in the same photo (ids 442619 and 100442619"),
}


@pytest.mark.parametrize("name", list(FOUND))
def test_files_that_are_certainly_wrong(name: str, cases: Path, photos: Path, tmp_path: Path) -> None:
    packed, text = FOUND[name]
    result = built(photos, cases / "annotations" / f"{name}.json", tmp_path / "out")
    assert (result.code, len(open_shards(str(tmp_path / "out")))) == (0, packed)
    (note,) = result.notes
    assert note.startswith(f"icon_dist: note: {text}")
    checked = call(verify.main, tmp_path / "out")
    assert checked.code == 3
    assert checked.found == [note.removeprefix("icon_dist: note: ")]
    assert "1 finding, listed above" in checked.notes[-1]


def test_category_0_is_remembered(cases: Path, photos: Path, tmp_path: Path) -> None:
    built(photos, cases / "annotations/cat0_nocrowd.json", tmp_path / "out")
    assert read_truth(str(tmp_path / "out"))["categories"] == [{"id": 0, "name": "person"}]


def test_a_torso_that_nobody_has(cases: Path, photos: Path, tmp_path: Path) -> None:
    file = cases / "annotations/torso_unlabelled.json"
    names = json.loads(file.read_text())["categories"][0]["keypoints"]
    fields: dict[str, Any] = {key: [] for key in ("flips", "limbs", "bones", "upper", "lower")}
    hand = {**fields, "name": "hand", "joints": names, "sigmas": [0.05] * 21, "visible_at": 1, "metric": "pck"}
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump({**hand, "torso": ["wrist", "middle1"]}))
    options = ("--skeleton", tmp_path / "hand.yaml")
    (note,) = built(photos, file, tmp_path / "out", *options, dataset="custom").notes
    assert "nobody has both wrist and middle1, which PCK measures by" in note
    checked = call(verify.main, tmp_path / "out")
    assert (checked.code, checked.notes) == (0, [note])


@pytest.mark.parametrize("name", ["animal", "object4_nolimb"])
def test_other_skeletons_are_not_accused(name: str, cases: Path, photos: Path, tmp_path: Path) -> None:
    folder = cases / "skeletons" / name
    options = ("--skeleton", folder / "skeleton.yaml")
    assert built(photos, folder / "ann.json", tmp_path / "out", *options, dataset="custom").notes == []
    checked = call(verify.main, tmp_path / "out")
    assert (checked.code, checked.found, checked.notes) == (0, [], [])


def test_what_is_no_file_ends_at_once(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        result = built(photos, path, tmp_path / "out")
        assert result.code == 3
        (line,) = result.notes
        assert line.startswith(f"icon_dist: error: {path}: is a ")
        assert not (tmp_path / "out").exists()


def test_dropped_entries_and_nobody_left(cases: Path, photos: Path, tmp_path: Path) -> None:
    """``--drop-invalid`` leaves out what is invalid and nothing else; one line if that is everybody."""
    document = json.loads((cases / "annotations/no_area.json").read_text())
    document["annotations"][0]["keypoints"] = ["x"] * 51
    (tmp_path / "one.json").write_text(json.dumps(document))
    result = built(photos, tmp_path / "one.json", tmp_path / "out", "--drop-invalid")
    assert result.code == 0
    assert "out: 11 of 13 people (2 without joints), 1 shard" in result.out
    for one in document["annotations"]:
        one["id"] = str(one["id"])
    (tmp_path / "all.json").write_text(json.dumps(document))
    result = built(photos, tmp_path / "all.json", tmp_path / "other", "--drop-invalid")
    assert result.code == 3
    (line,) = result.notes
    assert "14 annotations, dropped 14 invalid entries; the first: ann number 0 id='" in line
