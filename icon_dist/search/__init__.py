"""Search over config values: Optuna proposes, Ray Tune runs, one journal remembers. Scripts are in ``sweeps/``."""

from __future__ import annotations

from icon_dist.search.command import main
from icon_dist.search.run import run_search
from icon_dist.search.space import Range, Space

__all__ = ["Range", "Space", "main", "run_search"]
