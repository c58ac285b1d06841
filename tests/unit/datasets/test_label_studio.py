"""Label Studio's exports, as Label Studio 1.x writes them; the pixels that its own converter makes of them by hand.

``EXPORT`` becomes, by ``Converter.convert_to_yolo`` of label-studio-sdk 2.1.2, the lines in ``CONVERTED``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icon_dist import datasets
from icon_dist.errors import ConfigError, DataError
from icon_dist.types import Annotations

SIZE = {"original_width": 200, "original_height": 100, "image_rotation": 0}
Export = list[Any]
Change = Callable[[Export], object]


def box(name: str, x: float, y: float, w: float, h: float, label: str = "Dog", **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]}
    return SIZE | {"id": name, "type": "rectanglelabels", "from_name": "b", "to_name": "img", "value": value | more}


def point(name: str, x: float, y: float, label: str, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    result = {"id": name, "type": "keypointlabels", "from_name": "k", "to_name": "img", "origin": "manual"}
    return SIZE | result | {"value": value} | more


def relation(a: str, b: str) -> dict[str, Any]:
    return {"from_id": a, "to_id": b, "type": "relation", "direction": "right"}


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts = {"id": 7, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "lead_time": 3.5, "task": 1}
    return (
        facts
        | {"created_at": "2024-01-01T10:00:00Z", "updated_at": "2024-01-01T10:00:00Z"}
        | {"result": [*results]}
        | more
    )


def task(number: int, image: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": number,
        "drafts": [],
        "predictions": [],
        "meta": {},
        "project": 1,
        "comment_count": 0,
    }
    return facts | {"data": {"image": image}, "annotations": [*annotations]} | more


TWO = [
    box("A", 10, 20, 40, 60),
    box("B", 40, 20, 50, 70),
    point("1", 20, 30, "left_ear", parentID="A"),
    point("2", 45, 40, "right_ear", parentID="A"),
    point("3", 60, 50, "left_ear", parentID="B"),
]
EXPORT = [task(1, "/data/upload/1/1a2b3c4d-a.jpg", annotation(*TWO))]
CONVERTED = ["0 0.3 0.5 0.4 0.6 0.2 0.3 2 0.45 0.4 2", "0 0.65 0.55 0.5 0.7 0.6 0.5 2 0.0 0.0 0"]
JOINTS = [[[40, 30, 2], [90, 40, 2]], [[120, 50, 2], [0, 0, 0]]]  # left ear, right ear of A and B, px


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (200, 100)).save(folder / name)
    return folder


def read(photos: Path, export: Any, **options: Any) -> Annotations:
    path = photos.parent / "export.json"
    path.write_text(json.dumps(export))
    return datasets.read("labelstudio", path, images=photos, **options)


def joints(found: Annotations) -> list[Any]:
    return [person.keypoints.tolist() for person in found.instances]


def test_as_its_own_converter_has_it(photos: Path) -> None:
    found = read(photos, EXPORT)
    assert joints(found) == JOINTS
    assert (found.skeleton.joints, found.skeleton.flips) == (("left_ear", "right_ear"), ((0, 1),))
    for line, entry in zip(CONVERTED, found.truth["annotations"], strict=True):
        _, x, y, w, h, *pose = map(float, line.split())
        assert entry["bbox"] == pytest.approx([(x - w / 2) * 200, (y - h / 2) * 100, w * 200, h * 100])
        assert entry["keypoints"] == pytest.approx([v * s for v, s in zip(pose, [200, 100, 1] * 2, strict=True)])
    assert found.truth["images"] == [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}]


ADDRESSES = [
    "/data/upload/1/1a2b3c4d-a.jpg",
    "/data/local-files/?d=sets/one/a.jpg",
    "/data/local-files/?d=a.jpg",
    "https://host.example/p/a.jpg?X-Amz-Signature=ab.c&x=1",
    "http://localhost:8080/data/upload/1a2b3c4d-a.jpg",
    "s3://bucket/sets/one/a.jpg",
    "gs://bucket/a.jpg",
    "azure-blob://container/x/a.jpg",
    "a.jpg",
    r"C:\photos\a.jpg",
    "/home/me/photos/a.jpg",
    "upload/1/1a2b3c4d-a.jpg",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_photos_by_any_address(photos: Path, address: str) -> None:
    assert read(photos, [task(1, address, annotation(*TWO))]).instances[0].file == "a.jpg"


def test_photos_in_folders_and_with_odd_names(photos: Path) -> None:
    for name in ("x/a.jpg", "y/c d é.jpg"):
        (photos / name).parent.mkdir()
        Image.new("RGB", (200, 100)).save(photos / name)
    file = read(photos, [task(1, "/data/local-files/?d=y%2Fc%20d%20e%CC%81.jpg", annotation(*TWO))]).instances[0].file
    assert file == "y/c d é.jpg"
    assert read(photos, [task(1, "s3://b/x/a.jpg", annotation(*TWO))]).instances[0].file == "x/a.jpg"
    (photos / "a.jpg").rename(photos / "y/a.jpg")
    with pytest.raises(DataError, match=r"task 1 's3://b/z/a.jpg': x/a.jpg and y/a.jpg have this name; keep one"):
        read(photos, [task(1, "s3://b/z/a.jpg", annotation(*TWO))])


def untied() -> list[dict[str, Any]]:
    return [{k: v for k, v in result.items() if k != "parentID"} for result in TWO]


SAME: dict[str, Change] = {
    "relations instead of parents": lambda e: e[0]["annotations"].__setitem__(
        0, annotation(*untied(), relation("1", "A"), relation("A", "2"), relation("3", "B"), relation("A", "B"))
    ),
    "keypoints tied to each other": lambda e: e[0]["annotations"].__setitem__(
        0, annotation(*untied(), relation("1", "2"), relation("2", "A"), relation("3", "B"))
    ),
    "by the boxes alone": lambda e: e[0]["annotations"].__setitem__(0, annotation(*untied())),
    "as text of a newer version": lambda e: e[0].update(
        is_labeled=True, file_upload="1a2b3c4d-a.jpg", total_annotations=1
    ),
    "a skipped annotation before": lambda e: e[0]["annotations"].insert(0, annotation(was_cancelled=True)),
    "an older annotation after": lambda e: e[0]["annotations"].append(
        annotation(box("Z", 0, 0, 9, 9), updated_at="2023-05-05T00:00:00Z", created_at="2023-05-05T00:00:00Z")
    ),
    "a newer one that is not the ground truth": lambda e: (
        e[0]["annotations"][0].update(ground_truth=True),
        e[0]["annotations"].append(annotation(box("Z", 0, 0, 9, 9), updated_at="2025-05-05T00:00:00Z")),
    ),
    "predictions": lambda e: e[0].update(predictions=[{"result": [box("P", 1, 1, 5, 5)], "score": 0.9}]),
    "completions, as they were called": lambda e: e[0].update(completions=e[0].pop("annotations")),
    "Labels of another tag": lambda e: [
        (r["value"].update(labels=r["value"].pop(r["type"])), r.update(type="labels"))
        for r in e[0]["annotations"][0]["result"]
    ],
    "labels apart from shapes": lambda e: e[0]["annotations"][0]["result"].extend(
        {"id": r["id"], "type": "labels", "value": {"labels": r["value"].pop(r["type"])}}
        for r in list(e[0]["annotations"][0]["result"])
    ),
    "a polygon": lambda e: e[0]["annotations"][0]["result"].__setitem__(
        0,
        SIZE
        | {
            "id": "A",
            "type": "polygonlabels",
            "value": {"points": [[10, 20], [50, 20], [30, 80]], "polygonlabels": ["Dog"]},
        },
    ),
    "an ellipse": lambda e: e[0]["annotations"][0]["result"].__setitem__(
        0,
        SIZE
        | {
            "id": "A",
            "type": "ellipselabels",
            "value": {"x": 30, "y": 50, "radiusX": 20, "radiusY": 30, "ellipselabels": ["Dog"]},
        },
    ),
    "a box of another kind": lambda e: e[0]["annotations"][0]["result"].append(box("F", 20, 30, 5, 5, "Ball")),
    "a choice about the photo": lambda e: e[0]["annotations"][0]["result"].append(
        {"id": "q", "type": "choices", "from_name": "weather", "value": {"choices": ["rain"]}}
    ),
    "a text": lambda e: e[0]["annotations"][0]["result"].append(
        {"id": "t", "type": "textarea", "value": {"text": ["x"]}}
    ),
    "no sizes": lambda e: [r.pop(k) for r in e[0]["annotations"][0]["result"] for k in SIZE],
    "an unlabelled task": lambda e: e.append(task(2, "/data/upload/1/b.jpg")),
    "a task with drafts only": lambda e: e.append(task(2, "/x/b.jpg", drafts=[annotation(*TWO)])),
    "a task that was skipped": lambda e: e.append(task(2, "/x/b.jpg", annotation(*TWO, was_cancelled=True))),
    "another key of the photo": lambda e: e[0].update(data={"title": "Dogs", "photo": "/x/a.jpg"}),
    "a photo of another size, of the same shape": lambda e: [
        r.update(original_width=401, original_height=200) for r in e[0]["annotations"][0]["result"]
    ],
    "ids of a rectangle and its keypoints that are the same": lambda e: e[0]["annotations"].__setitem__(
        0, annotation(*(r | {"id": "1"} for r in untied()))
    ),
    "a choice about a region, with its place": lambda e: e[0]["annotations"][0]["result"].append(
        TWO[0] | {"type": "choices", "value": {k: v for k, v in TWO[0]["value"].items() if k[0] != "r"}}
    ),
    "a thumbnail before the photo": lambda e: (e[0].update(data={"small": "/x/b.jpg", "img": "/x/a.jpg"}),),
    "task ids twice": lambda e: e.append(task(1, "/data/upload/1/b.jpg", annotation())),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_read_all_the_same(photos: Path, change: Change) -> None:
    export = copy.deepcopy(EXPORT)
    change(export)
    found = read(photos, export)
    assert joints(found) == JOINTS
    assert found.instances[0].box == (20, 20, 79, 59)


def test_json_min(photos: Path) -> None:
    entry: dict[str, Any] = {
        "image": "/data/upload/1/1a2b3c4d-a.jpg",
        "id": 1,
        "annotator": 1,
        "annotation_id": 7,
        "lead_time": 3.5,
    }
    for key, results in (("box", TWO[:2]), ("kp", TWO[2:])):
        entry[key] = [r["value"] | {k: r[k] for k in ("original_width", "original_height")} for r in results]
    assert joints(read(photos, [entry | {"sentiment": "good"}])) == JOINTS


def test_hidden_joints(photos: Path) -> None:
    hidden = {"id": "1", "type": "choices", "from_name": "v", "value": {"x": 20, "y": 30, "choices": ["Occluded"]}}
    by_choice = [annotation(*TWO, hidden)]
    by_flag = copy.deepcopy([annotation(*TWO)])
    by_flag[0]["result"][2]["value"]["hidden"] = True  # as the sdk's own import of COCO writes v < 2
    for one in (by_choice, by_flag):
        assert [v for _, _, v in joints(read(photos, [task(1, "a.jpg", *one)]))[0]] == [1, 2]


def test_people_without_rectangles(photos: Path) -> None:
    """One if nobody is tied, several if keypoints are tied to each other; the box is around the joints."""
    found = read(photos, [task(1, "a.jpg", annotation(*untied()[2:4]))])
    assert joints(found) == JOINTS[:1]
    assert found.truth["annotations"][0]["bbox"] == pytest.approx([35, 25, 60, 20])
    pairs = [*untied()[2:], point("4", 80, 60, "right_ear"), relation("1", "2"), relation("3", "4")]
    assert joints(read(photos, [task(1, "a.jpg", annotation(*pairs))])) == [JOINTS[0], [[120, 50, 2], [160, 60, 2]]]


def test_turned_rectangle(photos: Path) -> None:
    """A quarter turn about its first corner, in pixels: 40 x 60 px to the left and below of (100, 20)."""
    found = read(
        photos, [task(1, "a.jpg", annotation(box("A", 50, 20, 30, 40, rotation=90), point("1", 40, 50, "nose")))]
    )
    np.testing.assert_allclose(found.truth["annotations"][0]["bbox"], [60, 20, 40, 60], atol=1e-9)


@pytest.mark.parametrize("turn", [0, 30, 90, -45])
def test_turned_ellipse(photos: Path, turn: float) -> None:
    """About its center (60, 50), in pixels: its axes of 40 and 30 px followed all around."""
    t, a = np.linspace(0, 2 * np.pi, 100001), np.radians(turn)
    x = 60 + 40 * np.cos(t) * np.cos(a) - 30 * np.sin(t) * np.sin(a)
    y = 50 + 40 * np.cos(t) * np.sin(a) + 30 * np.sin(t) * np.cos(a)
    value = {"x": 30, "y": 50, "radiusX": 20, "radiusY": 30, "rotation": turn, "ellipselabels": ["Dog"]}
    ellipse = SIZE | {"id": "A", "type": "ellipselabels", "value": value}
    found = read(photos, [task(1, "a.jpg", annotation(ellipse, point("1", 30, 50, "nose")))])
    around = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
    np.testing.assert_allclose(found.truth["annotations"][0]["bbox"], around, atol=1e-6)


def test_notes_say_what_is_left_out(photos: Path) -> None:
    results = [*untied(), point("5", 99, 99, "right_ear"), box("F", 0, 0, 5, 5, "Ball")]
    later = annotation(*results, updated_at="2024-02-02T00:00:00Z")
    notes = " | ".join(read(photos, [task(1, "a.jpg", annotation(), later), task(2, "b.jpg")]).truth["notes"])
    assert "1 task without an annotation (or skipped ones only), left out" in notes
    assert "1 task with several annotations; the one marked as ground truth, else the latest, is read" in notes
    assert "1 keypoint in none of several rectangles, left out (right_ear of task 1 the first)" in notes
    assert "1 keypoint in several rectangles, given to small ones first (right_ear of task 1 the first)" in notes
    assert "1 box of 'Ball', which never hold a keypoint, left out" in notes


def test_an_empty_annotation_is_a_photo_without_people(photos: Path) -> None:
    found = read(photos, [*EXPORT, task(2, "b.jpg", annotation())])
    assert [image["file_name"] for image in found.truth["images"]] == ["a.jpg", "b.jpg"]


def test_order_of_joints(photos: Path) -> None:
    """A public set's where the names are its own, else by name, numbers as numbers; a skeleton's if one is given."""
    coco = datasets.load_skeleton("coco")
    names = [name.replace("_", " ").title() for name in reversed(coco.joints)]
    points = [point(str(at), 10 + 3 * at, 20 + at, name) for at, name in enumerate(names)]
    found = read(photos, [task(1, "a.jpg", annotation(*points))])
    assert found.skeleton == coco
    assert found.instances[0].keypoints[0].tolist() == pytest.approx([2 * (10 + 3 * 16), 36, 2])
    points = [point(str(at), 10 + at, 20, f"p{at}") for at in range(11)]
    assert read(photos, [task(1, "a.jpg", annotation(*points))]).skeleton.joints == tuple(f"p{at}" for at in range(11))
    found = read(photos, EXPORT, skeleton="coco")
    assert found.instances[0].keypoints[3:5].tolist() == JOINTS[0]
    odd = [task(1, "a.jpg", annotation(*TWO, point("9", 50, 50, "collar", parentID="A")))]
    assert "1 keypoint 'collar', no joint of skeleton coco, left out" in " ".join(
        read(photos, odd, skeleton="coco").truth["notes"]
    )


def test_sigmas_from_tasks_labelled_twice(photos: Path) -> None:
    draw = np.random.default_rng(0)
    tasks = []
    for number in range(12):
        Image.new("RGB", (200, 100)).save(photos / f"{number}.jpg")
        shifts = draw.normal(0, 0.5, (2, 2))
        ones = [
            annotation(box("A", 10, 20, 40, 60), point("1", 20 + x, 30 + y, "nose"), id=at)
            for at, (x, y) in enumerate(shifts)
        ]
        tasks.append(task(number, f"{number}.jpg", *ones))
    found = read(photos, tasks)
    assert any("1 from people labelled twice" in text for text in found.truth["notes"])
    assert 0.001 < found.skeleton.sigmas[0] < 0.03


BAD: dict[str, tuple[Change, str]] = {
    "an object on top": (lambda e: e.clear(), r"expected a list of tasks, as Label Studio exports them"),
    "no object": (lambda e: e.insert(0, 5), r"task number 0 is not an object"),
    "tasks to import": (lambda e: e[0].pop("annotations"), r"task 1 annotations=None: expected a list"),
    "results of text": (
        lambda e: e[0]["annotations"][0].update(result="x"),
        r"task 1 result='x': expected a list of regions",
    ),
    "no photo": (
        lambda e: e[0].update(data={"text": "hello"}),
        r"task 1 data=\{'text': 'hello'\}: expected the address of one",
    ),
    "a list of photos": (
        lambda e: e[0].update(data={"pages": ["/x/a.jpg", "/x/b.jpg"]}),
        r"task 1 has several photos; one photo a task is read, so give each photo a task of its own",
    ),
    "regions on two photos": (
        lambda e: (
            e[0].update(data={"left": "/x/a.jpg", "right": "/x/b.jpg"}),
            [r.update(to_name="right") for r in e[0]["annotations"][0]["result"][3:]],
        ),
        r"task 1 has several photos; one photo a task is read",
    ),
    "two photos, and no word which": (
        lambda e: e[0].update(data={"left": "/x/a.jpg", "right": "/x/b.jpg"}),
        r"task 1 data has several photos, 'left', 'right'; name the one that is labelled image",
    ),
    "a box of negative width": (
        lambda e: e[0]["annotations"][0]["result"][0]["value"].update(width=-5),
        r"region A width=-5 height=60: below 0",
    ),
    "predictions only": (
        lambda e: e[0].update(annotations=[], predictions=[annotation(*TWO)]),
        r"no keypoints in 1 task \(1 without an annotation or with skipped ones only, 1 with predictions, which are no",
    ),
    "an endless label": (
        lambda e: e[0]["annotations"][0]["result"][2]["value"].update(keypointlabels=["é" * 300]),
        r"export\.json: derived skeleton joints: expected at most 1000 printable names of at most 100 letters",
    ),
    "results of nothing": (lambda e: e[0]["annotations"][0].update(result=None), r"task 1 result=None: expected"),
    "photo as text": (
        lambda e: e[0].update(data={"image": "data:image/png;base64,xx"}),
        r"data.image: the photo itself, as",
    ),
    "photo missing": (lambda e: e[0].update(data={"image": "/x/zzz.jpg"}), r"task 1 '/x/zzz.jpg': no 'zzz.jpg' in"),
    "two photos are one": (
        lambda e: e.append(task(2, "s3://other/a.jpg", annotation(*TWO))),
        r"task 2 's3://other/a.jpg' and '/data/upload/1/1a2b3c4d-a.jpg' are both a.jpg",
    ),
    "turned in the tool": (
        lambda e: e[0]["annotations"][0]["result"][0].update(image_rotation=90),
        r"task 1 region A image_rotation=90",
    ),
    "x as text": (
        lambda e: e[0]["annotations"][0]["result"][2]["value"].update(x="1"),
        r"region 1 x='1', y=30: expected numbers",
    ),
    "x in pixels": (
        lambda e: e[0]["annotations"][0]["result"][2]["value"].update(x=640),
        r"region 1 x=640 y=30: expected percent",
    ),
    "box in pixels": (
        lambda e: e[0]["annotations"][0]["result"][0]["value"].update(width=640),
        r"region A x=10 y=20 width=640",
    ),
    "a joint twice": (
        lambda e: e[0]["annotations"][0]["result"].append(point("9", 21, 31, "left_ear", parentID="A")),
        r"task 1 keypoint 'left_ear' twice in one rectangle: whose is it\? tie keypoints to rectangles",
    ),
    "two people without rectangles": (
        lambda e: e[0]["annotations"].__setitem__(0, annotation(*untied()[2:])),
        r"task 1 keypoint 'left_ear' twice without rectangles",
    ),
    "tied to two": (
        lambda e: e[0]["annotations"][0]["result"].append(relation("1", "B")),
        r"task 1 keypoint 'left_ear' is tied to several rectangles; leave one tie",
    ),
    "as many regions as nobody draws": (
        lambda e: e[0]["annotations"][0].update(result=[point(str(at), 5, 5, "nose") for at in range(5001)]),
        r"task 1 result: 5001 regions, more than the 5000",
    ),
    "no keypoints": (lambda e: e[0]["annotations"].__setitem__(0, annotation(*TWO[:2])), r"no keypoints in 1 task"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_one_line_says_what_is_wrong(photos: Path, change: Change, message: str) -> None:
    export = copy.deepcopy(EXPORT)
    change(export)
    with pytest.raises(DataError, match=message) as error:
        read(photos, export)
    assert "\n" not in str(error.value)
    assert "export.json" in str(error.value)


def test_other_files(photos: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected a list of tasks.*; its COCO export is for icon-dist shards build cus"
    ):
        read(photos, {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match=r"notes\.json is of its YOLO export: icon-dist shards build yolo FOLDER"):
        read(photos, {"categories": [], "info": {}})
    (photos.parent / "export.csv").write_text("image,id,label\n/data/upload/a.jpg,1,[]\n")
    with pytest.raises(
        DataError, match=r"export\.csv: a table \('image,id,label'\), not json; export the labels as json"
    ):
        datasets.read("labelstudio", photos.parent / "export.csv", images=photos)
    with pytest.raises(ConfigError, match="pass --images"):
        datasets.read("labelstudio", photos.parent / "export.json")
    read(photos, EXPORT)
    with pytest.raises(DataError, match="no such images folder"):
        datasets.read("labelstudio", photos.parent / "export.json", images=photos / "nowhere")
