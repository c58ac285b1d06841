"""COCO-format files whose names of photos are from another machine, and poses that such exports take apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from icon_dist import datasets
from icon_dist.errors import DataError
from icon_dist.types import Annotations

POSE = [100, 40, 2, 80, 50, 1, 0, 0, 0]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "sub/b c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def document(*names: str) -> dict[str, Any]:
    """A file of a person in each of the photos."""
    person = {"category_id": 1, "bbox": [60, 20, 80, 60], "area": 4800, "iscrowd": 0, "keypoints": POSE}
    return {
        "images": [{"id": at, "file_name": name, "width": 200, "height": 100} for at, name in enumerate(names)],
        "annotations": [person | {"id": at, "image_id": at} for at in range(len(names))],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}],
    }


def read(photos: Path, content: dict[str, Any], **options: Any) -> Annotations:
    (photos.parent / "e.json").write_text(json.dumps(content))
    return datasets.read("custom", photos.parent / "e.json", images=photos, **options)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/a.jpg", "a.jpg"),
        ("photos/a.jpg", "a.jpg"),
        ("/data/upload/1/1a2b3c4d-a.jpg", "a.jpg"),
        ("../../media/upload/1/1a2b3c4d-a.jpg", "a.jpg"),
        ("/home/me/set/a.jpg", "a.jpg"),
        (r"C:\set\sub\b c.jpg", "sub/b c.jpg"),
        ("https://host.example/x/sub/b%20c.jpg?sig=1", "sub/b c.jpg"),
        ("train/b%20c.jpg", "sub/b c.jpg"),
        ("b c.jpg", "sub/b c.jpg"),
        (r"D:\Set\A.JPG", "a.jpg"),
        ("/data/upload/1/1a2b3c4d-A.jpg", "a.jpg"),
    ],
)
def test_found_by_the_end(photos: Path, name: str, file: str) -> None:
    found = read(photos, document(name))
    assert found.instances[0].file == found.truth["images"][0]["file_name"] == file
    assert f"e.json: 1 file name with other folders, found by the end ({file} the first)" in found.truth["notes"]


def test_a_missing_photo_is_no_other_one(photos: Path) -> None:
    """Where one name is a file as it is, another is no name with other folders, but of a photo that is not there."""
    with pytest.raises(DataError, match=r"image 'b c.jpg': not in"):
        read(photos, document("a.jpg", "b c.jpg"))
    with pytest.raises(DataError, match=r"'x/a.jpg' and 'y/a.jpg' are both a.jpg in .*; give the folder that has both"):
        read(photos, document("x/a.jpg", "y/a.jpg"), drop_invalid=True)


@pytest.mark.parametrize("name", ["A.JPG", "sub/B c.jpg", "u\u0308.jpg"])
@pytest.mark.parametrize("word", ["custom", "coco"])
def test_names_in_other_letters(photos: Path, word: str, name: str) -> None:
    Image.new("RGB", (200, 100)).save(photos / "\u00fc.jpg")
    files = {"A.JPG": "a.jpg", "sub/B c.jpg": "sub/b c.jpg", "u\u0308.jpg": "\u00fc.jpg"}
    content = document("other.jpg", name)
    Image.new("RGB", (200, 100)).save(photos / "other.jpg")
    found = coco(photos, content) if word == "coco" else read(photos, content)
    assert [person.file for person in found.instances] == ["other.jpg", files[name]]
    note = f"e.json: 1 file name with other capitals or accents than the file has ({name} the first)"
    assert note in found.truth["notes"]


def coco(photos: Path, content: dict[str, Any]) -> Annotations:
    """The same people with COCO's joints."""
    content["categories"][0]["keypoints"] = list(datasets.load_skeleton("coco").joints)
    for annotation in content["annotations"]:
        annotation["keypoints"] = POSE + [0] * 42
    (photos.parent / "e.json").write_text(json.dumps(content))
    return datasets.read("coco", photos.parent / "e.json", images=photos)


def test_letters_that_tell_two_photos_apart(photos: Path) -> None:
    """Only one of A.jpg and a.jpg is left, or the name could be either: no photo is taken for another."""
    with pytest.raises(DataError, match=r"image 'A.jpg': not in"):
        read(photos, document("a.jpg", "A.jpg"))
    for name in ("x.jpg", "X.jpg"):
        Image.new("RGB", (200, 100)).save(photos / name)
    with pytest.raises(DataError, match=r"image 'x.JPG': not in"):
        read(photos, document("a.jpg", "x.JPG"))


def test_a_name_that_leaves_the_folder_is_none_of_it_in_other_letters(photos: Path) -> None:
    for name, why in (("/a.jpg", "leaves the images folder"), ("sub/../a.jpg", "leaves"), ("sub\\A.jpg", "backslash")):
        with pytest.raises(DataError, match=why):
            coco(photos, document("a.jpg", name))


def test_a_photo_of_another_kind_is_named(photos: Path) -> None:
    Image.new("RGB", (200, 100)).save(photos / "b.jpg")
    with pytest.raises(DataError, match=r"none of 2 photos is there, such as a.png \(but a.jpg is\); give theirs"):
        read(photos, document("a.png", "b.png"))


def test_names_that_are_files_stay(photos: Path) -> None:
    found = read(photos, document("a.jpg", "sub/b c.jpg"))
    assert [person.file for person in found.instances] == ["a.jpg", "sub/b c.jpg"]
    assert not any("other folders" in text for text in found.truth["notes"])


def test_joints_that_are_annotations_of_their_own(photos: Path) -> None:
    """As Label Studio's COCO export was before it joined all keypoints of a photo to one person."""
    apart = document("a.jpg", "a.jpg") | {"info": {"contributor": "Label Studio"}}
    apart["categories"] = [{"id": 1, "name": "nose"}, {"id": 2, "name": "left_eye"}]
    for at, annotation in enumerate(apart["annotations"]):
        annotation.update(category_id=at + 1, keypoints=[80 + at, 50, 2])
    with pytest.raises(
        DataError, match=r"2 annotations of one joint each, in 2 categories: nobody has a pose; Label St"
    ):
        read(photos, apart)


def test_label_studios_joined_people_are_noted(photos: Path) -> None:
    found = read(photos, document("images/a.jpg") | {"info": {"contributor": "Label Studio"}})
    assert any("joints of all people in a photo are one person's in this export" in t for t in found.truth["notes"])
