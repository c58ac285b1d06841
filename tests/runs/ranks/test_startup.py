"""What ranks ask of the storage when a run starts: rank 0 reads what all need, however many they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist import config as configuration
from icon_dist import distributed, storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.datasets import skeleton_to_dict
from icon_dist.errors import DataError, IconError, StorageError
from icon_dist.models import Heads, PoseNet, build_model
from icon_dist.shards.shard_set import open_shards
from icon_dist.shards.shared_columns import once_a_host
from icon_dist.storage.s3_client import client as client_of_s3
from icon_dist.training import start_weights
from tests.support.on_ranks import on_ranks

JOINTS = ["head", "neck"]


def asked(steps: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What the steps return, and the requests of this rank in each."""
    got, found = {}, {}
    events = client_of_s3().meta.events
    for name, step in steps.items():
        seen: list[str] = []

        def note(request: Any, seen: list[str] = seen, **_: object) -> None:
            seen.append(request.method)

        events.register_first("before-send.s3", note, unique_id=name)
        got[name] = step()
        events.unregister("before-send.s3", unique_id=name)
        found[name] = seen
    return got, found


def fresh() -> PoseNet:
    return build_model(
        "hrnet_small", Heads(joints=2, projection=None, feature="default", embedding=8, bones=(), input_hw=(64, 64))
    )


def start(uri: str) -> dict[str, Any]:
    torch.manual_seed(distributed.rank())
    model = fresh()
    steps = {
        "shards": lambda: once_a_host(lambda: open_shards(f"{uri}/train")),
        "checkpoint": lambda: checkpoint.newest_for_all(f"{uri}/run", warn=print),
        "pretrained": lambda: start_weights.start(model, f"{uri}/weights.safetensors", joints=JOINTS),
    }
    got, requests = asked(steps)
    weights = torch.cat([value.flatten().double() for name, value in model.state_dict().items() if "final" not in name])
    return {
        "requests": requests,
        "weights": weights,
        "checkpoint": got["checkpoint"].tensors("model")["x"],
        "people": torch.from_numpy(got["shards"].instance),
    }


@pytest.mark.parametrize("world", [1, 2, 4])
def test_requests_at_start_up(world: int, s3: str, people: Path, tmp_path: Path) -> None:
    for name in storage.listing(f"{people}/train"):
        storage.write(f"{s3}/train/{name}", people / "train" / name)
    tensors = {"model": {"x": torch.arange(6.0)}, "optimizer": {"y": torch.zeros(2)}}
    about = {"config": {}, "skeleton": skeleton_to_dict(open_shards(f"{people}/train").skeleton)}
    checkpoint.save(f"{s3}/run", step=3, attempt="a", tensors=tensors, state={}, manifest=about, keep=1)
    about = {
        "format": 1,
        "config": dataclasses.asdict(configuration.load("demo")),
        "skeleton": skeleton_to_dict(open_shards(f"{people}/train").skeleton),
        "step": 1,
        "checkpoint": "x",
        "manifest_sha256": "y",
        "channel_order": "rgb",
    }
    storage.write(f"{s3}/weights.safetensors", stored_weights.pack(fresh().state_dict(), about))

    ranks = on_ranks(start, s3, world=world, folder=tmp_path)
    first = ranks[0]["requests"]
    assert len(first["shards"]) == 3  # manifest, listing, index
    assert len(first["checkpoint"]) == 6  # listing, last.json, manifest, weights, moments, state
    assert 1 <= len(first["pretrained"]) <= 3
    for rank in ranks[1:]:
        assert rank["requests"] == {"shards": [], "checkpoint": [], "pretrained": []}
    for rank in ranks:
        assert torch.equal(rank["checkpoint"], torch.arange(6.0))
        assert torch.equal(rank["people"], ranks[0]["people"])
        assert torch.equal(rank["weights"], ranks[0]["weights"])


def refused(error: IconError) -> str:
    def read() -> str:
        assert distributed.rank() == 0, "only the first reads"
        raise error

    try:
        distributed.from_first(read)
    except IconError as raised:
        return f"{type(raised).__name__}: {raised}"
    return "nothing"


@pytest.mark.parametrize("error", [DataError("x: no shards"), StorageError("y: no bucket")])
def test_an_error_of_the_first_is_everybodys(error: IconError, tmp_path: Path) -> None:
    said = f"{type(error).__name__}: {error}"
    assert on_ranks(refused, error, world=3, folder=tmp_path) == [said] * 3
