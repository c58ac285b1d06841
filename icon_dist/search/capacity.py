"""What the cluster has room for: looked at before the first trial, and named when a trial waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from icon_dist.config import RunConfig
from icon_dist.errors import ClusterError, plural
from icon_dist.launch.capacity import room


@dataclass(frozen=True)
class Need:
    """The resources of one trial."""

    workers: int
    cpus: int  # of a worker
    gpus: int

    @property
    def inline(self) -> bool:
        """One worker is the Tune actor itself: no processes to start, and data stays in its memory."""
        return self.workers == 1

    def __str__(self) -> str:
        each = f"{self.cpus} CPU" + (f" + {self.gpus} GPU" if self.gpus else "")
        return f"{plural(self.workers, 'worker')} x {each}"


def trials_at_once(need: Need, run: RunConfig) -> int:
    """How many trials the cluster has room for. ClusterError if not for one."""
    places = room(run)
    if places < need.workers:
        have = ray.cluster_resources()
        raise ClusterError(
            f"a trial needs {need}, the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs, room "
            f"for {plural(places, 'such worker')}; lower --workers-per-trial, --gpus-per-worker or run.cpus_per_worker"
        )
    return places // need.workers


def shortage(need: Need) -> str:
    """What is free now, for the message about a trial that waits."""
    free = ray.available_resources()
    return f"needs {need}; free now: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
