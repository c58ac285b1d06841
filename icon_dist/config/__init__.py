"""The whole configuration: what there is (``schema``), how it is read (``loading``), what may be set (``value_types``,
``validation``), what would do nothing (``unused_values``) and what would never begin (``short_runs``)."""

from __future__ import annotations

from icon_dist.config.loading import changes, config_hash, files, from_dict, load, load_own, to_yaml
from icon_dist.config.print_config import to_commented_yaml
from icon_dist.config.schema import (
    AugmentConfig,
    BankConfig,
    Changes,
    Config,
    ContrastConfig,
    DataConfig,
    EvalConfig,
    HeatmapLossConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    SemiConfig,
    as_sets,
    get,
    micro_batch,
    per_worker,
    sets_of,
)
from icon_dist.config.short_runs import check_short_run
from icon_dist.config.unused_values import defaults_of_unused, refuse_unused
from icon_dist.config.validation import validate

__all__ = [
    "AugmentConfig",
    "BankConfig",
    "Changes",
    "Config",
    "ContrastConfig",
    "DataConfig",
    "EvalConfig",
    "HeatmapLossConfig",
    "LossConfig",
    "OptimConfig",
    "RunConfig",
    "SemiConfig",
    "as_sets",
    "changes",
    "check_short_run",
    "config_hash",
    "defaults_of_unused",
    "files",
    "from_dict",
    "get",
    "load",
    "load_own",
    "micro_batch",
    "per_worker",
    "refuse_unused",
    "sets_of",
    "to_commented_yaml",
    "to_yaml",
    "validate",
]
