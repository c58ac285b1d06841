"""Weights & Biases. Its own variables (``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE`` ...) say where and how."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from icon_dist.loggers.reporters import PROJECT


class Service:
    """A run there; the same identity goes on with it."""

    def __init__(self, wandb: Any, *, name: str, identity: str, config: Mapping[str, Any]) -> None:
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(project=project, name=name, id=identity, resume="allow", config=dict(config))

    def __call__(self, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
