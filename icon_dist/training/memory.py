"""What the processes of a run hold in memory at most, as far as it is known before it starts: all but activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icon_dist.config import Config, micro_batch
from icon_dist.data.crop_cache import cached_ends
from icon_dist.data.loader_processes import AHEAD, HELD
from icon_dist.launch import process_memory
from icon_dist.shards.shard_set import ShardSet

GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes on a host beside the programs themselves. As text, the lines of a plan."""

    network: int  # a worker's weights, gradients, moments and banks; 0 on a GPU, which then has them
    checkpoint: int  # the copy of them that rank 0 writes
    crops: int  # a worker's decoded images, and the ring of its loaders
    index: int  # once a host
    loaders: int  # processes of a worker
    ray: bool

    @property
    def worker(self) -> float:
        """Bytes of rank 0, activations aside."""
        return process_memory.WORKER * GB + self.network + self.checkpoint + self.crops

    def __str__(self) -> str:
        parts = {"program": process_memory.WORKER * GB, "network": self.network}
        parts |= {"a checkpoint under way": self.checkpoint, "decoded crops": self.crops}
        said = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
        others = [f"index {_gb(self.index)} a host"]
        others += [f"each loader {process_memory.LOADER:g}"] * bool(self.loaders)
        others += [f"driver {process_memory.DRIVER:g}", f"Ray {process_memory.RAY:g} a node"] * self.ray
        return f"memory      a worker {_gb(self.worker)} GB and activations: {said}\n            {', '.join(others)}"


def memory_of(config: Config, shards: ShardSet, val: Sequence[ShardSet], *, network: int, checkpoint: int) -> Memory:
    """The memory of a run with so many bytes of network and checkpoint."""
    data, on_gpu = config.data, config.run.gpus_per_worker > 0
    sets = {id(one): one for one in (shards, *shards.parts, *val)}
    index = sum(value.nbytes for one in sets.values() for value in vars(one).values() if isinstance(value, np.ndarray))
    slots = data.loaders + AHEAD + HELD if data.loaders else 0
    ring = slots * micro_batch(config) * int(np.prod(config.input_hw)) * 3
    cached = cached_ends(shards.stored_wh, budget=data.cache_mb * max(1, data.loaders) << 20)
    return Memory(
        network=0 if on_gpu else network,
        checkpoint=checkpoint,
        crops=ring + int(cached.max(initial=0)),
        index=index,
        loaders=data.loaders,
        ray=config.run.launcher != "local",
    )


def _gb(size: float) -> str:
    return f"{size / GB:.1f}" if size >= 0.05 * GB else "< .1"
