"""What only a GPU can do is refused elsewhere with the reason, and the plan says what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist.config import load
from icon_dist.errors import ConfigError
from icon_dist.shards.shard_set import open_shards
from icon_dist.training.plan import plan_run
from icon_dist.training.setup import is_resident
from tests.support.training import tiny

GRAPH = ["run.graph=true", "run.gpus_per_worker=1", "run.zero=0"]


@pytest.mark.parametrize(
    ("value", "where", "fix"),
    [
        ("run.gpus_per_worker=0", "run.graph=True", "run.gpus_per_worker=1"),
        ("run.zero=1", "run.graph=True", "run.zero=0"),
        ("loss.bank.exchange=async", "run.graph=True", "loss.bank.exchange=sync"),
    ],
)
def test_a_graph_where_it_cannot_be(value: str, where: str, fix: str) -> None:
    load("coco", GRAPH)
    load("coco", [*GRAPH, "run.compile=true", "optim.ema=0.99", "optim.micro_batch=8"])
    with pytest.raises(ConfigError) as caught:
        load("coco", [*GRAPH, value])
    text = str(caught.value).lower()
    assert where.lower() in text
    assert fix in text


def test_resident_crops_need_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"data\.resident=always: .* run\.gpus_per_worker=1"):
        load("coco", ["run.gpus_per_worker=0", "data.resident=always"])
    with pytest.raises(ConfigError, match=r"data\.resident=yes: expected one of never, auto, always"):
        load("coco", ["data.resident=yes"])
    load("coco", ["run.gpus_per_worker=0", "data.resident=auto"])


@pytest.mark.parametrize("resident", ["never", "auto"])
def test_the_plan_says_what_they_take(people: Path, tmp_path: Path, resident: str) -> None:
    config: Any = tiny(people, tmp_path, data__resident=resident)
    shards = open_shards(config.data.train)
    size = 3 * sum(w * h for w, h in shards.stored_wh.tolist())
    assert size >= 1e6
    said = f"resident    {size / 1e6:.1f} MB decoded, on every GPU"
    assert (said in str(plan_run(config, shards))) == (resident == "auto")
    assert not is_resident(resident, shards, device="cpu")


def test_memory_that_an_earlier_trial_left_to_torch_is_free(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of a sweep follow each other in one process; torch keeps what it has taken, the driver calls it taken."""
    shards = open_shards(str(people / "train"))
    size = 3 * sum(w * h for w, h in shards.stored_wh.tolist())
    whole, kept = 2 * size, [size]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (whole - sum(kept), whole))
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    assert is_resident("always", shards, device="cuda:0")
    whole -= 1
    assert not is_resident("auto", shards, device="cuda:0")
    with pytest.raises(ConfigError, match=r"data\.resident=always: .* 50% of the .* free on cuda:0"):
        is_resident("always", shards, device="cuda:0")
