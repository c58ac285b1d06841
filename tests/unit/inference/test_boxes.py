"""Test sets without annotations: where their people are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icon_dist import datasets
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError, DataError
from icon_dist.inference.boxes import unlabelled


def test_mpii_places_are_those_of_the_annotated_people(shared: Path, tmp_path: Path) -> None:
    mpii = shared / "mpii"
    entries = json.loads((mpii / "annotations.json").read_text())
    test = tmp_path / "test.json"
    test.write_text(json.dumps([{k: e[k] for k in ("image", "center", "scale")} for e in entries]))
    chosen = unlabelled(str(test), skeleton=load_skeleton("mpii"), boxes="gt", images=str(mpii / "images"))
    known = {p.id: p for p in datasets.read("mpii", mpii / "annotations.json").instances}
    assert chosen.truth is None
    assert (chosen.split, chosen.boxes) == ("test", "given")
    assert sorted(chosen.people.instance.tolist()) == list(range(len(entries)))
    for row, i in enumerate(chosen.people.instance.tolist()):
        assert chosen.people.files[row] == known[i].file
        np.testing.assert_array_equal(chosen.people.box[row], known[i].box)
    test.write_text(json.dumps([{"image": "a.jpg", "center": [1, 2], "scale": -1}]))
    with pytest.raises(DataError, match=r"test\.json#ann id=0 scale=-1: expected a number > 0"):
        unlabelled(str(test), skeleton=load_skeleton("mpii"), boxes="gt", images=str(mpii / "images"))


def test_coco_needs_boxes_and_a_list_of_images(shared: Path, tmp_path: Path) -> None:
    coco, four = load_skeleton("coco"), shared / "coco" / "four"
    info = tmp_path / "image_info.json"
    info.write_text(json.dumps([]))
    boxes, images = str(four / "detections.json"), str(four / "images")
    with pytest.raises(DataError, match="no list of images"):
        unlabelled(str(info), skeleton=coco, boxes=boxes, images=images)
    with pytest.raises(ConfigError, match=r"needs a detector's --boxes FILE"):
        unlabelled(str(info), skeleton=coco, boxes="gt", images=images)
    with pytest.raises(ConfigError, match="needs --images DIR"):
        unlabelled(str(info), skeleton=coco, boxes=boxes, images=None)
    entries = json.loads((four / "person_keypoints.json").read_text())["images"]
    info.write_text(json.dumps({"images": entries[1:]}))
    with pytest.raises(DataError, match=f"image_id={entries[0]['id']}: not in the annotations"):
        unlabelled(str(info), skeleton=coco, boxes=boxes, images=images)
