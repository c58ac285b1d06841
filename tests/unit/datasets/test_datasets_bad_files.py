"""Every way an annotation file can be wrong is one line that names the file, the entry and the field."""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets.annotation_file import missing_files
from icon_dist.errors import DataError

Document = dict[str, Any]


def person(number: int, image: int) -> dict[str, Any]:
    keypoints = [v for j in range(17) for v in (10 + j, 20 + j, 2)]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [5.0, 6.0, 40.0, 60.0],
        "area": 1200.0,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": keypoints,
        "segmentation": [[0, 0, 1, 1, 2, 2]],
    }


def good() -> Document:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 90} for i in (1, 2)],
        "annotations": [person(16, 1), person(17, 1), person(18, 2)],
        "categories": [{"id": 1, "name": "person"}],
    }


def bad(d: Document, **fields: Any) -> None:
    d["annotations"][1].update(fields)


def joint(d: Document, position: int, value: Any) -> None:
    d["annotations"][1]["keypoints"][position] = value


def photo(d: Document, **fields: Any) -> None:
    d["images"][1].update(fields)


ENTRIES: dict[str, tuple[Callable[[Document], object], str]] = {
    "50 values": (
        lambda d: d["annotations"][1]["keypoints"].pop(),
        r"ann id=17 keypoints: 50 values, expected 51 \(17 x \[x,y,v\]\)",
    ),
    "keypoints is text": (lambda d: bad(d, keypoints="none"), r"ann id=17 keypoints='none': expected a list"),
    "pairs": (
        lambda d: bad(d, keypoints=[[1, 2]] * 17),
        r"ann id=17 keypoints: 17 values, expected 51 .*; without v\?",
    ),
    "flat pairs": (lambda d: bad(d, keypoints=[1, 2] * 17), r"34 values, expected 51 .*; without v\? write 2 behind"),
    "string": (lambda d: joint(d, 0, "12"), r"ann id=17 keypoints: '12' is not a number"),
    "true": (lambda d: joint(d, 0, True), r"ann id=17 keypoints: True is not a number"),
    "null": (lambda d: joint(d, 4, None), r"ann id=17 keypoints: None is not a number"),
    "nested": (lambda d: joint(d, 4, [1]), r"ann id=17 keypoints: \[1\] is not a number"),
    "nan": (lambda d: joint(d, 3, float("nan")), r"ann id=17 keypoints: \[nan, .*\] of left_eye"),
    "infinite": (lambda d: joint(d, 1, float("inf")), r"ann id=17 keypoints: .*inf.* of nose, expected finite"),
    "huge integer": (lambda d: joint(d, 0, 10**400), r"ann id=17 keypoints: .*inf.* of nose"),
    "nan visibility": (lambda d: joint(d, 2, float("nan")), r"ann id=17 keypoints: .* of nose, expected finite"),
    "visibility 7": (lambda d: joint(d, 5, 7), r"ann id=17 keypoints: visibility 7 of left_eye, expected 0, 1 or 2"),
    "visibility .9": (lambda d: joint(d, 2, 0.9), r"visibility 0.9 of nose, .* \(a confidence is no label\)"),
    "visibility 1.5": (lambda d: joint(d, 2, 1.5), r"ann id=17 keypoints: visibility 1.5 of nose"),
    "duplicate id": (lambda d: bad(d, id=16), r"ann id=16 id=16: given twice"),
    "large id": (lambda d: bad(d, id=2**60), r"id=\d+: expected an integer >= 0 and below 2\*\*53"),
    "text id": (lambda d: bad(d, id="17"), r"ann number 1 id='17': expected an integer"),
    "no id": (lambda d: d["annotations"][1].pop("id"), r"ann number 1 id=None"),
    "dangling image": (lambda d: bad(d, image_id=99), r"ann id=17 image_id=99: no such image"),
    "other category": (lambda d: bad(d, category_id=3), r"ann id=17 category_id=3: the only category is 1"),
    "short box": (lambda d: bad(d, bbox=[1, 2, 3]), r"ann id=17 bbox: 3 values, expected 4"),
    "negative box": (lambda d: bad(d, bbox=[1, 2, -3, 4]), r"ann id=17 bbox=\[1.0, 2.0, -3.0, 4.0\]"),
    "nan box": (lambda d: bad(d, bbox=[1, float("nan"), 3, 4]), r"ann id=17 bbox=\[1.0, nan"),
    "sides exchanged": (
        lambda d: bad(d, bbox=[10, 93, 40, 6]),
        r"ann id=17 .* in the 100x90 image; are its width and height exchanged, or is it turned by EXIF",
    ),
    "tiny box": (lambda d: bad(d, bbox=[10, 10, 1, 1]), r"ann id=17 bbox=.*at most one pixel"),
    "empty box, one joint": (
        lambda d: bad(d, bbox=[10, 10, 0, 0], keypoints=[30, 40, 2] + [0] * 48),
        r"ann id=17 bbox: missing or empty, and a single labelled joint gives none",
    ),
    "no box, no joints": (
        lambda d: bad(d, bbox=None, keypoints=[0] * 51),
        r"ann id=17 bbox=None: expected a list of 4 numbers",
    ),
    "box outside": (lambda d: bad(d, bbox=[500, 10, 20, 20]), r"ann id=17 bbox=.*in the 100x90 image"),
    "box is a word": (lambda d: bad(d, bbox="none"), r"ann id=17 bbox='none': expected a list of 4 numbers"),
    "text area": (lambda d: bad(d, area="1200"), r"ann id=17 area='1200': expected a number"),
    "nan area": (lambda d: bad(d, area=float("nan")), r"ann id=17 area=nan"),
    "infinite area": (lambda d: bad(d, area=float("inf")), r"ann id=17 area=inf"),
    "crowd 2": (lambda d: bad(d, iscrowd=2), r"ann id=17 iscrowd=2: expected 0 or 1"),
    "not an object": (lambda d: d["annotations"].__setitem__(1, 5), r"ann number 1 is not an object"),
}
PHOTOS: dict[str, tuple[Callable[[Document], object], str]] = {
    "traversal": (
        lambda d: photo(d, file_name="../2.jpg"),
        r"image id=2 file_name='../2.jpg': leaves the images folder",
    ),
    "inner traversal": (lambda d: photo(d, file_name="a/../../2.jpg"), r"image id=2 file_name=.*leaves"),
    "absolute": (lambda d: photo(d, file_name="/etc/2.jpg"), r"image id=2 file_name='/etc/2.jpg': leaves"),
    "url": (lambda d: photo(d, file_name="http://x/2.jpg"), r"image id=2 file_name=.*is an address"),
    "inner backslash": (lambda d: photo(d, file_name="train\\2.jpg"), r"image id=2 file_name=.*holds a backslash"),
    "windows path": (lambda d: photo(d, file_name="C:\\x\\2.jpg"), r"image id=2 .*is an absolute Windows path"),
    "windows share": (lambda d: photo(d, file_name="\\\\nas\\2.jpg"), r"image id=2 .*is an absolute Windows path"),
    "long name": (lambda d: photo(d, file_name="x" * 252 + ".jpg"), r"image id=2 .*too long, .*at most 255 bytes"),
    "long path": (lambda d: photo(d, file_name="x/" * 2000 + "2.jpg"), r"image id=2 .*too long, .* 3000 with its"),
    "backslash": (lambda d: photo(d, file_name="..\\2.jpg"), r"image id=2 file_name=.*leaves"),
    "no name": (lambda d: photo(d, file_name=""), r"image id=2 file_name='': expected the name of an image"),
    "number as name": (lambda d: photo(d, file_name=2), r"image id=2 file_name=2: expected the name"),
    "duplicate image": (lambda d: photo(d, id=1), r"image id=1 duplicate id"),
    "no width": (lambda d: d["images"][1].pop("width"), r"image id=2 width=None: expected a positive integer"),
    "zero height": (lambda d: photo(d, height=0), r"image id=2 height=0"),
    "image is text": (lambda d: d["images"].__setitem__(1, "2.jpg"), r"image number 1 is not an object"),
}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert error.value.exit_code == 3
    return text


def test_the_good_file_is_good(tmp_path: Path) -> None:
    found = datasets.read("coco", write(tmp_path / "annotations.json", good()))
    assert [p.id for p in found.instances] == [16, 17, 18]
    assert "segmentation" not in found.truth["annotations"][0]


@pytest.mark.parametrize("name", list(ENTRIES) + list(PHOTOS))
def test_bad_entry_is_named(name: str, tmp_path: Path) -> None:
    spoil, message = (ENTRIES | PHOTOS)[name]
    document = good()
    spoil(document)
    path = write(tmp_path / "annotations.json", document)
    with pytest.raises(DataError, match=message) as error:
        datasets.read("coco", path)
    assert one_line(error).startswith(f"{path}#")
    assert one_line(error).endswith("; fix the file or pass --drop-invalid")


@pytest.mark.parametrize("name", list(ENTRIES))
def test_bad_annotation_alone_is_dropped(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = ENTRIES[name]
    document = good()
    spoil(document)
    found = datasets.read("coco", write(tmp_path / "annotations.json", document), drop_invalid=True)
    assert [p.id for p in found.instances] == [16, 18]
    assert [a["id"] for a in found.truth["annotations"]] == [16, 18]
    (line,) = capsys.readouterr().err.splitlines()
    assert "dropped 1 invalid entry" in line
    assert re.search(message, line)


@pytest.mark.parametrize("name", list(PHOTOS))
def test_bad_photo_is_dropped_with_its_people(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = good()
    PHOTOS[name][0](document)
    found = datasets.read("coco", write(tmp_path / "annotations.json", document), drop_invalid=True)
    assert [p.id for p in found.instances] == [16, 17]
    assert [i["id"] for i in found.truth["images"]] == [1]
    assert "dropped 2 invalid entries" in capsys.readouterr().err


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "blank": (b" \n", "empty file"),
    "html": (b"<!DOCTYPE html><html>404</html>", "HTML"),
    "truncated": (json.dumps(good()).encode()[:200], r"truncated, at line 1 column \d+"),
    "cut after a comma": (b'{"images": [1,', "truncated, at line 1 column .*download it again"),
    "a comma too many": (
        b'{"images": [1,\n ]}',
        r"not json at line 2 column 2: a comma that nothing follows; remove it",
    ),
    "Python's print": (repr(good()).encode(), "not json at line 1 column 2: single quotes, as Python prints objects"),
    "JSON lines": (b"{}\n{}\n", "not json at line 2 column 1: a second value, as in JSON lines"),
    "no value": (b'{"images": }', "not json at line 1 column 12: .*; correct it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file, as SLEAP, .* convert it to COCO, as docs/data.md says"),
    "MATLAB": (b"MATLAB 5.0 MAT-file", "a MATLAB file; convert it to COCO"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "YAML": (b"path: .\ntrain: images\n", r"YAML \('path: .'\), not json; a data.yaml of YOLO is for icon-dist shards"),
    "table": (b"scorer,me\nbodyparts,nose\n", r"a table \('scorer,me'\), not json"),
    "pickle": (pickle.dumps(good()), "a Python pickle, which is never loaded"),
    "truncated gzip": (gzip.compress(json.dumps(good()).encode())[:60], "truncated or damaged gzip"),
    "damaged gzip": (b"\x1f\x8b" + b"\x00" * 40, "truncated or damaged gzip"),
    "latin-1": (
        json.dumps(good(), ensure_ascii=False).replace("person", "pérson").encode("latin-1"),
        "not UTF-8 at byte",
    ),
    "list on top": (b"[]", "a list on top"),
    "number on top": (b"5", "int on top"),
    "no images": (json.dumps({**good(), "images": None}).encode(), "images: not a list"),
    "no annotations": (
        json.dumps({k: v for k, v in good().items() if k != "annotations"}).encode(),
        "annotations: missing",
    ),
    "no categories": (
        json.dumps({**good(), "categories": []}).encode(),
        r"categories: ids \[\], expected at least one",
    ),
    "same category twice": (
        json.dumps({**good(), "categories": [{"id": 1}, {"id": 1}]}).encode(),
        r"categories: ids \[1, 1\], expected at least one, all different",
    ),
    "zip": (b"PK\x03\x04" + bytes(60), "a zip archive"),
    "Label Studio": (b'[{"id": 1, "annotations": []}]', "a list on top .*icon-dist shards build labelstudio reads"),
    "results": (b'[{"image_id": 1, "keypoints": []}]', r"a list on top \(it looks like results of a model, no labels"),
    "VIA": (b'{"_via_img_metadata": {}}', "images: missing; .* it looks like a project of the VGG Image Annotator"),
    "labelme": (b'{"version": "5", "shapes": [], "imagePath": "1.jpg"}', "images: missing; .*export the labels"),
    "other joints": (
        json.dumps({**good(), "categories": [{"id": 1, "keypoints": ["head"]}]}).encode(),
        r"categories\[0\].keypoints: \['head'\] are not the joints of skeleton coco.*shards build custom",
    ),
    "nobody": (json.dumps({**good(), "annotations": []}).encode(), "no person with a labelled joint"),
    "deep": (b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("name", list(FILES))
def test_bad_file(name: str, drop: bool, tmp_path: Path) -> None:
    content, message = FILES[name]
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        datasets.read("coco", path, drop_invalid=drop)
    assert one_line(error).startswith(str(path))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="give the path of an annotation file") as error:
            datasets.read("coco", path)
        assert one_line(error).startswith(str(path))


def test_missing_photo(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").touch()
    path = write(tmp_path / "annotations.json", good())
    with pytest.raises(DataError, match=r"#ann id=18 image '2.jpg': not in .*images"):
        datasets.read("coco", path, images=tmp_path / "images")
    found = datasets.read("coco", path, images=tmp_path / "images", drop_invalid=True)
    assert [p.id for p in found.instances] == [16, 17]
    with pytest.raises(DataError, match="no such images folder"):
        datasets.read("coco", path, images=tmp_path / "nowhere", drop_invalid=True)


def test_missing_files_in_subfolders(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    assert missing_files(["a/b/1.jpg", "2.jpg", "a/1.jpg", "c/2.jpg", "3.jpg"], tmp_path) == {
        "a/1.jpg",
        "c/2.jpg",
        "3.jpg",
    }


def test_crowds_and_people_without_joints_stay_in_the_truth(tmp_path: Path) -> None:
    document = good()
    bad(document, iscrowd=1)
    document["annotations"][2].update(keypoints=[0] * 51, num_keypoints=0, bbox=[1, 1, 0, 0])
    found = datasets.read("coco", write(tmp_path / "annotations.json", document))
    assert [p.id for p in found.instances] == [16]
    assert [(a["id"], a["iscrowd"], a["num_keypoints"]) for a in found.truth["annotations"]] == [
        (16, 0, 17),
        (17, 1, 17),
        (18, 0, 0),
    ]


def test_optional_fields_are_filled_in(tmp_path: Path) -> None:
    document = good()
    for a in document["annotations"]:
        del a["iscrowd"], a["num_keypoints"]
    truth = datasets.read("coco", write(tmp_path / "annotations.json", document)).truth
    assert {(a["iscrowd"], a["num_keypoints"]) for a in truth["annotations"]} == {(0, 17)}


MPII: dict[str, tuple[dict[str, Any], str]] = {
    "no joints": ({"joints": None}, "ann id=1 joints, joints_vis: missing; the test set has none"),
    "15 joints": ({"joints": [[1, 2]] * 15}, r"ann id=1 joints: 15 entries, expected 16 x \[x, y\]"),
    "nan joint": ({"joints": [[1, float("nan")]] * 16}, "ann id=1 joints: 16 entries, expected .* finite"),
    "visibility": ({"joints_vis": [2] * 16}, "ann id=1 joints_vis=.*: expected 16 x 0 or 1"),
    "scale": ({"scale": 0}, "ann id=1 scale=0: expected a number > 0"),
    "center": ({"center": [1]}, r"ann id=1 center=\[1\]: expected \[x, y\]"),
    "backslash": ({"image": "a\\a.jpg"}, "ann id=1 image=.*holds a backslash"),
    "traversal": ({"image": "../a.jpg"}, "ann id=1 image='../a.jpg': leaves the images folder"),
}


@pytest.mark.parametrize("name", list(MPII))
def test_bad_mpii_entry(name: str, tmp_path: Path) -> None:
    fields, message = MPII[name]
    entry = {"image": "a.jpg", "center": [5, 6], "scale": 1.5, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    path = write(tmp_path / "valid.json", [entry, {**entry, **fields}])
    with pytest.raises(DataError, match=message) as error:
        datasets.read("mpii", path)
    assert one_line(error).startswith(f"{path}#")
    assert [p.id for p in datasets.read("mpii", path, drop_invalid=True).instances] == [0]


def test_mpii_photo_that_is_no_jpeg(tmp_path: Path) -> None:
    entry = {"image": "a.jpg", "center": [5, 6], "scale": 1.5, "joints": [[1, 2]] * 16, "joints_vis": [1] * 16}
    path = write(tmp_path / "valid.json", [entry])
    with pytest.raises(DataError, match=r"ann id=0 image='a.jpg': not in"):
        datasets.read("mpii", path, images=tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"no jpeg")
    with pytest.raises(DataError, match=r"a\.jpg: not an image of a kind that is read"):
        datasets.read("mpii", path, images=tmp_path)


def test_mpii_headboxes_of_other_people(shared: Path, tmp_path: Path) -> None:
    entries = json.loads((shared / "mpii/annotations.json").read_text())
    mat = shared / "mpii/gt_valid.mat"
    with pytest.raises(DataError, match=r"joints differ from .*#ann id=0; rows must be those of valid.json"):
        datasets.read("mpii", write(tmp_path / "valid.json", entries[::-1]), headboxes=mat)
    with pytest.raises(DataError, match=r"2958 people, .* has more"):
        datasets.read("mpii", write(tmp_path / "train.json", entries * 600), headboxes=mat)
    (tmp_path / "not.mat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"not MPII's gt_valid.mat"):
        datasets.read("mpii", write(tmp_path / "valid.json", entries), headboxes=tmp_path / "not.mat")


SKELETONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"flipz": []}, "unknown key 'flipz'; did you mean 'flips'"),
    "misspelt joint": (
        {"flips": [["right_ankle", "left_anklee"]]},
        "no joint 'left_anklee'; did you mean 'left_ankle'",
    ),
    "half a pair": ({"limbs": [["neck"]]}, r"limbs\[0\]=\['neck'\]: expected a list of 2 joint names"),
    "joint twice": ({"bones": [["neck", "neck"]]}, "the same joint twice"),
    "two mirrors": ({"flips": [["neck", "left_hip"], ["left_hip", "right_hip"]]}, "a joint is in two pairs"),
    "not names": ({"joints": ["a", False]}, "joints=.*: expected different names"),
    "13 sigmas": ({"sigmas": [0.1] * 13}, "sigmas: expected 14 numbers"),
    "sigmas in thousandths": ({"sigmas": [25] * 14}, "sigmas: 25 is no number from 0.001 to 1"),
    "text sigma": ({"sigmas": ["1e-3"] * 14}, "sigmas: '1e-3' is no number from 0.001 to 1"),
    "visible_at": ({"visible_at": 3}, r"visible_at=3: expected one of \[1, 2\]"),
    "metric": ({"metric": "ap"}, "metric='ap': expected one of"),
    "torso": ({"torso": "neck"}, "torso='neck': expected a list of 2 joint names"),
}


@pytest.mark.parametrize("name", list(SKELETONS))
def test_bad_skeleton(name: str, tmp_path: Path) -> None:
    fields, message = SKELETONS[name]
    path = write(tmp_path / "mine.yaml", datasets.skeleton_to_dict(datasets.load_skeleton("lsp")) | fields)
    with pytest.raises(DataError, match=message) as error:
        datasets.load_skeleton(path)
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "key given twice: name"),
        ("name: [", "not YAML"),
        ("- a\n", "expected a mapping"),
        ("name: a\n", "missing joints, flips"),
        ("", "expected a mapping"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        datasets.load_skeleton(tmp_path / "mine.yaml")
    one_line(error)


def test_no_skeleton_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the path of a skeleton YAML"):
        datasets.load_skeleton(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        datasets.load_skeleton(tmp_path / "latin.yaml")


def test_unlabelled_coordinates_do_not_matter(tmp_path: Path) -> None:
    document = good()
    joint(document, 2, 0)
    bad(document, num_keypoints=16)
    people = datasets.read("coco", write(tmp_path / "annotations.json", document)).instances
    np.testing.assert_array_equal(people[1].keypoints[0], np.float32([10, 20, 0]))
