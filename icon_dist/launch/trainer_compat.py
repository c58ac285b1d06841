"""Ray's trainer without processes that have nothing to do here: ``tests/system/test_ray.py`` sees them gone."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer for runs that read no Ray Data. Each process that it leaves out takes 2 s of a CPU at the start."""

    own_cluster = False  # started for this run alone: it does not grow, and what is left in it ends with it

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        idle = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if self.own_cluster else set())
        parts["callbacks"] = [callback for callback in parts["callbacks"] if type(callback).__name__ not in idle]
        if self.own_cluster:
            policy = parts["scaling_policy"]
            policy.after_controller_start = policy._maybe_send_resource_request = _ask_no_autoscaler
        return super()._initialize_and_run_controller(**parts)


def _ask_no_autoscaler(_: object = None) -> None:
    """Ray's own question starts a process, and the workers wait for its answer."""
