"""What a plan says of memory, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.training.memory import memory_of
from icon_dist.training.plan import plan_run
from tests.support.training import tiny


@pytest.fixture
def shards(people: Path) -> ShardSet:
    return open_shards(f"{people}/train")


def test_of_a_worker_on_a_cpu(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    config = tiny(people, tmp_path, data__loaders=2, data__cache_mb=1, optim__ema=0.9)
    plan = plan_run(config, shards)
    assert plan.memory.network == plan.checkpoint_bytes + 4 * plan.parameters  # and gradients
    assert plan.memory.checkpoint == plan.checkpoint_bytes
    cached = 0
    for width, height in shards.stored_wh.tolist():
        if cached + 4 * width * height > 2 << 20:  # of two loaders
            break
        cached += 4 * width * height
    assert 0 < cached < 2 << 20
    height, width = config.input_hw
    inputs = (2 + 4 + 3) * config.optim.micro_batch * height * width * 3
    assert plan.memory.crops == cached + inputs
    assert plan.memory.worker == 0.5e9 + plan.memory.network + plan.memory.checkpoint + plan.memory.crops
    assert plan.memory.ray


def test_a_gpu_has_the_network(people: Path, tmp_path: Path, shards: ShardSet) -> None:
    config = tiny(people, tmp_path, run__gpus_per_worker=1, run__launcher="local", run__workers=1)
    memory = memory_of(config, shards, (shards,), network=10**9, checkpoint=10**8)
    assert (memory.network, memory.checkpoint, memory.ray) == (0, 10**8, False)
    per_person = 4 + 8 + 8 + 32 + 8 + 8 + 32 + 8 + 8 + 12 * shards.skeleton.num_joints + 32 + 8 + 8
    assert memory.index == per_person * len(shards)  # of one set, though it is scored too
    assert "Ray" not in str(memory)
    assert "loader" not in str(memory)
