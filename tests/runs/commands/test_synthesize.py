"""``shards/synthesize.py`` as a user runs it, in any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from icon_dist.datasets import synthetic
from icon_dist.shards.shard_set import open_shards
from tests.support.builds import call


def test_people_to_shards_and_the_same_again(tmp_path: Path) -> None:
    out, photos = str(tmp_path / "shards"), tmp_path / "photos"
    args = ("--out", out, "--people", "8", "--seed", "3", "--jobs", "1", "--photos", str(photos))
    first = call("synthesize.py", *args, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"{out}: ")
    shards = open_shards(out)
    labelled = [a for a in json.loads((photos / "annotations.json").read_bytes())["annotations"] if a["num_keypoints"]]
    assert len(shards) == len(labelled) >= 8
    assert (shards.skeleton.name, shards.skeleton.metric) == ("synthetic", "pck")
    bytes_before = {p.name: p.read_bytes() for p in Path(out).iterdir()}
    again = call("synthesize.py", *args[:-2], cwd=tmp_path)  # drawn anew in a temporary folder
    assert again.returncode == 0, again.stderr
    assert {p.name: p.read_bytes() for p in Path(out).iterdir()} == bytes_before


def test_bad_arguments_end_with_one_line(tmp_path: Path) -> None:
    done = call("synthesize.py", "--out", str(tmp_path / "s"), "--people", "2", "--difficulty", "medium", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("icon_dist: error: ")
    assert "--difficulty: 'medium' is none of easy, hard" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_generate_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    one = synthetic.generate(
        tmp_path / "one", people=9, seed=5, progress=lambda done, total: said.append((done, total))
    )
    two = synthetic.generate(tmp_path / "two", people=9, seed=5, jobs=2)
    files = sorted(p.relative_to(one.parent) for p in one.parent.rglob("*.*"))
    assert files == sorted(p.relative_to(two.parent) for p in two.parent.rglob("*.*"))
    for file in files:
        assert (one.parent / file).read_bytes() == (two.parent / file).read_bytes()
    assert said[-1] == (9, 9)
    assert [done for done, _ in said] == sorted(done for done, _ in said)

    read = synthetic.read(one, images=one.parent / "images")
    assert 9 <= len(read.instances) <= 12
    assert read.skeleton == synthetic.SKELETON
    assert (synthetic.SKELETON.metric, synthetic.SKELETON.torso) == ("pck", (5, 12))
    photo = cv2.imread(str(one.parent / "images" / read.instances[0].file))
    image, labels = synthetic.render(5, 0)
    assert np.abs(photo[..., ::-1].astype(int) - image).mean() < 6  # JPEG; RGB in, BGR out
    assert read.instances[0].keypoints.ravel().tolist() == pytest.approx(labels[0]["keypoints"])
