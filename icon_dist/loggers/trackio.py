"""Trackio, which keeps its runs on this machine or in a Space. ``TRACKIO_SPACE_ID`` says where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icon_dist.loggers import wandb
from icon_dist.loggers.reporters import PROJECT


class Service(wandb.Service):
    """A run there, with the interface of wandb's; the same identity goes on with it."""

    def __init__(self, trackio: Any, *, name: str, identity: str, config: Mapping[str, Any]) -> None:
        del name  # a run of Trackio's has no other key than its name
        self._run = trackio.init(project=PROJECT, name=identity, resume="allow", config=dict(config))
