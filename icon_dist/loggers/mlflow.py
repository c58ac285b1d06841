"""MLflow. ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` say where."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from icon_dist.loggers.reporters import PROJECT

TAG = "icon_dist_run"


class Service:
    """A run there; the same identity goes on with it."""

    def __init__(self, mlflow: Any, *, name: str, identity: str, config: Mapping[str, Any]) -> None:
        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        known = mlflow.search_runs(filter_string=f"tags.{TAG} = '{identity}'", max_results=1, output_format="list")
        if known:
            mlflow.start_run(run_id=known[0].info.run_id)
        else:
            mlflow.start_run(run_name=name, tags={TAG: identity})
            mlflow.log_dict(dict(config), "config.json")

    def __call__(self, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of a step, with what MLflow does not take in a name as ``_``."""
        self._mlflow.log_metrics({re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """End the MLflow run."""
        self._mlflow.end_run()
