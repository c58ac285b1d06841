"""``shards/fake.py`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from icon_dist.shards.shard_set import open_shards
from tests.support.builds import call, run


def test_people_to_shards_and_the_same_again(tmp_path: Path) -> None:
    out, photos = str(tmp_path / "shards"), tmp_path / "photos"
    args = ("--out", out, "--people", "8", "--seed", "3", "--jobs", "1", "--photos", str(photos))
    first = run("fake.py", *args, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "drawn 8/8 people" in first.stderr
    assert first.stdout.startswith(f"{out}: ")
    shards = open_shards(out)
    labelled = [a for a in json.loads((photos / "annotations.json").read_bytes())["annotations"] if a["num_keypoints"]]
    assert len(shards) == len(labelled) >= 8
    assert (shards.skeleton.name, shards.skeleton.metric) == ("fake", "pck")
    bytes_before = {p.name: p.read_bytes() for p in Path(out).iterdir()}
    again = call("fake.py", *args[:-2], cwd=tmp_path)  # drawn anew in a temporary folder
    assert again.returncode == 0, again.stderr
    assert {p.name: p.read_bytes() for p in Path(out).iterdir()} == bytes_before


def test_bad_arguments_end_with_one_line(tmp_path: Path) -> None:
    done = call("fake.py", "--out", str(tmp_path / "s"), "--people", "2", "--difficulty", "medium", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("icon_dist: error: ")
    assert "--difficulty: 'medium' is none of easy, hard" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()
