"""Tasks for Label Studio: places in percent, by hand; an interface that is XML whatever joints are called."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from icon_dist.reports.label_studio_tasks import Predicted, interface, task, url_of
from tests.support.two_sets import HANDS

NAMES = ("neck", "hand")


def test_a_task_by_hand() -> None:
    person = Predicted((-20.0, 50.0, 120.0, 400.0), np.array([[40.0, 75.0, 0.75], [300.0, 10.0, 0.25]]))
    other = Predicted((100.0, 0.0, 50.0, 50.0), np.array([[110.0, 20.0, 0.5], [0.0, 0.0, 0.0]]))
    found = task("x.jpg", (200, 300), [person, other], NAMES, version="run step 3")
    json.dumps(found)
    assert found["data"] == {"image": "x.jpg"}
    (predicted,) = found["predictions"]
    assert predicted["model_version"] == "run step 3"
    assert predicted["score"] == pytest.approx((0.5 + 0.25) / 2)
    box, neck, second, its_neck = predicted["result"]  # a hand outside the image, and one that is nowhere, are left out
    assert box["value"] == {
        "x": 0.0, "y": pytest.approx(100 * 50 / 300), "width": 50.0, "height": pytest.approx(100 * 250 / 300),
        "rotation": 0, "rectanglelabels": ["instance"],
    }  # fmt: skip
    assert (neck["value"]["x"], neck["value"]["y"]) == (20.0, 25.0)
    assert neck["value"]["keypointlabels"] == ["neck"]
    assert (neck["parentID"], its_neck["parentID"]) == (box["id"], second["id"])
    assert len({one["id"] for one in predicted["result"]}) == 4
    for one in predicted["result"]:
        assert (one["original_width"], one["original_height"], one["to_name"]) == (200, 300, "image")
        assert one["type"] in ("rectanglelabels", "keypointlabels")


def test_the_interface_names_what_tasks_name() -> None:
    odd = dataclasses.replace(HANDS, joints=("a<b", 'quo"te', "amp&", "tail"))
    root = ElementTree.fromstring(interface(odd))
    assert [one.get("value") for one in root.findall("KeyPointLabels/Label")] == [*odd.joints]
    assert [one.get("value") for one in root.findall("RectangleLabels/Label")] == ["instance"]
    assert {one.get("name") for one in root} == {"image", "box", "joint"}
    assert {one.get("toName") for one in root if one.tag != "Image"} == {"image"}


@pytest.mark.parametrize(
    ("name", "prefix", "url"),
    [
        ("/data/a b/1.jpg", None, "/data/local-files/?d=data/a%20b/1.jpg"),
        ("s3://bucket/a/1.jpg", None, "s3://bucket/a/1.jpg"),
        ("train/1.jpg", "https://host/photos/", "https://host/photos/train/1.jpg"),
        ("train/1.jpg", "https://host/photos", "https://host/photos/train/1.jpg"),
        ("train/1.jpg", "/data/local-files/?d=", "/data/local-files/?d=train/1.jpg"),
        ("train/ü#?.jpg", "https://host/", "https://host/train/%C3%BC%23%3F.jpg"),
    ],
)
def test_where_an_image_is_found(name: str, prefix: str | None, url: str) -> None:
    assert url_of(name, prefix) == url
