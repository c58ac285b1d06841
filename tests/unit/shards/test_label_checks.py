"""Mistakes of tools are found in real labels that were made wrong in one way, and real labels are not accused."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets.joined import join
from icon_dist.shards.label_checks import check, packed
from icon_dist.types import Annotations, Skeleton

COCO = datasets.load_skeleton("coco")
Truth = dict[str, Any]
Change = Callable[[dict[str, Any], int, int], None]  # of an annotation, with width and height

SETS = [
    ("coco", "coco/person_keypoints_val2017_rebuilt.json.gz", {}),
    ("coco", "coco/mini/person_keypoints.json", {}),
    ("coco", "coco/four/person_keypoints.json", {}),
    ("crowdpose", "crowdpose/crowdpose_val.json.gz", {}),
    ("mpii", "mpii/annotations.json", {"images": "mpii/images"}),
    ("custom", "lsp/lspet_full14.json", {"skeleton": "lsp"}),
    ("custom", "lsp/lspet_partial.json", {"skeleton": "lsp"}),
    ("custom", "lsp/lsp_train.json", {"skeleton": "lsp"}),
]


@pytest.mark.parametrize(("name", "file", "options"), SETS, ids=[s[1] for s in SETS])
def test_real_labels_pass(name: str, file: str, options: dict[str, str], shared: Path) -> None:
    found = datasets.read(name, shared / file, **{k: shared / v if k == "images" else v for k, v in options.items()})
    assert check(found.truth, found.skeleton) == ([], [])
    assert found.truth.keys() == {"images", "annotations"}, "real files are read as they are"


@pytest.fixture(scope="module")
def some(shared: Path) -> Truth:
    """The people of 60 photos of COCO val."""
    truth = datasets.read("coco", shared / SETS[0][1]).truth
    photos = {image["id"] for image in truth["images"][:60]}
    people = [a for a in truth["annotations"] if a["image_id"] in photos]
    return {"images": truth["images"][:60], "annotations": people}


def changed(truth: Truth, change: Change, *, share: float = 1) -> Truth:
    other = copy.deepcopy(truth)
    size = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    for a in other["annotations"][: round(len(other["annotations"]) * share)]:
        change(a, *size[a["image_id"]])
    return other


def joints(function: Callable[..., tuple[float, float]]) -> Change:
    def change(a: dict[str, Any], w: int, h: int) -> None:
        for i in range(0, len(a["keypoints"]), 3):
            if a["keypoints"][i + 2]:
                a["keypoints"][i : i + 2] = function(*a["keypoints"][i : i + 2], w, h)

    return change


def box(function: Callable[..., tuple[float, ...]]) -> Change:
    def change(a: dict[str, Any], wide: int, high: int) -> None:
        a["bbox"] = list(function(*a["bbox"], wide, high))

    return change


def to_offsets(a: dict[str, Any], *_: int) -> None:
    for i in range(0, 51, 3):
        if a["keypoints"][i + 2]:
            a["keypoints"][i] -= a["bbox"][0]
            a["keypoints"][i + 1] -= a["bbox"][1]


READINGS: dict[str, tuple[Change, str]] = {
    "corners": (box(lambda x, y, w, h, *_: (x, y, x + w, y + h)), "boxes look like x1, y1, x2, y2"),
    "center": (box(lambda x, y, w, h, *_: (x + w / 2, y + h / 2, w, h)), "boxes look like center x, center y, w, h"),
    "corners, y first": (box(lambda x, y, w, h, *_: (y, x, y + h, x + w)), "boxes look like y1, x1, y2, x2"),
    "y first": (box(lambda x, y, w, h, *_: (y, x, h, w)), "boxes or joints look like y before x"),
    "box percent": (
        box(lambda x, y, w, h, W, H: (x / W * 100, y / H * 100, w / W * 100, h / H * 100)),
        "boxes look like percent of the image",
    ),
    "box parts": (box(lambda x, y, w, h, W, H: (x / W, y / H, w / W, h / H)), "boxes look like parts of the image"),
    "joints percent": (joints(lambda x, y, w, h: (x / w * 100, y / h * 100)), "joints look like percent of the image"),
    "joints parts": (joints(lambda x, y, w, h: (x / w, y / h)), "joints look like parts of the image, 0..1"),
    "joints in the box": (to_offsets, "joints look like offsets from the corner of their box"),
    "corners in YOLO": (
        box(lambda x, y, w, h, *_: (x - (x + w) / 2, y - (y + h) / 2, x + w, y + h)),
        "boxes of a YOLO file look like x1, y1, x2, y2: read so",
    ),
    "corner and size in YOLO": (
        box(lambda x, y, w, h, *_: (x - w / 2, y - h / 2, w, h)),
        "boxes of a YOLO file look like left, top, width, height: read so",
    ),
    "joints, y first": (joints(lambda x, y, *_: (y, x)), "boxes or joints look like y before x"),
}


@pytest.mark.parametrize("share", [1, 0.3])
@pytest.mark.parametrize("name", list(READINGS))
def test_another_reading_is_found_and_named(name: str, share: float, some: Truth) -> None:
    change, text = READINGS[name]
    (finding,), notes = check(changed(some, change, share=share), COCO)
    assert finding.startswith(f"{text}")
    assert f" of {len(some['annotations'])} people" in finding
    assert not notes


def test_twelve_people_are_enough(shared: Path) -> None:
    truth = datasets.read("coco", shared / "coco/four/person_keypoints.json").truth
    for change, text in READINGS.values():
        ((finding, *_), _) = check(changed(truth, change), COCO)
        assert finding.startswith(text)


def few(points: list[float], boxes: list[list[float]]) -> Truth:
    """One person a box of an image of 100 x 80 px, with the same joints."""
    keypoints = points + [0.0] * (51 - len(points))
    people = [
        {"id": i, "image_id": 1, "iscrowd": 0, "bbox": b, "area": 1.0, "num_keypoints": 1, "keypoints": keypoints}
        for i, b in enumerate(boxes)
    ]
    return {"images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}], "annotations": people}


def test_corners_of_people_with_too_few_joints_to_judge_by() -> None:
    ((finding,), _) = check(few([40, 40, 2], [[30, 30, 90, 70]] * 4), COCO)
    assert finding.startswith("boxes of 4 of 4 people (id 0 the first) reach beyond the image, as x1, y1, x2, y2 none")
    assert check(few([40, 40, 2], [[30, 30, 50, 40]] * 4), COCO) == ([], [])
    assert check(few([40, 40, 2], [[-30, 30, 120, 40]] * 4), COCO) == ([], []), "bodies cut off by the image"


def test_joints_off_their_boxes(some: Truth) -> None:
    half = changed(some, joints(lambda x, y, w, h: (w - x, y + h / 3)))
    ((finding,), _) = check(half, COCO)
    assert "lie outside their own padded box; boxes and joints do not match" in finding
    assert check(changed(some, joints(lambda x, y, w, h: (w - x, y + h / 3)), share=0.02), COCO) == ([], [])


@pytest.mark.parametrize("scale", [1 / 2, 1.25, 2])
def test_labels_of_copies_of_another_size(scale: float, some: Truth) -> None:
    def change(a: dict[str, Any], *_: int) -> None:
        a["bbox"] = [scale * v for v in a["bbox"]]
        a["keypoints"] = [v if i % 3 == 2 else scale * v for i, v in enumerate(a["keypoints"])]

    scaled = changed(some, change)
    size = {image["id"]: (image["width"], image["height"]) for image in scaled["images"]}
    people = [a for a in scaled["annotations"] if not a["iscrowd"] and any(a["keypoints"][2::3])]
    out = 0
    for a in people:
        (w, h), points = size[a["image_id"]], a["keypoints"]
        out += any(points[i + 2] and (points[i] > 1.05 * w or points[i + 1] > 1.05 * h) for i in range(0, 51, 3))
    _, (note,) = check(scaled, COCO)
    if scale < 1:
        assert note.startswith(f"nothing of {len(people)} people lies beyond 50% of the image's sides; were the labels")
    else:
        assert note.startswith(f"joints of {out} of {len(people)} people (id ")
        assert note.endswith(" lie outside their image; were the labels made on larger copies?")


def test_people_with_one_box(some: Truth) -> None:
    """Everybody's box is the whole photo; those who are alone in theirs are right."""
    whole = changed(some, box(lambda *values: (0, 0, *values[4:])))
    photos = Counter(a["image_id"] for a in whole["annotations"] if not a["iscrowd"] and any(a["keypoints"][2::3]))
    together = sum(number for number in photos.values() if number > 1)
    ((finding,), _) = check(whole, COCO)
    assert finding.startswith(f"{together} of {sum(photos.values())} people (id ")
    assert "have the same box as somebody else in their photo" in finding


def test_everything_in_percent(some: Truth) -> None:
    truth = changed(changed(some, READINGS["box percent"][0]), READINGS["joints percent"][0])
    ((finding,), _) = check(truth, COCO)
    assert finding.startswith(f"joints and boxes of all {len(some['annotations'])} people end within 100 px: percent")


def test_joints_far_outside_and_at_the_origin(some: Truth) -> None:
    def nose(x: float) -> Change:
        def change(a: dict[str, Any], *_: int) -> None:
            a["keypoints"][:3] = [x, 0, 2]

        return change

    ((finding,), _) = check(changed(some, nose(9000), share=0.1), COCO)
    assert "further outside the image than it is large (the first: nose of id" in finding
    ((finding,), _) = check(changed(some, nose(0)), COCO)
    assert finding.startswith(f"{len(some['annotations'])} of ")
    assert "labelled joints at (0, 0) or beyond that corner; joints that nobody labelled need v=0" in finding


def test_people_who_are_there_twice(some: Truth) -> None:
    twin = {**some["annotations"][3], "id": 7, "bbox": [1, 2, 300, 400]}
    ((finding,), _) = check({**some, "annotations": [*some["annotations"], twin]}, COCO)
    first = some["annotations"][3]["id"]
    assert finding.startswith("1 person is in the set twice, with equal joints in the same photo (ids ")
    assert f"(ids {first} and 7 the first)" in finding
    for value in twin["keypoints"][:2]:
        assert value == round(value), "whole pixels"
    again = [v + 0.01 if i % 3 < 2 else min(v, 1) for i, v in enumerate(twin["keypoints"])]  # by another tool
    ((finding,), _) = check({**some, "annotations": [*some["annotations"], twin | {"keypoints": again}]}, COCO)
    assert finding.startswith("1 person is in the set twice")
    assert check(few([40, 40, 2, 41, 41, 2], [[30, 30, 20, 20], [31, 30, 20, 20]]), COCO) == ([], []), "two joints"


def test_the_same_file_given_twice(some: Truth) -> None:
    part = Annotations(COCO, [], some)
    ((finding,), (note,)) = check(join([part, part]).truth, COCO)
    judged = sum(sum(v > 0 for v in a["keypoints"][2::3]) >= 3 for a in some["annotations"])
    assert finding.startswith(f"{judged} people are in the set twice")
    assert note.startswith("60 photos under several image ids")


def test_what_contrast_and_pck_cannot_count(some: Truth) -> None:
    def seen(a: dict[str, Any], *_: int) -> None:
        a["keypoints"] = [min(v, 1) if i % 3 == 2 else v for i, v in enumerate(a["keypoints"])]

    def torso(a: dict[str, Any], *_: int) -> None:
        a["keypoints"][15:18] = [0, 0, 0]

    occluded = "no joint has v=2, so none counts as visible for contrast; train with loss.counted=labelled"
    assert check(changed(some, seen), COCO) == ([], [occluded])
    assert check(changed(some, seen), dataclasses.replace(COCO, visible_at=1)) == ([], [])
    pck: Skeleton = dataclasses.replace(COCO, metric="pck")
    ((_, (note,))) = check(changed(some, torso), pck)
    assert note.startswith("nobody has both left_shoulder and right_hip, which PCK measures by")
    assert check(some, pck) == ([], [])


def test_how_many_are_packed(shared: Path) -> None:
    mini = datasets.read("coco", shared / SETS[1][1])
    assert packed(len(mini.instances), mini.truth) == "86 of 172 people (81 without joints, 5 crowds)"
    one = {"iscrowd": 0, "keypoints": [1, 2, 2]}
    assert packed(1, {"annotations": [one]}) == "1 person"
    assert packed(1, {"annotations": [one, {**one, "iscrowd": 1}]}) == "1 of 2 people (1 crowd)"


def test_joined_files_keep_their_notes_and_categories() -> None:
    def part(**more: Any) -> Annotations:
        return Annotations(COCO, [], {"images": [], "annotations": [], **more})

    def ids(*parts: Annotations) -> list[int]:
        return [c["id"] for c in join(parts).truth.get("categories", [])]

    zero = part(categories=[{"id": 0, "name": "person"}])
    assert ids(zero) == ids(zero, zero) == [0]
    assert ids(part(), zero) == [1, 0]
    assert ids(part(), part()) == []
    assert join([part(notes=["a"]), part(), part(notes=["b"])]).truth["notes"] == ["a", "b"]
    assert join([part(), part()]).truth == {"images": [], "annotations": []}


def test_nobody_is_nothing_to_judge() -> None:
    assert check({"images": [], "annotations": []}, COCO) == ([], [])
    assert np.array(few([1, 2, 2], [])["annotations"]).size == 0
