"""Search over config values: Optuna proposes, Ray Tune runs, one journal remembers. The command is in ``command``."""

from __future__ import annotations

from icon_dist.search.run import run_search
from icon_dist.search.space import Range, Space
from icon_dist.search.spaces import read_search

__all__ = ["Range", "Space", "read_search", "run_search"]
