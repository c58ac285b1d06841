"""Count what training says over the network: bytes and messages that a rank receives in a step, on real gloo processes.

python cluster/count_messages.py > cluster/scale.json     (about a minute; cluster/scale.py makes the document of it)

Every rank runs the real loop. A message is a collective; its bytes are the tensor that it fills on this rank.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.shards.synthetic import Crowd, generate_shards
from icon_dist.training.loop import train

WORLDS = (1, 2, 4, 8, 16)
LARGEST = max(WORLDS)
PER_RANK, BUDGET, EMBEDDING = 8, 16, 16
COLLECTIVES: tuple[str, ...] = ("all_reduce", "broadcast", "all_gather", "all_gather_single", "all_gather_into_tensor")
COLLECTIVES += ("reduce_scatter", "reduce_scatter_single", "reduce_scatter_tensor")
FILLED = ("tensor", "tensor_list", "output", "output_tensor", "output_tensor_list")  # names of their first argument


def kind(frame: FrameType | None) -> str:
    """What a collective is for, told by who calls it."""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if "/deepspeed/" in file and "icon_dist" not in file:
            return "gradients"
        if file.endswith("icon_dist/distributed.py"):
            if name in ("start_gather", "backward"):
                return "bank"
            if name == "mean_buffers":
                return "buffers"
        frame = frame.f_back
    return "sums"


@contextmanager
def counted() -> Iterator[list[Counter[str]]]:
    """``bytes KIND`` and ``messages KIND`` that this process receives, step by step."""
    steps: list[Counter[str]] = [Counter()]
    originals = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}

    def counting(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            filled = args[0] if args else next(options[key] for key in FILLED if key in options)
            what = kind(sys._getframe(1))  # noqa: SLF001
            tensors = [filled] if isinstance(filled, Tensor) else filled
            steps[-1][f"messages {what}"] += 1
            steps[-1][f"bytes {what}"] += sum(t.numel() * t.element_size() for t in tensors)
            if what == "buffers":  # once a step
                steps.append(Counter())
            return originals[name](*args, **options)

        return call

    for name in originals:
        setattr(dist, name, counting(name))
    try:
        yield steps
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def settings(people: str, folder: str, *, world: int) -> Config:
    """A run of ``world`` ranks with PER_RANK people each; nothing is evaluated, one checkpoint at the end."""
    values = {
        "data.train": people, "data.val": "", "data.loaders": 0, "data.input": "32x32", "data.cache_mb": 0,
        "model.backbone": "hrnet_small", "model.embedding": EMBEDDING,
        "loss.start_epoch": 0, "loss.ramp_epochs": 0,
        "loss.bank.slots": 32, "loss.bank.warmup": 0, "loss.bank.budget": BUDGET,
        "optim.epochs": max(1, 6 * world // LARGEST), "optim.milestones": (),
        "optim.batch": PER_RANK * world, "optim.micro_batch": PER_RANK,
        "run.workers": world, "run.dir": folder, "run.name": str(world), "run.log_every": 2,
        "run.checkpoint_every": 1000,
    }  # fmt: skip
    return configuration.load("demo", values)


def _rank(rank: int, world: int, people: str, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    with counted() as steps:
        train(settings(people, folder, world=world), report=lambda _: None, device="cpu")
    whole = steps[2:-1]  # before: the start and the first step; after: the checkpoint
    quiet = min(whole, key=lambda step: sum(step.values()), default=Counter())
    told = max(whole, key=lambda step: sum(step.values()), default=Counter())
    logged = {f"{key} logged": told[key] - quiet[key] for key in told if told[key] > quiet[key]}
    Path(folder, f"{world}-{rank}.json").write_text(json.dumps({**quiet, **logged}))
    dist.destroy_process_group()


def measure(worlds: tuple[int, ...]) -> dict[str, dict[str, int]]:
    """Per world, what a step brings to a rank: the largest over ranks, by kind; ``logged``: what a logged step adds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        people = f"{folder}/people"
        generate_shards(people, Crowd(people=PER_RANK * LARGEST, seed=0), split="train", per_shard=64)
        for world in worlds:
            fork: Any = mp.start_processes  # type: ignore[attr-defined]
            fork(_rank, (world, people, folder), nprocs=world, start_method="fork")
            ranks = [json.loads(Path(folder, f"{world}-{rank}.json").read_text()) for rank in range(world)]
            found[str(world)] = {key: max(rank.get(key, 0) for rank in ranks) for key in {k for r in ranks for k in r}}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(tuple(map(int, sys.argv[1:])) or WORLDS), indent=1, sort_keys=True))
