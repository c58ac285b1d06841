"""Paths as people write them, places that cannot be written, a full disk, fewer shards than workers, nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icon_dist import config as configuration
from icon_dist.errors import DataError
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import hashed_json
from icon_dist.training.plan import plan_run
from tests.adversarial.fuzz import attack, cases, world
from tests.adversarial.fuzz.cases import Case
from tests.support.full_disk import full_disk
from tests.support.paths import ROOT
from tests.support.streams import train_stream


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places") / "a b" / "ünï"
    world.make(root)
    return root


def build(*out: str) -> tuple[str, ...]:
    return ("coco", "--annotations", "coco.json", "--images", "photos", *out, "--jobs", "1")


def test_home_relative_and_absolute_are_the_same_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    for number, shards in enumerate(("~/shards", "./shards", "../ünï/shards", str(here / "shards"))):
        out = f"{shards.removesuffix('shards')}new{number}"
        assert attack.run(Case("", "verify", (shards,), frozenset({0})), here)[2] == []
        assert attack.run(Case("", "build", build("--out", out), frozenset({0}), f"new{number}"), here)[2] == []
        assert (here / f"new{number}" / "manifest.json").is_file()
    assert configuration.load("~/config.yaml") == configuration.load(str(here / "config.yaml"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_no_permission(here: Path) -> None:
    (here / "closed").mkdir(mode=0o500)
    (here / "secret.json").write_text("{}")
    (here / "secret.json").chmod(0)
    assert attack.run(Case("", "build", build("--out", "closed/new"), frozenset({5})), here)[2] == []
    secret = ("coco", "--annotations", "secret.json", "--images", "photos", "--out", "new")
    assert attack.run(Case("", "build", secret, frozenset({3})), here)[2] == []


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_a_full_disk(here: Path, jobs: str) -> None:
    before = attack.files(here)
    command = [sys.executable, str(ROOT / "shards" / "build.py"), *build("--out", f"full{jobs}")[:-1], jobs]
    command += ["--max-input", "64x64"]
    with full_disk(3000):
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5, done.stderr
    assert "disk full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    left = {name for name in attack.files(here) if name not in before and "/" in name}
    assert left <= {f"full{jobs}/building.json"}, "what a build goes on from, and nothing else"


def test_fewer_shards_than_workers(here: Path) -> None:
    """Two shards, four workers: everybody comes once."""
    shards = open_shards(str(here / "shards"))
    assert len(shards.shard_names) == 2
    changes = ["run.workers=4", "run.launcher=ray", "optim.batch=4", "optim.micro_batch=1", "data.streams=4"]
    config = configuration.load(str(here / "config.yaml"), changes)
    assert plan_run(config, shards).steps_per_epoch == 2
    rows = []
    for rank in range(4):
        stream = train_stream(
            shards,
            seed=0,
            batch=4,
            streams=4,
            rank=rank,
            world=4,
            micro_batch=1,
            input_hw=(64, 64),
            augment=config.data.augment,
            loaders=0,
        )
        rows += [batch.row.numpy() for batch in stream.epoch(0)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(8))


def test_a_set_of_nobody(here: Path) -> None:
    """None can be built, and a manifest that says so is refused."""
    (here / "nobody.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1}]}')
    nobody = ("coco", "--annotations", "nobody.json", "--images", "photos", "--out", "new")
    code, shown, faults = attack.run(Case("", "build", nobody, frozenset({3})), here)
    assert (code, faults) == (3, [])
    assert "nobody.json: no person with a labelled joint" in shown
    root = cases.copy(here / "shards", here)
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_bytes(hashed_json.sealed({**manifest, "people": 0}))
    with pytest.raises(DataError, match="not a shard manifest"):
        open_shards(str(root))
