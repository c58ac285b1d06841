"""A detector's boxes: every way in which tools get them wrong is an error or a note with counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist.datasets import load_skeleton
from icon_dist.datasets.detections import category_ids, detected
from icon_dist.errors import DataError
from icon_dist.types import Annotations

Entry = dict[str, Any]
PLACES = [(3, (640, 480)), (4, (480, 640)), (9, (500, 375))]  # photos: id, width and height
BOXES = [(3, (10, 20, 100, 200)), (3, (400, 60, 150, 300)), (4, (300, 250, 160, 330)), (9, (250, 30, 120, 310))]


@pytest.fixture
def whole() -> Annotations:
    """Three photos with four annotated people, who are not packed."""
    images = [{"id": i, "file_name": f"val/{i:012d}.jpg", "width": w, "height": h} for i, (w, h) in PLACES]
    people = [
        {"id": row, "image_id": i, "bbox": list(box), "iscrowd": 0, "num_keypoints": 5}
        for row, (i, box) in enumerate(BOXES)
    ]
    return Annotations(load_skeleton("coco"), [], {"images": images, "annotations": people})


def good() -> list[Entry]:
    """A detector that is right, with a box of another class."""
    found = [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": 0.5 + row / 10}
        for row, (i, box) in enumerate(BOXES)
    ]
    return [*found, {"image_id": 3, "category_id": 44, "bbox": [1, 2, 3, 4], "score": 0.4}]


def read(whole: Annotations, entries: Any, folder: Path) -> Annotations:
    (folder / "boxes.json").write_text(json.dumps(entries))
    return detected(whole, str(folder / "boxes.json"))


def every(entries: list[Entry], change: Callable[[list[float]], list[float]]) -> list[Entry]:
    return [{**entry, "bbox": change(entry["bbox"])} for entry in entries if entry["category_id"] == 1]


def photo_wh(entry: Entry) -> tuple[int, int]:
    return dict(PLACES)[entry["image_id"]]


def as_shares(entries: list[Entry]) -> list[Entry]:
    scaled = []
    for entry in entries:
        (w, h), box = photo_wh(entry), entry["bbox"]
        scaled.append({**entry, "bbox": [box[0] / w, box[1] / h, box[2] / w, box[3] / h]})
    return scaled


def test_a_right_file_has_nothing_to_say(
    whole: Annotations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read(whole, good(), tmp_path)
    assert [(one.id, one.image_id, one.box, one.score) for one in found.instances] == [
        (row, i, box, pytest.approx(0.5 + row / 10)) for row, (i, box) in enumerate(BOXES)
    ]
    assert [(one.file, one.wh) for one in found.instances[:3:2]] == [
        ("val/000000000003.jpg", (640, 480)),
        ("val/000000000004.jpg", (480, 640)),
    ]
    assert not any(one.keypoints.any() for one in found.instances)
    read(whole, [{key: entry[key] for key in ("image_id", "bbox", "score")} for entry in good()[:4]], tmp_path)
    assert capsys.readouterr().err == ""


def test_ids_of_tables_are_integers(whole: Annotations, tmp_path: Path) -> None:
    entries = [{**one, "image_id": float(one["image_id"]), "category_id": 1.0} for one in good()[:4]]
    assert read(whole, entries, tmp_path).instances[0].image_id == good()[0]["image_id"]


@pytest.mark.parametrize(("own", "file"), [(1, 0), (1, 3), (0, 1), (2, 1)])
def test_the_sets_own_category_counts(whole: Annotations, tmp_path: Path, own: int, file: int) -> None:
    entries = [{**entry, "category_id": file} for entry in good()[:4]]
    truth = whole.truth | {"categories": [{"id": own, "name": "person"}]}
    there = Annotations(whole.skeleton, [], truth)
    assert category_ids(truth) == [own]
    with pytest.raises(DataError) as error:
        read(there, entries, tmp_path)
    assert f"0 of 4 boxes have category_id {own}, which is that of people in the set; the file's are {file} (4)" in str(
        error.value
    )
    right = [{**entry, "category_id": own} for entry in entries]
    assert len(read(there, right, tmp_path).instances) == 4
    assert category_ids(whole.truth) == [1], "a set that names none"


BAD: dict[str, tuple[Callable[[list[Entry]], Any], str]] = {
    "empty": (lambda _: [], "an empty list, expected a list of"),
    "annotations": (lambda e: {"annotations": e}, "annotations, not results; expected a list of"),
    "object": (lambda e: {"boxes": e}, "expected a list of {image_id"),
    "text for a box": (lambda e: ["x", *e], "#0 'x': expected an object"),
    "no box": (
        lambda e: [{"image_id": 3, "category_id": 1, "score": 1}, *e],
        r"#0 .*: no bbox; .*\(1 of 6 boxes\)",
    ),
    "no score": (
        lambda e: [{k: v for k, v in one.items() if k != "score"} for one in e],
        r"no score; .*\(5 of 5 boxes\)",
    ),
    "text for a score": (
        lambda e: [{**one, "score": "0.9"} for one in e],
        r"score='0.9': not a box .*\(4 of 4 boxes\)",
    ),
    "NaN": (lambda e: [{**e[0], "score": float("nan")}, *e[1:]], r"score=nan: not a box .*\(1 of 4 boxes\)"),
    "logits": (lambda e: [{**e[0], "score": -1.5}, *e[1:]], r"#0 score=-1.5: expected 0 or more.*\(1 of 4 boxes\)"),
    "text for a category": (
        lambda e: [{**one, "category_id": "person"} for one in e],
        "category_id='person': expected an",
    ),
    "text for an id": (lambda e: [{**one, "image_id": str(one["image_id"])} for one in e], "'3': .*, 3 for this photo"),
    "a file name": (lambda e: [{**one, "image_id": "000000000004.jpg"} for one in e], ", 4 for this photo"),
    "a stranger": (
        lambda e: [{**one, "image_id": "x.jpg"} for one in e],
        "the id that the photo has in the annotations",
    ),
    "half an id": (lambda e: [{**e[0], "image_id": 3.5}], "image_id=3.5: expected an integer"),
    "other photos": (
        lambda e: [*e, {**e[0], "image_id": 999}],
        r"#5 image_id=999: not in the annotations \(1 of 4 photos\); .*\(1 of 5 boxes\)",
    ),
    "zero size": (lambda e: [{**e[0], "bbox": [5, 5, 0, 10]}, *e[1:]], r"#0 bbox=.*width > 0.*\(1 of 4 boxes\)"),
    "three numbers": (lambda e: [{**e[0], "bbox": [5, 5, 10]}], "not a box with a score"),
    "outside": (
        lambda e: [{**e[0], "bbox": [700, 5, 20, 10]}, *e[1:]],
        r"#0 .*in a photo of 640x480 px it lies outside; .*\(1 of 4 boxes\)",
    ),
    "before the corner": (lambda e: [{**e[0], "bbox": [-30, 5, 20, 10]}, *e[1:]], "it lies outside"),
    "shares": (lambda e: as_shares(e[:4]), r"like shares of width and height from 0 to 1; .*\(4 of 4 boxes\)"),
    "corners": (
        lambda e: every(e, lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]),
        r"looks like the corners x1, y1, x2, y2; .*\(3 of 4 boxes\)",
    ),
    "centers": (
        lambda e: every(e, lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]]),
        r"looks like center x, center y, width, height; .*\(3 of 4 boxes\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_with_counts(name: str, whole: Annotations, tmp_path: Path) -> None:
    change, says = BAD[name]
    with pytest.raises(DataError, match=says) as error:
        read(whole, change(good()), tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "boxes.json"))


NOTES: dict[str, tuple[Callable[[list[Entry]], list[Entry]], str]] = {
    "percent scores": (lambda e: [{**one, "score": 99 * one["score"]} for one in e], "scores go up to 79.2, not to 1"),
    "counted from 0": (
        lambda e: [*e, *({**one, "category_id": 0} for one in e)],
        "4 boxes of other categories than 1 left out; 4 of them have category_id 0: if the ids count from 0, keep only",
    ),
    "no scores": (lambda e: [{**one, "score": 0} for one in e], "all 4 boxes have score 0"),
    "twice": (lambda e: [*e, e[0]], "1 of 5 boxes are given twice"),
    "elsewhere": (
        lambda e: [{**one, "bbox": [one["bbox"][0] / 2, one["bbox"][1] / 2, 40, 60]} for one in e],
        "only 0 of 4 people of the ground truth have a box around them",
    ),
    "few photos": (lambda e: e[:2], "no box in 2 of 3 photos that have people"),
    "percent boxes": (
        lambda e: [{**one, "bbox": [20 + i, 30, 25, 60], "score": 0.5} for one in e for i in range(2)],
        "all 8 boxes lie in the upper left 100x100 px; if they are in percent, write px",
    ),
    "beyond": (
        lambda e: every(e, lambda b: [b[0] - 20, b[1], 3 * b[2] + 90, b[3]]),
        "boxes reach far beyond the photo",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_is_unusual_is_one_line(
    name: str, whole: Annotations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = NOTES[name]
    read(whole, change(good()[:4]), tmp_path)
    said = capsys.readouterr().err
    assert f"icon_dist: note: {tmp_path}/boxes.json: " in said
    assert says in said


def test_boxes_that_reach_over_an_edge_are_no_other_form(whole: Annotations, tmp_path: Path) -> None:
    """Detectors do not always cut their boxes; the boxes stay what they are."""
    entries = every(good(), lambda b: [b[0] - 4, b[1] - 3, b[2] + 9, b[3] + 7])
    found = read(whole, entries, tmp_path)
    np.testing.assert_array_equal([one.box for one in found.instances], [entry["bbox"] for entry in entries])


def test_boxes_of_other_tools(shared: Path) -> None:
    """Files that real detectors wrote, and what people make of them."""
    from icon_dist import datasets

    cases = shared.parent / "cases" / "detections"
    whole = datasets.read("coco", shared / "coco" / "four" / "person_keypoints.json")
    assert len(detected(whole, str(cases / "good.json")).instances) == 12
    for name, says in {
        "cat0": "0 of 12 boxes have category_id 1, .*are 0 \\(12\\)",
        "norm": "shares of width and height from 0 to 1; .*12 of 12 boxes",
        "nobbox": "no bbox; .*12 of 12 boxes",
    }.items():
        with pytest.raises(DataError, match=says):
            detected(whole, str(cases / f"{name}.json"))
