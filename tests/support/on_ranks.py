"""Any function on real gloo ranks, without a training loop; see gang.py for one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.training import start


def on_ranks(function: Callable[..., Any], *args: Any, world: int, folder: Path) -> list[Any]:
    """What ``function(*args)`` returns on every rank of a gloo group.

    Every group has a folder of its own below ``folder``: a FileStore that another group has used sends ranks to
    addresses where nobody listens any more.
    """
    own = Path(tempfile.mkdtemp(prefix="group-", dir=folder))
    start(_member, function, args, world, str(own), world=world)
    return [torch.load(own / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _member(rank: int, function: Callable[..., Any], args: tuple[Any, ...], world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(*args), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def flat(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All numbers of dictionaries and lists by their path."""
    if isinstance(tree, dict):
        return {k: v for name, branch in tree.items() for k, v in flat(branch, f"{path}/{name}").items()}
    if isinstance(tree, list):
        return flat(dict(enumerate(tree)), path)
    return {path: torch.as_tensor(tree)}
