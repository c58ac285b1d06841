"""Trackio, which keeps its runs on this machine or in a Space. ``TRACKIO_SPACE_ID`` says where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icon_dist.loggers.reporters import PROJECT


class Service:
    """A run there; the same identity goes on with it."""

    def __init__(self, trackio: Any, *, name: str, identity: str, config: Mapping[str, Any]) -> None:
        del name  # a run of Trackio's has no other key than its name
        self._run = trackio.init(project=PROJECT, name=identity, resume="allow", config=dict(config))

    def __call__(self, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the Trackio run."""
        self._run.finish()
