"""What docs/architecture.md says of adding things, done to a copy of the package: it names all files, and it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.training import TINY

pytestmark = pytest.mark.slow  # copies the package and starts five commands with torch: half a minute

BACKBONE = """
from torch import nn

from icon_dist.models.heads import Source
from icon_dist.models.pose import Encoded, PoseNet

NAMES = ("plain_8",)


def build(name, heads):
    return Plain(name, heads) if name in NAMES else None


class Plain(PoseNet):
    def __init__(self, name, heads):
        super().__init__(name, heads)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4, padding=3), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.add_heads(8, {"default": Source(8, 4)})

    def encode(self, x):
        shared = self.stem(x)
        return Encoded(final=self.body(shared), shared=(shared,))
"""
DATASET = """
import dataclasses

from icon_dist.datasets import coco
from icon_dist.datasets.annotation_file import Faults, load
from icon_dist.datasets.coco_json import people_of

SKELETON = dataclasses.replace(coco.SKELETON, name="strangers", metric="near")


def read(annotations, *, images=None, drop_invalid=False):
    found = {**load(annotations)["wrapped"]}
    return people_of(found, Faults(annotations, drop=drop_invalid), skeleton=SKELETON, images=images)
"""
METHOD = """
from icon_dist.methods.supervised import Supervised


class Halves(Supervised):
    def __call__(self, forward, batch, *, step, epoch, diagnose):
        target, weight = self.codec.encode(batch.joints, batch.labelled)
        n = len(batch.row) // 2
        weight[n:] = 1  # of the others: nothing is anywhere
        outputs = forward(batch.image, *self.objective.pixels(batch))
        return self.objective(
            outputs, batch, target, weight, step=step, epoch=epoch, diagnose=diagnose, labelled=n
        )
"""
METRIC = """
from icon_dist.metrics.matching import match, percent


def score(truth, predictions, skeleton):
    matched = match(truth, predictions, skeleton)
    near = matched.labelled & (matched.error <= 8)
    return {"near": percent(int(near.sum()), int(matched.labelled.sum()))}
"""
LOGGER = """
import os


class Service:
    def __init__(self, csv, *, name, identity, config):
        self.file = open(os.environ["RUNS_CSV"], "a")
        self.rows = csv.writer(self.file)

    def __call__(self, values, *, step):
        self.rows.writerows([step, key, value] for key, value in values.items())

    def close(self):
        self.file.close()
"""
ADDED = {  # row of the page -> the new file, and what is written into others: by file, after which text, what
    "a backbone": ("models/plain.py", BACKBONE, {}),
    "a dataset with its own file format": (
        "datasets/strangers.py",
        DATASET,
        {
            "datasets/__init__.py": ('for name in ("aic14", ', '"strangers", '),
            "shards/build.py": ("DATASETS = (", '"strangers", '),
        },
    ),
    "a semi-supervised method": (
        "methods/halves.py",
        METHOD,
        {
            "methods/from_config.py": (
                "    unlabelled = round(micro_batch * semi.unlabelled_share)\n",
                '    if semi.method == "halves":\n'
                "        from icon_dist.methods.halves import Halves\n\n"
                "        return Halves(objective(0.1), codec)\n",
            ),
            "config/schema.py": ('method: Literal["none", ', '"halves", '),
        },
    ),
    "a metric": (
        "metrics/near.py",
        METRIC,
        {
            "datasets/skeleton.py": ("METRICS = (", '"near", '),
            "metrics/score.py": (
                "    match skeleton.metric:\n",
                '        case "near":\n'
                "            from icon_dist.metrics import near\n\n"
                "            return near.score(truth, ours, skeleton)\n",
            ),
            "metrics/calibration.py": ("RIGHT = {\n", '    "near": "similarity .5 or more",\n'),
        },
    ),
    "a logging service": ("loggers/csv.py", LOGGER, {"config/schema.py": ("SERVICES = (", '"csv", ')}),
}


def test_what_is_added_as_the_page_says_works(tmp_path: Path) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE))
    shutil.copytree(ROOT / "icon_dist", tmp_path / "icon_dist", ignore=shutil.ignore_patterns("__pycache__"))
    for what, (name, text, edits) in ADDED.items():
        assert f"one file in `{name.partition('/')[0]}/`" in rows[what]
        (tmp_path / "icon_dist" / name).write_text(text)
        for file, (place, new) in edits.items():
            assert f"`{file}`" in rows[what], f"{what}: the page does not name {file}"
            path = tmp_path / "icon_dist" / file
            assert path.read_text().count(place) >= 1
            last = path.read_text().rpartition(place)  # of two matches on the metric, the one that scores
            path.write_text(f"{last[0]}{place}{new}{last[2]}")
    score = tmp_path / "icon_dist/metrics/score.py"
    score.write_text(score.read_text().replace("MAIN = {", 'MAIN = {"near": "near", '))  # the headline

    photos = tmp_path / "photos"
    icon_dist(tmp_path, "shards", "synthesize", "--people", "24", "--out", "data/drawn", "--photos", str(photos))
    truth = json.loads((photos / "annotations.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps({"wrapped": truth}))
    given = ("--annotations", "own.json", "--images", str(photos / "images"), "--exif", "ignore", "--jobs", "1")
    icon_dist(tmp_path, "shards", "build", "strangers", *given, "--out", "data/own")

    values = TINY | {"data.train": "data/own", "data.val": "data/own", "data.dataset": "custom", "data.generate": 0}
    values |= {"model.backbone": "plain_8", "run.launcher": "local", "run.workers": 1, "run.zero": 0, "run.dir": "runs"}
    values |= {"run.report": "[csv]", "semi.method": "halves", "data.labelled": 0.5, "optim.batch": 8}
    values |= {"loss.bank.warmup": 1, "run.name": "own", "optim.milestones": "[2]"}
    words = [f"{key}={value}" for key, value in values.items()]
    icon_dist(tmp_path, "train", "--cfg", "demo", *words, "run.stop_after_epoch=1")
    icon_dist(tmp_path, "train", "--cfg", "demo", *words)  # goes on
    events = [json.loads(line) for line in (tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()]
    scored = [event["scores"]["near"] for event in events if event["kind"] == "eval"]
    assert len(scored) == 3
    assert all(event["unlabelled"] > 0 for event in events if event["kind"] == "train")
    told = [line.split(",") for line in (tmp_path / "runs.csv").read_text().splitlines()]
    assert [float(value) for _, key, value in told if key == "eval/near"] == scored

    icon_dist(tmp_path, "evaluate", "runs/own", "--calibrate", "--json", "scores.json")
    assert f'"near": {max(scored)}' in (tmp_path / "scores.json").read_text()
    icon_dist(tmp_path, "export", "runs/own", "-o", "own.onnx")


def icon_dist(home: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(home), "RUNS_CSV": str(home / "runs.csv")}
    done = subprocess.run(
        [sys.executable, "-m", "icon_dist", *words],
        cwd=home, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
