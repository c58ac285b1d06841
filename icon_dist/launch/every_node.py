"""The same question to every node of a running Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from icon_dist.launch.connect import connect

T = TypeVar("T")


def on_every_node(task: Callable[[], T], *, patience_s: float) -> dict[str, T | str]:
    """What ``task`` returns on each living node, by the node's address; a text instead says why there is no answer.

    The cluster is the one that RAY_ADDRESS names, else the one that runs on this machine.
    """

    def ask() -> T:  # Ray takes functions, not every callable
        return task()

    connect(otherwise="auto")
    try:
        pending = {}
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                remote = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(ask)
                pending[f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"] = remote.remote()
        ray.wait(list(pending.values()), num_returns=len(pending), timeout=patience_s)
        return {name: _answer(answer, patience_s) for name, answer in pending.items()}
    finally:
        ray.shutdown()


def _answer(answer: ray.ObjectRef[T], patience_s: float) -> T | str:
    try:
        result: T = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {patience_s:.0f} s; look at the node, or restart Ray on it"
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{lines[-1] if lines else type(error).__name__}; install icon_dist there as here"
    return result
