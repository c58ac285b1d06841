"""Whether a run may go on from a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.config import load
from icon_dist.errors import CheckpointError
from icon_dist.shards.shard_set import open_shards
from icon_dist.training import resume
from icon_dist.training.resume import require


def test_another_model_is_refused_by_name() -> None:
    found = {
        "step": 1,
        "epoch": 0.5,
        "config": {"model": {"backbone": "hrnet_w32"}},
        "skeleton": {"joints": ["head", "neck"]},
        "channel_order": "rgb",
    }
    require(found, backbone="hrnet_w32", joints=["head", "neck"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"hrnet_w32.*hrnet_w48"):
        require(found, backbone="hrnet_w48", joints=["head", "neck"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"2 joints \(head, neck\).*3 \(head, neck, hip\)"):
        require(found, backbone="hrnet_w32", joints=["head", "neck", "hip"], epoch=0.5)
    with pytest.raises(CheckpointError, match=r"was epoch 0.5, but would be epoch 0.25 here.*optim.batch"):
        require(found, backbone="hrnet_w32", joints=["head", "neck"], epoch=0.25)


def test_a_checkpoint_tells_what_was_changed_on_the_way(people: Path) -> None:
    """Not what decides no result, and what was told before is kept."""
    train, val = (open_shards(str(people / name)) for name in ("train", "val"))
    first, second, third = (load("demo", given) for given in ([], ["optim.lr=0.1"], ["optim.lr=0.1", "run.keep=7"]))
    lr = first.optim.lr
    found = Checkpoint("run", 8, {"config": dataclasses.asdict(first)})
    assert resume.changed(None, first, train) == resume.changed(found, first, train) == {}
    told = resume.changed(found, second, train)
    assert told == {"changed": [f"from step 8 on: optim.lr=0.1 (was {lr})"]}
    later = Checkpoint("run", 9, {"config": dataclasses.asdict(second), **told})
    assert resume.changed(later, third, train) == told
    back = resume.changed(later, first, train)["changed"]
    assert back == [*told["changed"], f"from step 9 on: optim.lr={lr} (was 0.1)"]
    known = Checkpoint("run", 8, {"config": dataclasses.asdict(first), "index": train.index_sha256})
    assert resume.changed(known, first, train) == {}
    assert resume.changed(known, first, val) == {
        "changed": ["from step 8 on: the shards of data.train are others (labels, photos or packing)"]
    }


def test_what_must_stay_is_named_by_the_values_that_decide_it() -> None:
    found = {"step": 8, "files": {"model.safetensors": {}}, "split": {"share": 1.0}}
    resume.require_average(found, load("demo", []))
    with pytest.raises(CheckpointError, match=r"step 8: has no averaged weights, .*leave optim\.ema at 0"):
        resume.require_average(found, load("demo", ["optim.ema=0.9"]))
    resume.require_average({**found, "files": {"ema.safetensors": {}}}, load("demo", ["optim.ema=0.9"]))
    with pytest.raises(CheckpointError, match=r"split was .*the data\.train, data\.labelled and .*another run\.name"):
        resume.require_same(found, {"split": {"share": 0.5}})
