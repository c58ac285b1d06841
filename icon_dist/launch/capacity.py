"""How many workers the nodes of a cluster have room for, and which nodes are about to leave."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from icon_dist.config import RunConfig
from icon_dist.launch.ray_compat import draining_nodes

PATIENCE_S = 15.0  # for workers that should fit: a node that has just died is still counted for a while


def room(run: RunConfig) -> int:
    """Workers that fit on the nodes that are here to stay."""
    leaving, count = draining_nodes(), 0
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in leaving:
            have = node["Resources"]
            fits = have.get("CPU", 0) // run.cpus_per_worker
            if run.gpus_per_worker:
                fits = min(fits, have.get("GPU", 0) // run.gpus_per_worker)
            count += int(fits)
    return count


def choose(counts: Sequence[int], run: RunConfig) -> int:
    """The first of ``counts``, which fall, that the cluster has room for and really gives; the last one without."""
    for count in counts[:-1]:
        if count <= room(run) and _placed(count, run):
            return count
    return counts[-1]


def _placed(count: int, run: RunConfig) -> bool:
    needs = {"CPU": float(run.cpus_per_worker), "GPU": float(run.gpus_per_worker)}
    group = placement_group([{kind: amount for kind, amount in needs.items() if amount}] * count)
    try:
        return bool(group.wait(PATIENCE_S))
    finally:
        remove_placement_group(group)
