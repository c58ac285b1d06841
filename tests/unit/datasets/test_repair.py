"""What tools leave out or fill in their own way is read as it was meant, with a note; hopeless files have one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from icon_dist import datasets
from icon_dist.datasets.annotation_file import MAX_MEMORY, PYTHON_BYTES, parse
from icon_dist.errors import DataError, IconError
from icon_dist.images.size import size_as_read
from icon_dist.types import Annotations

Document = dict[str, Any]
COCO = datasets.load_skeleton("coco")


def person(number: int, image: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [5.0, 6.0, 40.0, 60.0],
        "area": 1200.0,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": [v for j in range(17) for v in (10 + j, 20 + j, 2)],
    }


def good() -> Document:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 90} for i in (1, 2)],
        "annotations": [person(16, 1), person(17, 1), person(18, 2)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }


def read(folder: Path, document: object, name: str = "coco", **options: Any) -> Annotations:
    (folder / "mine.json").write_text(json.dumps(document))
    return datasets.read(name, folder / "mine.json", **options)


def changed(**fields: Any) -> Document:
    """The second person with other fields; a field that is None is removed."""
    document = good()
    one = document["annotations"][1]
    one.update(fields)
    document["annotations"][1] = {key: value for key, value in one.items() if value is not None}
    return document


def record(found: Annotations) -> dict[str, Any]:
    second: dict[str, Any] = found.truth["annotations"][1]
    return second


def test_right_files_have_no_notes(tmp_path: Path) -> None:
    assert list(read(tmp_path, good()).truth) == ["images", "annotations"]


@pytest.mark.parametrize(
    ("area", "why"),
    [
        (0, "1 with 0 or less"),
        (-7.5, "1 with 0 or less"),
        (None, "1 missing"),
        (1e11, "1 with more than twice of it"),
        (4801.0, "1 with more than twice of it"),
        (1, "1 with less than a thousandth of it"),
    ],
)
def test_an_area_that_cannot_be_is_that_of_the_box(area: float | None, why: str, tmp_path: Path) -> None:
    found = read(tmp_path, changed(area=area))
    assert [p.area for p in found.instances] == [1200, 40 * 60, 1200]
    assert [a["area"] for a in found.truth["annotations"]] == [1200, 40 * 60, 1200]
    assert found.truth["notes"] == [f"mine.json: area of 1 of 3 annotations taken from the box, width x height: {why}"]


def test_areas_that_can_be_are_kept(tmp_path: Path) -> None:
    for area in (2.5, 4800):
        found = read(tmp_path, changed(area=area))
        assert (record(found)["area"], found.instances[1].area) == (area, area)
        assert "notes" not in found.truth
    empty = changed(area=0, keypoints=[0] * 51, num_keypoints=0)
    assert record(read(tmp_path, empty))["area"] == 0
    assert "notes" not in read(tmp_path, empty).truth


@pytest.mark.parametrize("number", [0, 16, -1, "17", 5.5])
def test_joints_are_counted_again(number: object, tmp_path: Path) -> None:
    document = changed(num_keypoints=number)
    document["annotations"][0].update(keypoints=[1, 2, 0, *document["annotations"][0]["keypoints"][3:]])
    found = read(tmp_path, document)
    assert [a["num_keypoints"] for a in found.truth["annotations"]] == [16, 17, 17]
    (note,) = found.truth["notes"]
    assert note == "mine.json: num_keypoints of 2 annotations is not the number of joints with v > 0; recounted"


@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0], [50, 60, 0, 9]])
def test_no_box_is_one_around_the_joints(box: object, tmp_path: Path) -> None:
    """Joints from (10, 20) to (26, 36): 16 px, and a tenth of that on every side."""
    found = read(tmp_path, changed(bbox=box))
    np.testing.assert_allclose(record(found)["bbox"], [8.4, 18.4, 19.2, 19.2])
    np.testing.assert_allclose(found.instances[1].box, [8.4, 18.4, 18.2, 18.2])
    assert "mine.json: bbox of 1 person missing or empty; taken around the labelled joints" in found.truth["notes"]


def far(x: float, y: float = 20) -> Document:
    document = good()
    document["annotations"][1]["keypoints"][:2] = [x, y]
    return document


def test_who_is_not_seen_in_a_file_without_boxes_stays_in_the_truth(tmp_path: Path) -> None:
    """As trackers of animals write every individual in every frame."""
    document = changed(keypoints=[None, None, 0] * 17)
    for one in document["annotations"]:
        del one["bbox"], one["area"]
    found = read(tmp_path, document)
    assert [p.id for p in found.instances] == [16, 18]
    assert (record(found)["bbox"], record(found)["area"], record(found)["num_keypoints"]) == ([0, 0, 0, 0], 0, 0)
    document["annotations"][0]["bbox"] = [5, 6, 40, 60]
    with pytest.raises(DataError, match="ann id=17 bbox=None"):
        read(tmp_path, document)


@pytest.mark.parametrize(("x", "y"), [(201, 20), (-101, 20), (10, 191), (10, -5000), (1e8, 20)])
def test_a_joint_far_outside_is_not_labelled(x: float, y: float, tmp_path: Path) -> None:
    """Further outside the 100 x 90 image than its longer side."""
    found = read(tmp_path, far(x, y))
    assert found.instances[1].keypoints[0].tolist() == [0, 0, 0]
    assert record(found)["keypoints"][:6] == [0, 0, 0, 11, 21, 2]
    assert record(found)["num_keypoints"] == 16
    (note,) = found.truth["notes"]
    assert "1 of 51 labelled joints further outside the image than it is large" in note
    assert f"nose of ann id=17 at [{float(x)}, {float(y)}]" in note


@pytest.mark.parametrize(("x", "y"), [(200, 20), (-100, 20), (10, 190)])
def test_a_joint_near_the_image_stays(x: float, y: float, tmp_path: Path) -> None:
    found = read(tmp_path, far(x, y))
    assert found.instances[1].keypoints[0].tolist() == [x, y, 2]
    assert "notes" not in found.truth


def test_a_person_far_outside_stays_in_the_truth_without_joints(tmp_path: Path) -> None:
    found = read(tmp_path, changed(keypoints=[5000, 5000, 2] * 17))
    assert [p.id for p in found.instances] == [16, 18]
    assert record(found)["num_keypoints"] == 0


def scaled(factor: float, *keys: str) -> Document:
    document = good()
    for one in document["annotations"]:
        if "keypoints" in keys:
            one["keypoints"] = [v if i % 3 == 2 else v * factor for i, v in enumerate(one["keypoints"])]
        if "bbox" in keys:
            one["bbox"] = [v * factor for v in one["bbox"]]
    return document


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            scaled(0.01, "bbox"),
            "mine.json bbox: of 3 people all coordinates lie within 0..1, expected pixels; multiply",
        ),
        (scaled(0.01, "keypoints", "bbox"), "mine.json keypoints: of 3 people all coordinates lie within 0..1"),
        (scaled(100, "keypoints"), "51 of 51 labelled joints further outside the image than it is large"),
    ],
)
def test_what_cannot_be_pixels_is_refused(document: Document, text: str, drop: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, document, drop_invalid=drop)
    assert text in str(error.value)


def test_a_person_without_keypoints_stays_in_the_truth(tmp_path: Path) -> None:
    for points in (None, []):
        found = read(tmp_path, changed(keypoints=points, num_keypoints=0))
        assert [p.id for p in found.instances] == [16, 18]
        assert (record(found)["keypoints"], record(found)["num_keypoints"]) == ([0] * 51, 0)
        assert "notes" not in found.truth


def test_keypoints_as_a_list_of_joints(tmp_path: Path) -> None:
    flat = person(17, 1)["keypoints"]
    found = read(tmp_path, changed(keypoints=[flat[i : i + 3] for i in range(0, 51, 3)]))
    assert record(found)["keypoints"] == flat


@pytest.mark.parametrize("blank", [None, float("nan")])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("word", ["coco", "custom"])
def test_joints_without_coordinates_are_not_labelled(
    word: str, blank: float | None, nested: bool, tmp_path: Path
) -> None:
    points = person(17, 1)["keypoints"]
    points[3:6], points[30:33] = [blank, blank, 2], [blank, blank, 0]
    given = [points[i : i + 3] for i in range(0, 51, 3)] if nested else points
    found = read(tmp_path, changed(keypoints=given), word)
    assert record(found)["keypoints"] == [0 if i in (3, 4, 5, 30, 31, 32) else v for i, v in enumerate(points)]
    assert record(found)["num_keypoints"] == 15
    note = "mine.json: 2 joints without coordinates (null, NaN), read as not labelled (ann id=17 the first)"
    assert note in found.truth["notes"]


def test_joints_with_a_negative_visibility_are_not_labelled(tmp_path: Path) -> None:
    points = person(17, 1)["keypoints"]
    points[3:6], points[30:33] = [-1, -1, -1], [7, 8, -1.0]
    found = read(tmp_path, changed(keypoints=points))
    assert record(found)["keypoints"] == [0 if i in (3, 4, 5, 30, 31, 32) else v for i, v in enumerate(points)]
    assert record(found)["num_keypoints"] == 15
    assert "mine.json: 2 joints with v below 0, read as not labelled" in found.truth["notes"]
    with pytest.raises(DataError, match="visibility 7 of nose"):
        read(tmp_path, changed(keypoints=[1, 2, 7, *points[3:]]))


def test_joints_with_coordinates_and_no_visibility_are_noted(tmp_path: Path) -> None:
    document = good()
    for one in document["annotations"]:
        one["keypoints"] = [0 if i % 3 == 2 and i < 15 else v for i, v in enumerate(one["keypoints"])]
        one["num_keypoints"] = 12
    note = "mine.json: 15 joints with coordinates and v=0, read as not labelled; if these are hidden ones, write v=1"
    assert read(tmp_path, document).truth["notes"] == [note]
    for one in document["annotations"]:
        one["keypoints"] = [0 if i % 3 == 2 else v for i, v in enumerate(one["keypoints"])]
    with pytest.raises(
        DataError, match="3 without joints, 51 joints have coordinates and v=0; write v=2, or 1 if hidden"
    ):
        read(tmp_path, document)


def test_whole_numbers_of_tables_are_integers(tmp_path: Path) -> None:
    """As pandas writes a column with a gap."""
    document = good()
    for image in document["images"]:
        image.update(id=float(image["id"]), width=100.0, height=90.0)
    for one in document["annotations"]:
        one.update(id=float(one["id"]), image_id=float(one["image_id"]), category_id=1.0, iscrowd=0.0)
    document["annotations"][0]["iscrowd"] = None
    document["categories"][0]["id"] = 1.0
    assert json.dumps(read(tmp_path, document).truth) == json.dumps(read(tmp_path, good()).truth)
    document["annotations"][1]["image_id"] = 1.5
    with pytest.raises(DataError, match=r"ann id=17 image_id=1\.5: expected an integer"):
        read(tmp_path, document)


def test_crowds_as_true_and_false(tmp_path: Path) -> None:
    assert record(read(tmp_path, changed(iscrowd=True)))["iscrowd"] == 1
    assert [p.id for p in read(tmp_path, changed(iscrowd=False)).instances] == [16, 17, 18]


def categories(*entries: Document, used: int = 1) -> Document:
    document = changed(category_id=used)
    document["categories"] = list(entries)
    return document


SUPER, CAR = {"id": 0, "name": "people"}, {"id": 3, "name": "car"}
PERSON = {"id": 1, "name": "person", "keypoints": list(COCO.joints)}


def test_categories(tmp_path: Path) -> None:
    unused = read(tmp_path, categories(SUPER, PERSON))
    assert len(unused.instances) == 3
    assert unused.truth["notes"] == [
        "mine.json: left out 1 category without annotations, not of the joints of skeleton coco: 'people' (id 0)"
    ]
    other = read(tmp_path, categories(PERSON, CAR, used=3))
    assert [a["id"] for a in other.truth["annotations"]] == [16, 18]
    assert "left out 1 category with 1 annotation, not of the joints of skeleton coco: 'car' (id 3)" in str(other.truth)
    equal = read(tmp_path, categories(PERSON, {**PERSON, "id": 2, "name": "rider"}, used=2))
    assert len(equal.instances) == 3
    assert equal.truth["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "rider"}]
    assert "notes" not in equal.truth
    silent = read(tmp_path, categories({"id": 1, "name": "person"}, CAR))
    assert [p.id for p in silent.instances] == [16, 17, 18]


def test_the_files_own_category_is_remembered(tmp_path: Path) -> None:
    document = good()
    document["categories"] = [{"id": 0, "name": "person"}]
    for one in document["annotations"]:
        one["category_id"] = 0
    truth = read(tmp_path, document).truth
    assert truth["categories"] == [{"id": 0, "name": "person"}]
    assert {a["category_id"] for a in truth["annotations"]} == {1}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "train").mkdir(parents=True)
    for name in ("1.jpg", "2.png", "train/3.jpg", "12:30:05.jpg"):
        assert cv2.imwrite(str(folder / name), np.zeros((90, 100, 3), np.uint8))
    return folder


def named(name: str, **fields: Any) -> Document:
    document = good()
    document["images"][1].update(file_name=name, **fields)
    return document


@pytest.mark.parametrize("name", ["2.png", "train/3.jpg"])
@pytest.mark.parametrize("size", [{"width": None, "height": None}, {"width": 0}, {"height": None}])
def test_sizes_come_from_the_photos(name: str, size: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    found = read(tmp_path, named(name, **size), images=photos)
    assert found.instances[2].wh == (100, 90)
    assert found.truth["notes"] == ["mine.json: 1 image without width and height; taken from the photos"]


def test_sizes_of_photos_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"none")
    for name, why in (("2.png", "not an image of a kind that is read"), ("4.jpg", "no such file")):
        with pytest.raises(DataError, match=rf"image id=2 width, height: missing, and .*{name}.*{why}"):
            read(tmp_path, named(name, width=None), images=photos)
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(DataError, match="is a pipe"):
        read(tmp_path, named("pipe.jpg", width=None), images=photos)


def turned(path: Path) -> None:
    """A photo of 90x100 px as stored, 100x90 upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 100)).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize("word", ["coco", "custom", "mpii"])
@pytest.mark.parametrize(("exif", "wh"), [(None, (90, 100)), ("ignore", (90, 100)), ("apply", (100, 90))])
def test_sizes_that_the_file_does_not_say_are_upright_if_exif_is_applied(
    word: str, exif: str | None, wh: tuple[int, int], photos: Path, tmp_path: Path
) -> None:
    """Labels on upright pictures could not be packed at all: the size as stored was taken for the annotated one."""
    turned(photos / ("2.png" if word != "mpii" else "1.jpg"))
    document = mpii() if word == "mpii" else named("2.png", width=None, height=None)
    assert read(tmp_path, document, word, images=photos, exif=exif).instances[-1].wh == wh


def test_a_jpeg_whose_size_comes_late(photos: Path) -> None:
    raw = (photos / "1.jpg").read_bytes()
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    (photos / "late.jpg").write_bytes(raw[:2] + comment + raw[2:])
    assert size_as_read(photos / "late.jpg", "ignore") == (100, 90)


def test_names_with_backslashes_and_colons(photos: Path, tmp_path: Path) -> None:
    found = read(tmp_path, named("train\\3.jpg"), images=photos)
    assert found.instances[2].file == found.truth["images"][1]["file_name"] == "train/3.jpg"
    assert found.truth["notes"] == ["mine.json: 1 file name with a backslash; read with '/' between folders"]
    assert read(tmp_path, named("12:30:05.jpg"), images=photos).instances[2].file == "12:30:05.jpg"
    with pytest.raises(DataError, match="holds a backslash, expected '/' between folders; no such file"):
        read(tmp_path, named("val\\3.jpg"), images=photos)


def test_nobody_left_says_why(tmp_path: Path) -> None:
    document = good()
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1].update(keypoints=[0] * 51, num_keypoints=0)
    document["annotations"][2]["area"] = "big"
    with pytest.raises(DataError) as error:
        read(tmp_path, document, drop_invalid=True)
    assert str(error.value).endswith(
        "(3 annotations, 1 crowd, 1 without joints, "
        "dropped 1 invalid entry; the first: ann id=18 area='big': expected a number)"
    )


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'{"a":1},', b'"a",', b"1,"])
def test_a_file_of_which_every_few_bytes_are_an_object(piece: bytes) -> None:
    cost = sum(piece.count(mark) * size for mark, size in PYTHON_BYTES.items())
    raw = b"[" + piece * (MAX_MEMORY // cost + 1)
    with pytest.raises(DataError, match=r"big.json: its values take more than 4 GiB of memory"):
        parse(raw, source="big.json")


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    readers: list[Callable[[Path], object]] = [
        lambda path: datasets.read("coco", path),
        lambda path: datasets.read("mpii", path),
        lambda path: datasets.read("custom", tmp_path / "mine.json", skeleton=path),
    ]
    for reader in readers:
        for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
            with pytest.raises(DataError, match=f"{path}: is {what}") as error:
                reader(path)
            assert "\n" not in str(error.value)


def mpii(**fields: Any) -> list[dict[str, Any]]:
    entry = {"image": "1.jpg", "center": [50, 40], "scale": 0.4, "joints_vis": [1] * 16}
    entry["joints"] = [[20 + 2 * j, 15 + 3 * j] for j in range(16)]
    return [entry, {**entry, **fields}]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"center": [1e6, 40]}, r"ann id=1 center=\[1000000.0, 40\] scale=0.4: outside the 100x90 image"),
        ({"center": [50, -3000]}, r"ann id=1 center=\[50, -3000\] scale=0.4: outside"),
        ({"scale": 1e6}, "ann id=1 scale=1000000.0: a box of 2e[+]08 px for the 100x90 image"),
        ({"scale": 1e-3}, "ann id=1 scale=0.001: a box of 0.2 px for"),
    ],
)
def test_mpii_boxes_that_fit_no_photo(fields: dict[str, Any], text: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read(tmp_path, mpii(**fields), "mpii", images=photos)
    assert len(read(tmp_path, mpii(**fields), "mpii", images=photos, drop_invalid=True).instances) == 1


def test_mpii_joints_far_outside(photos: Path, tmp_path: Path) -> None:
    joints = mpii()[0]["joints"]
    found = read(tmp_path, mpii(joints=[[9001, 6], *joints[1:]]), "mpii", images=photos)
    assert found.instances[1].keypoints[0].tolist() == [0, 0, 0]
    assert found.truth["annotations"][1]["num_keypoints"] == 15
    assert "1 of 32 labelled joints further outside" in found.truth["notes"][0]
    assert "rank of ann id=1 at [9000.0, 5.0]" in found.truth["notes"][0]
    with pytest.raises(DataError, match=r"keypoints: of 1 person all coordinates lie within 0..1"):
        read(tmp_path, mpii(joints=[[x / 100, y / 90] for x, y in joints])[1:], "mpii", images=photos)


ONE = {"name": "one", "joints": ["tip"], "sigmas": [0.05], "visible_at": 1, "metric": "coco"}
NONE: Document = {key: [] for key in ("flips", "limbs", "bones", "upper", "lower", "torso")}


def skeleton(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_a_skeleton_of_one_joint(tmp_path: Path) -> None:
    one = datasets.load_skeleton(skeleton(tmp_path, json.dumps({**NONE, **ONE})))
    assert (one.num_joints, one.limbs, one.torso) == (1, (), (0, 0))
    assert datasets.skeleton_from_dict(datasets.skeleton_to_dict(one)) == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({**NONE, **ONE, "metric": "pck"}), r"torso=\[\]: metric pck measures by two joints; name them"),
        (json.dumps({**NONE, **ONE, "joints": [""]}), "joints: expected at most 1000 printable names"),
        (json.dumps({**NONE, **ONE, "joints": ["x" * 101]}), "names of at most 100 letters"),
        ("#" * (1 << 18) + "\n", "mine.yaml: is larger than"),
        ("".join(f"k{i}: 1\n" for i in range(4000)) + "k7: 1\n", "key given twice: k7"),
        ("x" * 1000 + ": 1\n", "unknown key 'xxx"),
    ],
)
def test_skeletons_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IconError, match=message) as error:
        datasets.load_skeleton(skeleton(tmp_path, text))
    assert len(str(error.value)) < 500 + len(str(tmp_path))
