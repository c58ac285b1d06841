"""The diagnosis of every skeleton on real photos: its numbers, its pictures, and a page that stands alone."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from icon_dist.codec import Codec
from icon_dist.datasets import read
from icon_dist.datasets.joined import first
from icon_dist.metrics.error_analysis import KINDS, WRONG
from icon_dist.metrics.ground_truth import ground_truth
from icon_dist.metrics.score import score
from icon_dist.models import Heads, build_model
from icon_dist.reports.diagnosis import Scored, diagnose, read_features
from icon_dist.shards.manifest import read_truth
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.shards.tar import Settings
from icon_dist.shards.writer import SetInfo, build
from icon_dist.types import Annotations, Predictions

SETS = {
    "coco": ("coco/mini/person_keypoints.json", "coco/mini/images"),
    "crowdpose": ("crowdpose/annotations.json", "crowdpose/images"),
    "mpii": ("mpii/annotations.json", "mpii/images"),
    "lsp": ("lsp/lsp_train.json", "lsp/images"),
}
MARKUP = ("</td></tr><script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "'</text><a href=x>{{ d }}")


def annotations_of(name: str, shared: Path) -> Annotations:
    file, images = SETS[name]
    if name == "lsp":  # somebody's own set, whose joints may be called anything
        people = first(read("custom", shared / file, skeleton="lsp"), 8)
        joints = MARKUP + people.skeleton.joints[len(MARKUP) :]
        return replace(people, skeleton=replace(people.skeleton, joints=joints))
    return first(read(name, shared / file, images=shared / images), 24)


def wrong_predictions(shards: ShardSet) -> Predictions:
    """The truth with joints off, one person in three inverted, and the last joints of a neighbor."""
    rng = np.random.default_rng(0)
    n, joints = len(shards), shards.skeleton.num_joints
    keypoints = shards.keypoints.astype(np.float64)
    xy = keypoints[..., :2].copy()
    size = np.sqrt(shards.box[:, 2] * shards.box[:, 3])[:, None, None]
    inverted = np.arange(n) % 3 == 0
    exchanged = inverted[:, None, None] & (rng.random((n, joints, 1)) < 0.5)
    xy = np.where(exchanged, xy[:, shards.skeleton.mirrored], xy)
    order = np.argsort(shards.image_id, kind="stable")
    neighbor = np.empty(n, np.int64)
    neighbor[order] = np.roll(order, 1)
    same = shards.image_id[neighbor] == shards.image_id
    xy[same, -4:] = xy[neighbor][same, -4:]
    xy += rng.normal(size=xy.shape) * size * rng.choice([0.003, 0.03, 0.2], p=[0.6, 0.3, 0.1], size=(n, joints, 1))
    peak = rng.uniform(0.3, 1, (n, joints, 1))
    return Predictions(
        instance=shards.instance,
        image_id=shards.image_id,
        keypoints=np.concatenate([xy, peak], -1).astype(np.float32),
        box_score=np.ones(n, np.float32),
        area=(shards.box[:, 2] * shards.box[:, 3]).astype(np.float32),
    )


@pytest.mark.parametrize("name", SETS)
def test_every_skeleton(name: str, shared: Path, tmp_path: Path) -> None:
    annotations = annotations_of(name, shared)
    for person in annotations.truth["annotations"]:
        person.setdefault("head", 30.0)  # MPII's come from another file
    images, folder = str(shared / SETS[name][1]), str(tmp_path / "shards")
    kind = "custom" if name == "lsp" else name
    build(annotations, images, folder, SetInfo(dataset=kind, split="val"), settings=Settings(max_input=None))
    shards = open_shards(folder)
    truth = ground_truth(read_truth(folder), joints=shards.skeleton.num_joints)
    predictions = wrong_predictions(shards)
    model = build_model(
        "hrnet_small", Heads(joints=shards.skeleton.num_joints, projection=None, input_hw=(64, 64))
    ).eval()
    scored = Scored(
        shards,
        truth,
        predictions,
        scores=score(truth, predictions, shards.skeleton),
        boxes="gt",
    )
    out, codec = tmp_path / "out", Codec("msra", (64, 64), 4, 1)
    about = {"checkpoint": "a <run> & more", "step": 7, "conditions": f"split=val boxes=<script>.json {name}"}
    diagnose(
        str(out),
        scored,
        read_features(model, shards, truth.images, codec=codec, batch=4, loaders=0, device="cpu"),
        shards=shards,
        aspect=codec.frame.aspect,
        about=about,
    )
    result = json.loads((out / "diagnosis.json").read_text())
    check_numbers(result, shards)
    if name == "lsp":
        assert result["errors"]["count"]["swap"] == 0, "one person in a photo"
        assert "worst-swap.png" not in {p.name for p in out.iterdir()}
    if name in ("coco", "crowdpose"):
        assert result["errors"]["count"]["swap"] > 0
    for wrong in WRONG:
        if result["errors"]["count"][wrong]:
            assert cv2.imread(str(out / f"worst-{wrong}.png")).shape[0] > 256
    text = check_page((out / "diagnosis.html").read_text())
    assert "a <run> & more" in text
    assert "boxes=<script>.json" in text
    assert all(joint in text for joint in shards.skeleton.joints)


def check_numbers(result: dict[str, Any], shards: ShardSet) -> None:
    found, recall = result["errors"], result["recall"]
    assert sum(found["share"].values()) == pytest.approx(1)
    assert found["joints"] == sum(found["count"].values()) <= recall["joints"]
    assert found["count"]["inversion"] > 0
    assert found["ap_gained"]["inversion"] > 0
    for kind in WRONG:
        assert found["ap_gained_exact"][kind] >= found["ap_gained"][kind] - 0.02
    if shards.skeleton.metric.startswith("pck"):
        assert found["metric_gained"]["miss"] > 0
    assert [row["joint"] for row in result["joints"]] == list(shards.skeleton.joints)
    for row in result["joints"]:
        if row["labelled"]:
            assert sum(row["share"][kind] for kind in KINDS) == pytest.approx(1)
    assert recall["peak"][1] == 100  # peaks are over .3
    assert recall["both"][0] < 100
    seen = result["embedding"]
    visible = (shards.keypoints[..., 2] >= shards.skeleton.visible_at).sum()
    assert 0 < seen["samples"] <= visible
    assert -1 <= seen["silhouette"] <= 1
    assert 0 <= seen["purity_other_people"] <= 1


def check_page(html: str) -> str:
    """All text of a page that is well formed and needs nothing from elsewhere."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.text: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link", "img", "br"):
                self.open.append(tag)
            values = dict(attrs)
            assert tag != "script"
            assert (values.get("href") or "data:").startswith("data:")  # the icon, or a browser asks a server for one
            assert not any(key.startswith("on") for key in values)
            assert (values.get("src") or "data:").startswith("data:")
            assert tag != "img" or values["alt"]
            assert tag != "svg" or values.get("aria-hidden") or values["aria-label"]

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            self.text.append(data)

    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert "http" not in html.replace("data:image", "")
    assert "nan" not in " ".join(reader.text).lower().split()
    return " ".join(reader.text)


def test_encoder_features_are_the_ones_that_training_projects() -> None:
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    for backbone, feature in (("hrnet_small", "default"), ("resnet18", "deconv")):
        model = build_model(
            backbone, Heads(joints=5, projection="mlp", feature=feature, embedding=8, input_hw=(64, 64))
        )
        trained = model.train()(image).feature
        torch.testing.assert_close(model.features(image), trained)
    both = build_model(
        "hrnet_small", Heads(joints=5, projection="mlp", feature="all", embedding=8, input_hw=(64, 64))
    ).eval()
    assert both.features(image).shape == (2, 16 + 32 + 64, 16, 16)
