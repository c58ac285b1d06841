"""YOLO pose sets as Ultralytics documents them, and everything in them that can be otherwise or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.errors import DataError
from icon_dist.types import Annotations

YAML = """\
path: {path}
train: images/train
val: images/val
kpt_shape: [3, 3]
flip_idx: [0, 2, 1]
names: {{0: tiger, 1: cub}}
"""
ROW = "0 0.5 0.5 0.4 0.6 0.5 0.4 2 0.4 0.5 1 0 0 0"  # of a photo of 200 x 100 px
Change = Callable[[Path], object]


def photo(path: Path, width: int = 200, height: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), np.full((height, width, 3), 90, np.uint8))
    assert done
    path.write_bytes(data.tobytes())  # imwrite has a will of its own about names


@pytest.fixture
def tiger(tmp_path: Path) -> Path:
    """A set of two photos to train on, of which one has nobody, and one to validate; returns its folder."""
    root = tmp_path / "tiger"
    for name in ("train/a.jpg", "train/b.jpg", "val/c.jpg"):
        photo(root / "images" / name)
    for name, text in {
        "train/a": f"{ROW}\n1 0.25 0.5 0.5 1 0.25 0.5 2 0.1 0.1 2 0.4 0.4 2\n",
        "train/b": "",
        "val/c": ROW,
    }.items():
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text(YAML.format(path=root))
    return root


def read(root: Path, **options: Any) -> Annotations:
    return datasets.read("yolo", root / "data.yaml", **options)


def edit(root: Path, old: str, new: str) -> None:
    text = (root / "data.yaml").read_text()
    assert old in text
    (root / "data.yaml").write_text(text.replace(old, new), encoding="utf-8")


def label(root: Path, text: str | bytes, name: str = "train/a") -> None:
    (root / "labels" / f"{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)


def test_pixels_by_hand(tiger: Path) -> None:
    found = read(tiger)
    first, second = found.instances
    assert (first.file, first.wh) == ("a.jpg", (200, 100))
    assert first.keypoints.tolist() == [[100, 40, 2], [80, 50, 1], [0, 0, 0]]
    assert second.keypoints.tolist() == [[50, 50, 2], [20, 10, 2], [80, 40, 2]]
    assert found.truth["annotations"][0]["bbox"] == pytest.approx([60, 20, 80, 60])
    assert [image["file_name"] for image in found.truth["images"]] == ["a.jpg", "b.jpg"]
    assert found.truth["categories"] == [{"id": 0, "name": "tiger"}, {"id": 1, "name": "cub"}]
    assert found.skeleton.joints == ("joint_0", "joint_1", "joint_2")
    assert found.skeleton.flips == ((1, 2),)
    assert (found.split, found.folder) == ("train", str(tiger / "images/train"))
    assert read(tiger, split="val").instances[0].file == "c.jpg"


def test_cocos_own_poses_survive(shared: Path, tmp_path: Path) -> None:
    """COCO's four photos as YOLO writes them, with six digits, against the file that they are from."""
    source = shared / "coco/four"
    document = json.loads((source / "person_keypoints.json").read_text())
    expected = datasets.read("coco", source / "person_keypoints.json")
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").symlink_to(source / "images")
    for image in document["images"]:
        lines = []
        for a in document["annotations"]:
            if a["image_id"] == image["id"]:
                w, h = image["width"], image["height"]
                x, y, bw, bh = a["bbox"]
                k = a["keypoints"]
                values = [(x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h]
                for j in range(17):
                    values += [k[3 * j] / w, k[3 * j + 1] / h, k[3 * j + 2]]
                lines.append("0 " + " ".join(f"{value:.6f}" for value in values))
        (tmp_path / "labels" / image["file_name"].replace(".jpg", ".txt")).write_text("\n".join(lines))
    flips = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    (tmp_path / "data.yaml").write_text(f"train: images\nkpt_shape: [17, 3]\nflip_idx: {flips}\nnames: [person]\n")
    found = read(tmp_path)
    assert found.skeleton == expected.skeleton
    by_box = lambda p: (p.file, *np.round(p.box))  # noqa: E731
    for one, two in zip(sorted(found.instances, key=by_box), sorted(expected.instances, key=by_box), strict=True):
        np.testing.assert_allclose(one.keypoints, two.keypoints, atol=1e-3)
        np.testing.assert_allclose(one.box, two.box, atol=2e-3)
    assert len(found.truth["annotations"]) == len(expected.truth["annotations"])


GOOD: dict[str, Change] = {
    "path is relative to the file": lambda r: edit(r, f"path: {r}", "path: ."),
    "no path": lambda r: edit(r, f"path: {r}\n", ""),
    "path of another machine": lambda r: edit(r, f"path: {r}", "path: /content/datasets/tiger"),
    "path of Windows": lambda r: edit(r, f"path: {r}", r"path: C:\Users\me\tiger"),
    "path in the folder of Ultralytics": lambda r: edit(r, f"path: {r}", "path: ../datasets/tiger"),
    "backslashes": lambda r: edit(r, "train: images/train", r"train: images\train"),
    "Roboflow's dots": lambda r: (edit(r, f"path: {r}\n", ""), edit(r, "train: images", "train: ../images")),
    "absolute folder": lambda r: edit(r, "train: images/train", f"train: {r}/images/train"),
    "list of folders": lambda r: edit(r, "train: images/train", "train: [images/train]"),
    "list of photos": lambda r: (
        edit(r, "train: images/train", "train: train.txt"),
        (r / "train.txt").write_text("./images/train/a.jpg\r\n\r\n./images/train/b.jpg\n"),
    ),
    "list of photos of Windows": lambda r: (
        edit(r, "train: images/train", "train: train.txt"),
        (r / "train.txt").write_text("images\\train\\a.jpg\nD:\\x\\images\\train\\b.jpg\n", encoding="utf-8-sig"),
    ),
    "list of photos of CVAT, and its name of the split": lambda r: (
        edit(r, "train: images/train", "Train: Train.txt"),
        (r / "Train.txt").write_text("data/images/train/a.jpg\ndata/images/train/b.jpg\n"),
    ),
    "no kpt_shape": lambda r: edit(r, "kpt_shape: [3, 3]\n", ""),
    "names of joints by number": lambda r: edit(r, "kpt_shape", "kpt_names: {0: nose, 1: l_ear, 2: r_ear}\nkpt_shape"),
    "names as a list": lambda r: edit(r, "names: {0: tiger, 1: cub}", "names: [tiger, cub]\nnc: 2"),
    "no names, but how many": lambda r: edit(r, "names: {0: tiger, 1: cub}", "nc: 2"),
    "numbers in names as text": lambda r: edit(r, "{0: tiger, 1: cub}", "{'0': tiger, '1': cub}"),
    "BOM in the yaml": lambda r: (r / "data.yaml").write_text((r / "data.yaml").read_text(), encoding="utf-8-sig"),
    "BOM and CRLF in labels": lambda r: label(
        r, "\ufeff" + (r / "labels/train/a.txt").read_text().replace("\n", "\r\n")
    ),
    "floats for classes, tabs": lambda r: label(
        r, "0.0\t" + (r / "labels/train/a.txt").read_text()[2:].replace("\n1 ", "\n1.000 ")
    ),
    "upper-case ending": lambda r: (r / "images/train/a.jpg").rename(r / "images/train/a.JPG"),
    "upper-case label": lambda r: (r / "labels/train/a.txt").rename(r / "labels/train/a.TXT"),
    "labels beside photos": lambda r: (r / "labels/train/a.txt").rename(r / "images/train/a.txt"),
    "a name that is not ASCII": lambda r: (
        (r / "images/train/a.jpg").rename(r / "images/train/fotö 1.jpg"),
        (r / "labels/train/a.txt").rename(r / "labels/train/foto\u0308 1.txt"),
    ),
    "no file of a photo without people": lambda r: (r / "labels/train/b.txt").unlink(),
    "a folder that links to itself": lambda r: (r / "images/train/again").symlink_to(r / "images/train"),
    "a hidden copy": lambda r: (r / "images/train/._a.jpg").write_bytes(b"\0\5\x16\7"),
    "classes.txt": lambda r: (r / "labels/train/classes.txt").write_text("tiger\n"),
    "a line twice": lambda r: label(r, f"{ROW}\n" + (r / "labels/train/a.txt").read_text()),
    "an outline": lambda r: label(r, "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n", "train/b"),
    "a box alone": lambda r: label(r, "0 0.5 0.5 0.4 0.6\n", "train/b"),
    "more than rounding outside": lambda r: label(
        r, (r / "labels/train/a.txt").read_text().replace("0.4 0.5 1", "-0.2 0.5 0"), "train/a"
    ),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_read_all_the_same(tiger: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiger.parent)
    change(tiger)
    found = read(tiger)
    assert [p.keypoints[0].tolist() for p in found.instances] == [[100, 40, 2], [50, 50, 2]]
    assert len(found.truth["images"]) == 2


def test_a_folder_in_place_of_its_yaml(tiger: Path) -> None:
    assert datasets.read("yolo", tiger).truth == read(tiger).truth
    (tiger / "other.yml").write_text("")
    assert datasets.read("yolo", tiger).truth == read(tiger).truth
    (tiger / "data.yaml").unlink()
    (tiger / "more.yaml").write_text("")
    with pytest.raises(DataError, match=r"tiger: more\.yaml and other\.yml in it; give the path of one"):
        datasets.read("yolo", tiger)


@pytest.mark.parametrize("given", [".", "classes.txt", "notes.json"])
def test_label_studios_folder_without_a_yaml(tmp_path: Path, given: str) -> None:
    """The files that ``convert_to_yolo`` of label-studio-sdk 2.1.2 writes."""
    photo(tmp_path / "images/1a2b3c4d-a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1a2b3c4d-a.txt").write_text(f"{ROW}\n1 0.5 0.5 0.1 0.1 0.0 0.0 0 0.5 0.5 2 0.0 0.0 0")
    (tmp_path / "classes.txt").write_text("tiger\ncub\n")
    (tmp_path / "notes.json").write_text('{"categories": [], "info": {"contributor": "Label Studio"}}')
    found = datasets.read("yolo", tmp_path / given)
    assert found.instances[0].keypoints.tolist() == [[100, 40, 2], [80, 50, 1], [0, 0, 0]]
    assert found.truth["categories"] == [{"id": 0, "name": "tiger"}, {"id": 1, "name": "cub"}]
    assert found.skeleton.joints == ("joint_0", "joint_1", "joint_2")
    notes = " ".join(found.truth["notes"])
    assert "kpt_shape is missing; [3, 3] is what all lines of poses have" in notes
    assert "no data.yaml, so joints are numbered in the order of the columns" in notes
    (tmp_path / "images/1a2b3c4d-a.jpg").unlink()
    with pytest.raises(DataError, match="no photos in images; give the folder that has them: an export may have left"):
        datasets.read("yolo", tmp_path / given)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no data\.yaml and no classes\.txt in this folder; give"):
        datasets.read("yolo", tmp_path / given)


@pytest.mark.parametrize("place", ["images/train/a.jpg", "train/a.jpg", "a.jpg"])
def test_photos_that_an_export_left_out(tiger: Path, tmp_path: Path, place: str) -> None:
    """Labels beside the yaml, photos in a folder of ``--images``, with the tool's folders or without."""
    expected = read(tiger).instances[0].keypoints.tolist()
    (tmp_path / "elsewhere" / place).parent.mkdir(parents=True)
    (tiger / "images/train/a.jpg").rename(tmp_path / "elsewhere" / place)
    (tiger / "train.txt").write_text("data/images/train/a.jpg\n")
    edit(tiger, "train: images/train", "train: train.txt")
    found = read(tiger, images=tmp_path / "elsewhere")
    assert found.instances[0].keypoints.tolist() == expected


def test_images_may_be_the_first_folder_of_an_entry(tiger: Path) -> None:
    assert read(tiger, images=tiger / "images").truth == read(tiger).truth


def test_lines_of_a_list_that_mean_one_photo(tiger: Path) -> None:
    """Folders that are not here tell photos of one name apart: to read one of them twice would lose the other."""
    edit(tiger, "train: images/train", "train: train.txt")
    lines = ["images/train/a.jpg", str(tiger / "images/train/a.jpg"), "./images/train/a.jpg"]
    (tiger / "train.txt").write_text("\n".join(lines))
    assert len(read(tiger).truth["images"]) == 1
    (tiger / "train.txt").write_text("x/images/train/a.jpg\ny/images/train/a.jpg\n")
    with pytest.raises(DataError, match=r"train.txt:2 'y/images/train/a.jpg': .*, as 'x/images/train/a.jpg' is; keep"):
        read(tiger)


def test_two_numbers_a_joint(tiger: Path) -> None:
    edit(tiger, "[3, 3]", "[3, 2]")
    label(tiger, "0 0.5 0.5 0.4 0.6 0.5 0.4 0 0 -1 -1\n")
    found = read(tiger)
    assert found.instances[0].keypoints.tolist() == [[100, 40, 2], [0, 0, 0], [0, 0, 0]]
    assert any("2 joints at 0 0 or below" in text for text in found.truth["notes"])


def test_outlines_and_boxes_are_people_without_joints(tiger: Path) -> None:
    label(tiger, "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n0 0.5 0.5 0.4 0.6\n", "train/b")
    found = read(tiger)
    boxes = [a["bbox"] for a in found.truth["annotations"][2:]]
    np.testing.assert_allclose(boxes, [[20, 10, 160, 80], [60, 20, 80, 60]])
    assert [a["num_keypoints"] for a in found.truth["annotations"]] == [2, 3, 0, 0]
    assert sum("read as a box" in text or "a box only" in text for text in found.truth["notes"]) == 2


def test_photos_turned_by_exif(tiger: Path) -> None:
    """Fractions are of the upright picture, as Ultralytics reads photos; of the stored pixels if that is asked for."""
    raw = (tiger / "images/train/a.jpg").read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff
    (tiger / "images/train/a.jpg").write_bytes(raw[:2] + exif + raw[2:])
    upright, stored = read(tiger).instances[0], read(tiger, exif="ignore").instances[0]
    assert (upright.wh, upright.keypoints[0].tolist()) == ((100, 200), [50, 80, 2])
    assert (stored.wh, stored.keypoints[0].tolist()) == ((200, 100), [100, 40, 2])


def test_a_skeleton_of_ones_own(tiger: Path) -> None:
    with pytest.raises(DataError, match=r"kpt_shape has 3 joints, skeleton lsp 14; name the right skeleton"):
        read(tiger, skeleton="lsp")


def test_names_of_joints(tiger: Path) -> None:
    edit(tiger, "flip_idx: [0, 2, 1]", "kpt_names: {0: [nose, left_paw, right_paw], 1: [nose, left_paw, right_paw]}")
    skeleton = read(tiger).skeleton
    assert (skeleton.joints, skeleton.flips) == (("nose", "left_paw", "right_paw"), ((1, 2),))


def test_as_sleap_io_writes_it(tiger: Path) -> None:
    """Its data.yaml (sleap-io 0.9.5, save_ultralytics) has node_names, a skeleton from 0, and exchanges nothing."""
    more = "node_names: [nose, left_paw, right_paw]\nskeleton: [[1, 0], [0, 2]]\n"
    edit(tiger, "flip_idx: [0, 2, 1]\n", f"flip_idx: [0, 1, 2]\n{more}")
    found = read(tiger)
    assert found.skeleton.joints == ("nose", "left_paw", "right_paw")
    assert found.skeleton.flips == ((1, 2),)
    assert found.skeleton.bones == ((0, 1), (0, 2))
    assert any("flip_idx exchanges no joints, although their names" in text for text in found.truth["notes"])


BAD: dict[str, tuple[Change, str]] = {
    "a column less": (
        lambda r: label(r, ROW[:-2]),
        r"train/a.txt:1 13 columns, expected 14 for kpt_shape: \[3, 3\]; they would fit kpt_shape: \[4, 2\]",
    ),
    "kpt_shape without visibility": (
        lambda r: edit(r, "[3, 3]", "[3, 2]"),
        r"14 columns, expected 11 for kpt_shape: \[3, 2\]; they would fit kpt_shape: \[3, 3\]",
    ),
    "pixels": (
        lambda r: label(r, "0 100 50 80 60 100 40 2 80 50 1 0 0 0"),
        r"box 100 50 80 60: expected fractions of the image, 0 to 1; divide x by the width",
    ),
    "joints in pixels": (
        lambda r: label(r, ROW.replace("0.4 2", "0.4 2").replace("0.5 0.4 2", "120 40 2")),
        r"joint 0 at 120 40: expected fractions .* divide x by the width",
    ),
    "comma decimals": (
        lambda r: label(r, ROW.replace(".", ",")),
        r"column 2: '0,5' is not a number; write decimals with a point",
    ),
    "columns by commas": (lambda r: label(r, ROW.replace(" ", ",")), r"is not a number; separate numbers by blanks"),
    "text": (lambda r: label(r, ROW.replace("0 0.5", "tiger 0.5", 1)), r"column 1: 'tiger' is not a number"),
    "nan": (lambda r: label(r, ROW.replace("0.6", "nan", 1)), r"column 5: 'nan' is not a number; expected numbers"),
    "class beyond names": (lambda r: label(r, "2" + ROW[1:]), r"class 2: not in names \(0, 1\)"),
    "class -1": (lambda r: label(r, "-1" + ROW[1:]), r"class -1: not in names"),
    "half a class": (lambda r: label(r, "0.5" + ROW[1:]), r"class 0.5: not in names"),
    "negative width": (lambda r: label(r, ROW.replace("0.5 0.5 0.4", "0.5 0.5 -0.005")), r"width or height below 0"),
    "confidence": (lambda r: label(r, ROW.replace(" 2 ", " 0.87 ")), r"visibility 0.87 of joint 0: expected 0, 1 or 2"),
    "not UTF-8": (lambda r: label(r, b"\xff\xfe0\0"), r"train/a.txt: not UTF-8; save it as UTF-8"),
    "no kpt_shape, and lines of several lengths": (
        lambda r: (edit(r, "kpt_shape: [3, 3]\n", ""), label(r, f"{ROW}\n{ROW} 0 0 0")),
        r"kpt_shape: missing, and its label lines do not show it; expected \[joints, 3\]",
    ),
    "no kpt_shape, and outlines": (
        lambda r: (edit(r, "kpt_shape: [3, 3]\n", ""), label(r, "0 .1 .1 .9 .1 .9 .9 .1 .9 .3 .2")),
        r"kpt_shape: missing, and its label lines do not show it",
    ),
    "a confidence at the end": (
        lambda r: label(r, f"{ROW} 0.87"),
        r"15 columns, expected 14 .* leave out the confidence",
    ),
    "a confidence of a box": (
        lambda r: label(r, "0 .5 .5 .2 .2 .9"),
        r"6 columns, .* leave out the confidence at the end",
    ),
    "kpt_shape of one number": (lambda r: edit(r, "[3, 3]", "3"), r"kpt_shape=3: expected \[joints, 3\]"),
    "kpt_shape of text": (lambda r: edit(r, "[3, 3]", "[3, x]"), r"kpt_shape=\[3, 'x'\]"),
    "kpt_shape of 4 numbers": (lambda r: edit(r, "[3, 3]", "[3, 4]"), r"kpt_shape=\[3, 4\]"),
    "kpt_shape of no joints": (lambda r: edit(r, "[3, 3]", "[0, 3]"), r"0 joints, expected 1 to 1000"),
    "flip_idx too short": (
        lambda r: edit(r, "[0, 2, 1]", "[0, 1]"),
        r"flip_idx=\[0, 1\]: expected for each joint the number",
    ),
    "flip_idx from 1": (lambda r: edit(r, "[0, 2, 1]", "[1, 3, 2]"), r"flip_idx=\[1, 3, 2\]: .*, not from 1"),
    "flip_idx in a circle": (
        lambda r: edit(r, "[0, 2, 1]", "[1, 2, 0]"),
        r"flip_idx: 0 changes places with 1, but 1 with 2",
    ),
    "no names": (lambda r: edit(r, "names: {0: tiger, 1: cub}\n", ""), r"names: missing"),
    "names and nc differ": (lambda r: edit(r, "names:", "nc: 3\nnames:"), r"names: 2 names, but nc=3"),
    "names as text": (lambda r: edit(r, "{0: tiger, 1: cub}", "tiger"), r"names='tiger': expected a list"),
    "yes is no name": (lambda r: edit(r, "{0: tiger, 1: cub}", "[yes, no]"), r"names: True is no name; put quotes"),
    "kpt_names too few": (
        lambda r: edit(r, "kpt_shape", "kpt_names: [a, b]\nkpt_shape"),
        r"kpt_names: 2 names, but kpt_shape has 3",
    ),
    "an endless name of a joint": (
        lambda r: edit(r, "kpt_shape", f"kpt_names: [{'a' * 300}, b, c]\nkpt_shape"),
        r"data\.yaml: derived skeleton joints: expected at most 1000 printable names of at most 100 letters",
    ),
    "kpt_names twice": (
        lambda r: edit(r, "kpt_shape", "kpt_names: [a, b, a]\nkpt_shape"),
        r"kpt_names=.*: the same name twice",
    ),
    "no such folder": (
        lambda r: edit(r, "images/train", "images/trian"),
        r"train='images/trian': no such folder or list in",
    ),
    "an endless name": (lambda r: edit(r, "images/train", "x" * 5000), r"no such folder or list"),
    "no photos": (lambda r: edit(r, "images/train", "labels"), r"train: no photos in labels"),
    "no labels at all": (
        lambda r: (r / "labels").rename(r / "lables"),
        r"none of 2 photos has a label file; that of a.jpg would be",
    ),
    "all photos of the list missing": (
        lambda r: (edit(r, "images/train", "train.txt"), (r / "train.txt").write_text("data/x.jpg\ndata/y.jpg\n")),
        r"train: none of 2 photos, train.txt:1 'data/x.jpg': no such photo; .* or pass --images with their folder",
    ),
    "photo of the list missing": (
        lambda r: (edit(r, "images/train", "train.txt"), (r / "train.txt").write_text("images/train/a.jpg\nx.jpg\n")),
        r"train.txt:2 'x.jpg': no such photo",
    ),
    "damaged photo": (
        lambda r: (r / "images/train/a.jpg").write_bytes(b"oops"),
        r"image .*a.jpg: not an image of a kind",
    ),
    "empty yaml": (lambda r: (r / "data.yaml").write_text(""), r"data.yaml: expected a mapping"),
    "no splits": (lambda r: [edit(r, f"{s}: images/{s}\n", "") for s in ("train", "val")], r"no train, val or test"),
    "tab in yaml": (lambda r: edit(r, "names", "\tnames"), r"not YAML"),
    "an alias": (lambda r: edit(r, "names: {0", "names: {0: &a x, 5: *a, 7"), r"not YAML: .*alias"),
    "only boxes": (lambda r: label(r, "0 .5 .5 .4 .6\n"), r"no person with a labelled joint"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_one_line_says_what_is_wrong(tiger: Path, change: Change, message: str) -> None:
    change(tiger)
    with pytest.raises(DataError, match=message) as error:
        read(tiger)
    assert "\n" not in str(error.value)
    assert "data.yaml" in str(error.value)


def test_drop_invalid(tiger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label(tiger, f"{ROW}\n7{ROW[1:]}\n0 1 2\n")
    assert len(read(tiger, drop_invalid=True).instances) == 1
    assert "dropped 2 invalid entries; the first: train/a.txt:2 class 7" in capsys.readouterr().err


def test_label_without_photo_is_noted(tiger: Path) -> None:
    label(tiger, ROW, "train/z")
    assert "data.yaml: 1 label file without a photo, left out (z.txt the first)" in read(tiger).truth["notes"]


def test_which_split(tiger: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'tran'; did you mean train\?; it has train, val"):
        read(tiger, split="tran")
    edit(tiger, "train: images/train\n", "")
    assert read(tiger).split == "val"
    edit(tiger, "val: images/val", "val: images/val\ntest: images/train")
    with pytest.raises(DataError, match="train: missing; choose one of val, test by --split"):
        read(tiger)
