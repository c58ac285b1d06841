"""What a run leaves behind, to be compared with another run's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config

Tensors = dict[str, dict[str, Tensor]]


def final(config: Config) -> Tensors:
    found = checkpoint.find(f"{config.run.dir}/{config.run.name}", warn=pytest.fail)
    assert found is not None
    names = [n for n in ("model", "optimizer", "bank", "ema") if found.has(n)]
    return {name: found.tensors(name) for name in names}


def assert_equal(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        different = [key for key in a[name] if not torch.equal(a[name][key], b[name][key])]
        assert not different, f"{name}: {different[:5]} of {len(different)} differ"


def losses(config: Config) -> list[float]:
    text = Path(config.run.dir, config.run.name, "metrics.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    return [event["total"] for event in events if event["kind"] == "train"]
