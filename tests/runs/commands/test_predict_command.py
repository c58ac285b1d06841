"""``icon-dist predict`` as people call it: photos, folders, videos, boxes and bad calls of every kind."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from icon_dist.__main__ import dispatch
from icon_dist.command_exit import run_cli
from icon_dist.inference import predict_files
from icon_dist.inference.estimator import PoseEstimator, load
from icon_dist.loggers import progress_line
from tests.support.full_disk import full_disk
from tests.support.small_models import CRATE, DOG, HAND, picture, weights_file, write, write_video

Result = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def models(module_path: Path) -> Path:
    for skeleton in (CRATE, DOG, HAND):
        weights_file(module_path / f"{skeleton.name}.safetensors", skeleton)
    return module_path


@pytest.fixture(scope="module")
def load_once() -> Callable[..., PoseEstimator]:
    """``load`` for many commands."""
    return functools.cache(load)


@pytest.fixture
def command(
    models: Path,
    load_once: Callable[..., PoseEstimator],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """``icon-dist predict WORDS`` in a folder with three photos and a video; ``dog`` and the like are models."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write(Path(f"photos/p{number}.png"), picture(number))
    write_video(Path("v.mp4"), [picture(number, hw=(64, 96)) for number in range(5)])
    monkeypatch.setattr(predict_files, "load", load_once)
    monkeypatch.setattr(progress_line, "PATIENCE", float("inf"))

    def run(*words: str) -> Outcome:
        capfd.readouterr()
        known = [str(models / f"{word}.safetensors") if word in ("dog", "hand", "crate") else word for word in words]
        with pytest.raises(SystemExit) as left:
            run_cli(dispatch, ["predict", *known])
        return Outcome(int(left.value.code or 0), *capfd.readouterr())

    return run


def poses_of(folder: str) -> Result:
    found: Result = json.loads(Path(folder, "poses.json").read_text())
    return found


# --------------------------------------------------------------------------------------------------------- good calls


@pytest.mark.parametrize("skeleton", [CRATE, DOG, HAND], ids=lambda skeleton: skeleton.name)
def test_photos_of_any_skeleton(skeleton: Any, command: Command, models: Path) -> None:
    done = command(skeleton.name, "photos", "-o", "out")
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert "note: each whole image is taken for one instance; --boxes says" in done.err
    assert done.out.startswith("out: 3 instances in 3 images, drawn and in poses.json  step=7 flip=no decode=quarter")
    assert sorted(os.listdir("out")) == ["p0.jpg", "p1.jpg", "p2.jpg", "poses.json"]
    found = poses_of("out")
    assert found["categories"][0]["keypoints"] == list(skeleton.joints)
    wanted = {"step": 7, "channel_order": "rgb", "flip": False, "decode": "quarter", "codec": "msra", "boxes": "whole"}
    assert wanted.items() <= found["conditions"].items()
    assert found["conditions"]["model"] == str(models / f"{skeleton.name}.safetensors")
    pose = load(models / f"{skeleton.name}.safetensors", device="cpu")
    for number, (image, result) in enumerate(zip(found["images"], found["annotations"], strict=True)):
        assert image == {"id": number + 1, "file_name": f"p{number}.png", "width": 120, "height": 90}
        ours = pose(f"photos/p{number}.png")
        np.testing.assert_allclose(result["keypoints"], ours.to_coco()[0]["keypoints"], atol=1e-2)
        drawn = cv2.imread(f"out/p{number}.jpg")
        assert drawn is not None
        assert np.abs(drawn[..., ::-1].astype(int) - ours.drawing()).mean() < 3
    truth = COCO("out/poses.json")
    assert len(truth.loadRes(found["annotations"]).getAnnIds()) == 3


def test_a_box_for_every_photo_and_flip(command: Command) -> None:
    done = command("dog", "photos/p1.png", "photos/p0.png", "--boxes", "10,5.5,60,70", "--flip", "--batch", "1")
    assert (done.code, done.err) == (0, "")
    found = poses_of("out")
    assert [image["file_name"] for image in found["images"]] == ["p1.png", "p0.png"]
    assert [result["bbox"] for result in found["annotations"]] == [[10, 5.5, 60, 70]] * 2
    assert (found["conditions"]["flip"], found["conditions"]["boxes"]) == (True, "10,5.5,60,70")


def test_results_are_replaced_when_asked_and_never_else(command: Command) -> None:
    assert command("dog", "photos").code == 0
    first = {name: Path("out", name).read_bytes() for name in os.listdir("out")}
    refused = command("dog", "photos", "--boxes", "1,1,50,50")
    assert refused.code == 2
    assert "/out/poses.json and 3 more exist already; give another name, or --force to replace" in refused.err
    assert {name: Path("out", name).read_bytes() for name in os.listdir("out")} == first
    assert command("dog", "photos", "--boxes", "1,1,50,50", "--force").code == 0
    assert {name: Path("out", name).read_bytes() for name in os.listdir("out")} != first


def test_a_video_is_drawn_frame_by_frame(command: Command) -> None:
    done = command("crate", "v.mp4", "photos/p0.png", "--track", "-o", "out")
    assert done.code == 0
    found = poses_of("out")
    assert [image.get("frame") for image in found["images"]] == [0, 1, 2, 3, 4, None]
    assert [result.get("frame") for result in found["annotations"]] == [0, 1, 2, 3, 4, None]
    assert len({image["id"] for image in found["images"]}) == 6
    assert [("track_id" in result) for result in found["annotations"]] == [True] * 6
    drawn = cv2.VideoCapture("out/v.mp4")
    shapes = []
    while (frame := drawn.read())[0]:
        shapes.append(frame[1].shape)
    assert shapes == [(64, 96, 3)] * 5
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_the_photos_of_a_folder_are_tracked_as_the_frames_of_a_video(command: Command) -> None:
    """In the order of their numbers; another folder has its own tracks. Who stands where he stood keeps his track."""
    names = [*(f"frames/f{number}.png" for number in range(1, 12)), "others/o1.png"]
    left, right = [5, 20, 30, 40], [65, 25, 30, 40]
    pairs = dict.fromkeys(names, (left, right)) | {"frames/f10.png": (right, left), "others/o1.png": (right, left)}
    for name in names:
        write(Path(name), picture())
    boxes = [{"file_name": name, "bbox": box, "score": 1} for name, pair in pairs.items() for box in pair]
    done = command("dog", "frames", "others", "--track", "--boxes", write_json("b.json", boxes))
    assert (done.code, done.err) == (0, "")
    found = poses_of("out")
    assert [one["file_name"] for one in found["images"]] == [Path(name).name for name in names]
    assert [one["track_id"] for one in found["annotations"]] == [1, 2] * 9 + [2, 1] + [1, 2] + [1, 2]


def test_photos_that_cannot_be_read_are_named_before_anything_is_written_or_passed_over(command: Command) -> None:
    Path("photos/cut.jpg").write_bytes(cv2.imencode(".jpg", picture())[1].tobytes()[:900])
    Path("photos/text.png").write_text("no photo")
    Path("photos/notes.txt").write_text("what else is in a folder is left alone")
    refused = command("dog", "photos")
    assert (refused.code, refused.err.count("\n"), Path("out").exists()) == (3, 1, False)
    assert "photos/cut.jpg: the JPEG is cut off; replace the file; also " in refused.err
    assert "photos/text.png: not an image" in refused.err
    assert refused.err.endswith("; --skip-bad passes over what cannot be read\n")
    done = command("dog", "photos", "--skip-bad", "--boxes", "1,1,50,50")
    assert done.code == 0
    assert done.err.count("note: passed over: ") == 2
    assert "photos/cut.jpg: the JPEG is cut off" in done.err
    assert [image["file_name"] for image in poses_of("out")["images"]] == ["p0.png", "p1.png", "p2.png"]


def test_photos_as_cameras_make_them(command: Command) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(picture()).save("turned.jpg", exif=exif)
    cv2.imwrite("deep.png", picture().astype(np.uint16) << 4)
    done = command("dog", "turned.jpg", "deep.png", "--boxes", "1,1,50,50")
    assert done.code == 0
    turned, deep = done.err.splitlines()
    assert turned.endswith("1 photo is turned by EXIF; boxes and poses are in px of the upright photo")
    assert deep.endswith("1 photo has 16 bits a channel with values of 12 bits; the upper 8 of these are used")
    assert [(one["width"], one["height"]) for one in poses_of("out")["images"]] == [(90, 120), (120, 90)]
    drawn = cv2.imread("out/turned.jpg", cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (120, 90, 3)


# ------------------------------------------------------------------------------------------------------- boxes of files

BOX = {"category_id": 1, "bbox": [5, 5, 40, 50], "score": 0.9}
SECOND = {"category_id": 1, "bbox": [60.5, 30, 40, 50], "score": 0.4}


def write_json(name: str, content: object) -> str:
    Path(name).write_text(json.dumps(content))
    return name


def annotations(*boxes: dict[str, object], joints: tuple[str, ...] = DOG.joints) -> dict[str, object]:
    images = [{"id": 40 + number, "file_name": f"some/folder/p{number}.png"} for number in range(3)]
    categories = [{"id": 1, "name": "dog", "keypoints": list(joints)}]
    entries = [{"id": number, **box} for number, box in enumerate(boxes)]
    return {"images": images, "categories": categories, "annotations": entries}


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": "p0", **BOX}, {"image_id": "p0", **SECOND}],
        [{"file_name": "a/b/p0.png", "image_id": 3, **BOX}, {"image": "a/b/p0.png", **SECOND}],
        [{"image_name": "a\\p0.png", **BOX}, {"file_name": "a\\p0.png", **SECOND}, {"file_name": "z.png", **SECOND}],
        annotations({"image_id": 40, **BOX}, {"image_id": 40, **SECOND}),
        annotations({"image_id": 40, **BOX}, {"image_id": 40, **SECOND}, {"image_id": 41, **BOX, "iscrowd": 1}),
        annotations({"image_id": 40, **BOX, "keypoints": [1, 2, 2] * 6}, {"image_id": 40, **SECOND}),
    ],
)
def test_boxes_of_results_and_annotations(content: Any, command: Command) -> None:
    done = command("dog", "photos", "--boxes", write_json("boxes.json", content))
    assert done.code == 0
    assert "no box for 2 of 3 photos; nobody is predicted there" in done.err
    found = poses_of("out")
    assert [result["bbox"] for result in found["annotations"]] == [BOX["bbox"], SECOND["bbox"]]
    ids = [40, 41, 42] if isinstance(content, dict) else [1, 2, 3]
    assert [image["id"] for image in found["images"]] == ids
    assert {result["image_id"] for result in found["annotations"]} == {ids[0]}
    first, second = (result["score"] for result in found["annotations"])
    assert first == pytest.approx(0.9 * np.mean([s for s in found["annotations"][0]["keypoints"][2::3] if s > 0.2]))
    assert second > 0


def test_poses_of_annotated_boxes_are_scored_against_their_file(command: Command) -> None:
    """By pycocotools, which takes poses of another category for nothing."""
    pose = {"id": 8, "image_id": 40, "category_id": 7, "bbox": BOX["bbox"], "area": 4200.0, "iscrowd": 0}
    keypoints = [20, 30, 2] * DOG.num_joints
    everyone = annotations({**pose, "keypoints": keypoints, "num_keypoints": DOG.num_joints})
    everyone["categories"] = [{"id": 7, "name": "dog", "keypoints": list(DOG.joints)}]
    file = write_json("annotated.json", everyone)
    assert command("dog", "photos", "--boxes", file).code == 0
    found = poses_of("out")
    for result in found["annotations"]:
        result["keypoints"] = keypoints
    truth = COCO(file)
    evaluation = COCOeval(truth, truth.loadRes(found["annotations"]), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(DOG.sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    assert [one["id"] for one in found["categories"]] == [7]


def test_coco_names_its_photos_by_number_and_other_categories_are_left_out(command: Command) -> None:
    write(Path("coco/000000000139.png"), picture())
    boxes = [{"image_id": 139, **BOX}, {"image_id": 139, **SECOND, "category_id": 18}, {"image_id": 140, **BOX}]
    done = command("dog", "coco", "--boxes", write_json("boxes.json", boxes))
    assert done.code == 0
    assert "1 box of other categories than 1 left out" in done.err
    assert "1 box of other images left out" in done.err
    assert [one["image_id"] for one in poses_of("out")["annotations"]] == [139]


@pytest.mark.parametrize(
    ("image", "which"),
    [(3, None), ("0003", None), ("right_0003", 1), ("a/right_0003.png", 1), (4, 2), ("000000", 3), (0, 3)],
)
def test_a_number_that_two_photos_have_says_of_neither(image: object, which: int | None, command: Command) -> None:
    names = ["left_0003.png", "right_0003.png", "right_0004.png", "0.png"]
    for name in names:
        write(Path("cameras") / name, picture())
    done = command("dog", "cameras", "--boxes", write_json("boxes.json", [{"image_id": image, **BOX}]))
    if which is None:
        assert done.code == 3
        assert "left_0003.png or " in done.err
        assert not Path("out").exists()
    else:
        found = poses_of("out")
        file_names = {one["id"]: one["file_name"] for one in found["images"]}
        assert [file_names[one["image_id"]] for one in found["annotations"]] == [names[which]]


def test_our_own_results_are_boxes(command: Command) -> None:
    command("dog", "photos", "--boxes", "10,5,60,70", "-o", "first")
    assert command("dog", "photos", "--boxes", "first/poses.json", "-o", "second").code == 0
    first, second = poses_of("first"), poses_of("second")
    assert [one["keypoints"] for one in first["annotations"]] == [one["keypoints"] for one in second["annotations"]]


def test_boxes_with_low_scores_are_left_out(command: Command) -> None:
    low = {"image_id": "p0", **SECOND, "score": 0.2}
    file = write_json("boxes.json", [{"image_id": "p0", **BOX}, {"image_id": "p0", **SECOND}, low])
    done = command("dog", "photos/p0.png", "--boxes", file)
    assert "boxes.json: 1 box with a score below 0.3 left out; --min-score takes others" in done.err
    assert [one["bbox"] for one in poses_of("out")["annotations"]] == [BOX["bbox"], SECOND["bbox"]]
    for score, count in ("0.5", 1), ("0", 3):
        command("dog", "photos/p0.png", "--boxes", file, "--min-score", score, "--force")
        assert len(poses_of("out")["annotations"]) == count


UNUSUAL: dict[str, tuple[list[object], str]] = {
    "twice": ([{"image_id": "p0", **BOX}] * 2, "1 of 2 boxes are given twice"),
    "percent scores": ([{"image_id": "p0", **BOX, "score": 95}], "scores go up to 95, not to 1, and boxes below 0.3"),
    "from 0": (
        [{"image_id": "p0", **BOX}, {"image_id": "p0", **SECOND, "category_id": 0}],
        "1 box of other categories than 1 left out; 1 of them have category_id 0: if the ids count from 0, keep only",
    ),
}


@pytest.mark.parametrize(("boxes", "says"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_of_boxes_is_noted(boxes: list[object], says: str, command: Command) -> None:
    done = command("dog", "photos/p0.png", "--boxes", write_json("boxes.json", boxes))
    assert (done.code, done.err.count("icon_dist: note: boxes.json: ")) == (0, 1)
    assert says in done.err


def test_boxes_in_percent_are_noted(command: Command) -> None:
    write(Path("large.png"), picture(hw=(200, 300)))
    boxes = [{"image_id": "large", **BOX, "bbox": [i, 5, 20, 50]} for i in range(5)]
    done = command("dog", "large.png", "--boxes", write_json("boxes.json", boxes))
    assert "all 5 boxes lie in the upper left 100x100 px; if they are in percent, write px" in done.err


@pytest.mark.parametrize("number", ["139", 139.0, "000139"])
def test_numbers_of_photos_as_tables_write_them(number: object, command: Command) -> None:
    write(Path("000000000139.png"), picture())
    boxes = [{"image_id": number, **BOX, "category_id": 1.0}]
    assert command("dog", "000000000139.png", "--boxes", write_json("boxes.json", boxes)).code == 0
    assert len(poses_of("out")["annotations"]) == 1


def test_boxes_of_the_frames_of_a_video(command: Command) -> None:
    """As a list of results, and as ``poses.json`` of a video has them; frames without a box have nobody."""
    results = [{"image_id": "v.mp4", "frame": frame, **BOX, "bbox": [5 + frame, 5, 40, 50]} for frame in (0, 3)]
    done = command("dog", "v.mp4", "photos/p0.png", "--boxes", write_json("boxes.json", results), "-o", "first")
    assert (done.code, done.err.count("no box for 1 of 2 files; nobody is predicted there")) == (0, 1)
    first = poses_of("first")
    assert [(one["frame"], one["bbox"][0]) for one in first["annotations"]] == [(0, 5), (3, 8)]
    assert command("dog", "v.mp4", "--boxes", "first/poses.json", "-o", "second").code == 0
    second = poses_of("second")
    assert [one["keypoints"] for one in first["annotations"]] == [one["keypoints"] for one in second["annotations"]]


def test_two_images_of_one_name_are_told_apart_by_their_folders(command: Command) -> None:
    boxes = [{"image_id": "other/p0.png", **SECOND}, {"image_id": "photos/p0.png", **BOX}]
    assert command("dog", "photos/p0.png", "--boxes", write_json("boxes.json", boxes)).code == 0
    assert [one["bbox"] for one in poses_of("out")["annotations"]] == [BOX["bbox"]]
    boxes[1]["image_id"] = "third/p0.png"
    refused = command("dog", "photos/p0.png", "--boxes", write_json("boxes.json", boxes), "--force")
    assert refused.code == 3
    assert "two of its images, 'other/p0.png' and 'third/p0.png', are named like " in refused.err


# ---------------------------------------------------------------------------------------------------------- bad calls


def _box(**change: object) -> list[object]:
    return [{"image_id": "p0.png", **BOX, **change}]


BAD_FILES: dict[str, tuple[object, str]] = {
    "unknown": (_box(image_id="zzz.png"), "is about none of the 3 photos: it has 'zzz.png', not p0.png"),
    "number": (_box(image_id=12), "is about none of the 3 photos: it has 12"),
    "zero": (_box(bbox=[5, 5, 0, 5]), "#0 bbox=[5, 5, 0, 5]: has no size"),
    "zeros": ([*_box(bbox=[5, 5, 9, 5]), *_box(bbox=[0, 0, 0, 0])], "#1 bbox=[0, 0, 0, 0]: has no size"),
    "negative": (_box(bbox=[5, 5, 9, -5]), "has no size; expected x, y, width > 0, height > 0"),
    "outside": (_box(bbox=[500, 5, 10, 10]), "lies outside the image of 120x90 px"),
    "shares": (_box(bbox=[0.1, 0.1, 0.5, 0.5]), "looks like shares of width and height from 0 to 1"),
    "corners": (_box(bbox=[60, 50, 119, 89]), "looks like the corners x1, y1, x2, y2"),
    "three": (_box(bbox=[1, 2, 3]), "is not four finite numbers and a score"),
    "null": (_box(bbox=[1, 2, 3, None]), "is not four finite numbers and a score"),
    "text": (_box(bbox="1,2,3,4"), "is not four finite numbers and a score"),
    "score": (_box(score="high"), "is not four finite numbers and a score"),
    "boxless": ([{"image_id": "p0.png"}], "is no box of an image; expected COCO results"),
    "imageless": ([BOX], "is no box of an image; expected COCO results"),
    "numbers": ([1, 2], "#0 1: is no box of an image"),
    "empty": ([], "holds no box"),
    "object": ({"a": 1}, "expected COCO results"),
    "nothing": (None, "expected COCO results"),
    "joints": (_box(keypoints=[1, 2, 2] * 17), "#0 keypoints: 17 joints, the model predicts 6 of dog"),
    "names": (
        annotations({"image_id": 40, **BOX, "keypoints": [1, 2, 2] * 6}, joints=("snout", *DOG.joints[1:])),
        "categories: joint 'snout' is none of dog there",
    ),
    "dangling": (annotations({"image_id": 99, **BOX}), "#0 image_id: none of its images has this id"),
    "headless": ({"annotations": _box()}, "images: expected a list of {id, file_name}"),
    "category": (_box(category_id={"a": 1}), "#0 category_id={'a': 1}: expected an integer >= 0"),
    "categories": (
        [*_box(category_id=3), *_box(category_id=5)],
        "no box has category_id 1; the file's are 3 (1), 5 (1); keep those of one category",
    ),
}


def test_bad_files_of_boxes_are_one_line_and_nothing_is_written(command: Command) -> None:
    for name, (content, says) in BAD_FILES.items():
        done = command("dog", "photos", "--boxes", write_json(f"{name}.json", content))
        assert (done.code, done.out, done.err.count("\n"), Path("out").exists()) == (3, "", 1, False), (name, done)
        assert done.err.startswith(f"icon_dist: error: {name}.json"), done.err
        assert says in done.err, (name, done.err)
    for name, raw in {"cut": "[{", "page": "<html>", "void": ""}.items():
        Path(f"{name}.json").write_text(raw)
        done = command("dog", "photos", "--boxes", f"{name}.json")
        assert (done.code, done.err.count("\n"), Path("out").exists()) == (3, 1, False), (name, done)


BAD_CALLS: list[tuple[str, int, str]] = [
    ("dog", 2, "the following arguments are required: PHOTO|DIR|VIDEO"),
    ("dog none.jpg", 3, "none.jpg: no such photo, video or folder"),
    ("dog empty", 3, "empty: no photos or videos in this folder"),
    ("dog texts", 3, "texts: no photos or videos in this folder"),
    ("dog nested", 3, "no photos or videos in this folder (its folders are not looked into; give them)"),
    ("dog zero.jpg", 3, "zero.jpg: an empty file"),
    ("dog panorama.png", 3, "panorama.png: 40000 x 1 px; make it smaller, at most 32766 px a side"),
    ("dog notes.txt", 3, "notes.txt: not an image of a kind that is read"),
    ("dog page.jpg", 3, "page.jpg: a web page or text, not an image"),
    ("dog photo.heic", 3, "photo.heic: a HEIC image; convert it to JPEG or PNG"),
    ("dog animation.gif", 3, "animation.gif: a GIF; save the frame that you need"),
    ("dog frameless.mp4", 3, "frameless.mp4: a video without a frame that can be decoded"),
    ("dog playlist.mp4", 3, "playlist.mp4: not a video that can be read (MP4, MOV,"),
    ("dog pipe.jpg", 5, "pipe.jpg: is a pipe, not a file"),
    ("dog frameless.mp4 --skip-bad", 3, "frameless.mp4: a video without a frame"),
    ("dog photos twin/p0.jpg", 2, "twin/p0.jpg: would be drawn to p0.jpg like "),
    ("dog photos photos/p0.png", 2, "p0.png: is given twice; give it once"),
    ("dog photos -o photos", 2, "-o photos: lies inside the input 'photos'"),
    ("dog photos -o photos/new", 2, "-o photos/new: lies inside the input 'photos'"),
    ("dog photos -o link", 2, "-o link: lies inside the input 'photos'"),
    ("dog photos/p0.png -o photos", 2, "-o photos: is the folder of the input "),
    ("dog photos -o done", 2, "/done/poses.json exists already; give another name, or --force"),
    ("dog photos -o half", 2, "/half/p1.jpg exists already"),
    ("dog photos -o notes.txt", 5, "notes.txt: is a file, not a folder"),
    ("dog photos -o /proc/x", 5, "/proc: no file can be made there; write elsewhere"),
    ("dog http://host/p.jpg", 2, "'http:' is not supported"),
    ("none photos", 4, "none: nothing is there; check the path, and give the folder of a run"),
    ("none.safetensors photos", 4, "none.safetensors: nothing is there; check the path"),
    ("pickle.pth photos", 4, "is a pickle, which can run code"),
    ("pickle.safetensors photos", 4, "is a pickle, which can run code"),
    ("photos/p0.png photos", 4, "an image, not a model; the model comes first"),
    ("photos photos", 4, "photos: no run (has none of config.yaml, metrics.jsonl, checkpoints); give the folder"),
    ("dog photos --boxes 1,2,3", 2, "--boxes '1,2,3': expected four numbers x,y,w,h in px"),
    ("dog photos --boxes a,b,c,d", 2, "expected four numbers x,y,w,h in px"),
    ("dog photos --boxes 5,5,0,5", 2, "width and height above 0"),
    ("dog photos --boxes 500,5,9,9", 2, "--boxes 500,5,9,9: lies outside the image of 120x90 px ("),
    ("dog photos --boxes=-50,5,9,9", 2, "lies outside the image of 120x90 px"),
    ("dog photos --boxes people", 2, "expected whole, x,y,w,h in px, a COCO FILE.json, or a DETECTOR.onnx"),
    ("dog photos --boxes none.json", 3, "none.json: no such file"),
    ("dog photos --boxes none.onnx", 3, "none.onnx: no such file"),
    ("dog photos --boxes junk.onnx", 3, "junk.onnx: OpenCV cannot read it as an ONNX model"),
    ("dog v.mp4 --boxes good.json", 3, "good.json: is about none of the 1 "),
    ("dog v.mp4 --boxes frameless.json", 3, "frameless.json#0: v.mp4 is a video; give each of its boxes a frame"),
    ("dog v.mp4 --boxes half.json", 3, "half.json#0 frame=1.5: expected the number of a frame, counted from 0"),
    ("dog photos --boxes low.json", 3, "low.json: no box has a score of 0.3 or more, the highest is 0.2; --min-score"),
    ("dog photos --min-score 0.5", 2, "--min-score: is about boxes with scores; give --boxes FILE.json or DETECTOR"),
    ("dog photos --boxes good.json --min-score x", 2, "--min-score: 'x' is not a number"),
    ("dog good.json", 2, "good.json: a JSON file, no photo; boxes are given with --boxes FILE.json"),
    ("dog photos junk.onnx", 2, "junk.onnx: an ONNX file, no photo; a detector is given with --boxes DETECTOR.onnx"),
    ("dog crate photos", 2, "crate.safetensors: a model, no photo; the model comes first, and one is used at a time"),
    ("dog run photos", 2, "run: a run, no photos; the model comes first, and one is used at a time"),
    ("dog photos --device tpu", 2, "--device tpu: "),
    ("dog photos --batch 0", 2, "--batch: 0 is too small"),
]


def test_bad_calls_are_one_line_and_nothing_is_written(command: Command) -> None:
    for folder in ("empty", "texts", "nested/below", "twin", "done", "half"):
        Path(folder).mkdir(parents=True)
    write(Path("twin/p0.jpg"), picture())
    write(Path("nested/below/p9.png"), picture())
    for name in ("texts/a.txt", "notes.txt", "done/poses.json", "half/p1.jpg"):
        Path(name).write_text("mine")
    Path("zero.jpg").touch()
    write(Path("panorama.png"), np.zeros((1, 40_000, 3), np.uint8))
    Path("page.jpg").write_text("<html>")
    Path("photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    Path("animation.gif").write_bytes(b"GIF89a" + bytes(99))
    Path("frameless.mp4").write_bytes(Path("v.mp4").read_bytes()[:100])
    Path("playlist.mp4").write_text("#EXTM3U\nv.mp4\n")
    Path("pickle.pth").write_bytes(b"PK\3\4" + bytes(99))
    Path("pickle.safetensors").write_bytes(b"\x80\x02}q\0.")
    Path("junk.onnx").write_bytes(b"junk" * 9)
    write_json("good.json", _box())
    write_json("frameless.json", _box(image_id="v.mp4"))
    write_json("half.json", _box(image_id="v.mp4", frame=1.5))
    write_json("low.json", _box(score=0.2))
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/x").touch()
    Path("link").symlink_to("photos")
    os.mkfifo("pipe.jpg")
    before = sorted(str(path) for path in Path().rglob("*"))
    for words, code, says in BAD_CALLS:
        done = command(*words.split())
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), (words, done)
        assert done.err.startswith("icon_dist: error: "), (words, done.err)
        assert says in done.err, (words, done.err)
        assert sorted(str(path) for path in Path().rglob("*")) == before, words


def test_a_run_on_s3_and_results_there(command: Command, models: Path, s3: str) -> None:
    """Photos, model and results: any of them may be there."""
    from icon_dist import storage

    storage.write(f"{s3}/model.safetensors", models / "crate.safetensors")
    storage.write(f"{s3}/photos/p7.png", Path("photos/p0.png"))
    done = command(f"{s3}/model.safetensors", f"{s3}/photos", "--boxes", "1,1,50,50", "-o", f"{s3}/out")
    assert (done.code, done.err) == (0, "")
    assert storage.listing(f"{s3}/out") == ["p7.jpg", "poses.json"]
    assert command("crate", f"{s3}/photos", "-o", f"{s3}/out").code == 2
    assert command("crate", f"{s3}/photos", "-o", f"{s3}/photos/out").code == 2


def test_a_disk_that_is_full_is_said(command: Command) -> None:
    """No file may be larger than 20 KB: OpenCV loses what does not fit without a word."""
    write_video(Path("noise.mp4"), [np.random.default_rng(i).integers(0, 255, (64, 96, 3), np.uint8) for i in range(9)])
    with full_disk(20_000):
        done = command("crate", "noise.mp4")
    assert done.code == 5
    assert "not all of the video could be written; free some space, or set TMPDIR" in done.err
    assert not Path("out").exists()
