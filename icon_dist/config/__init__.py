"""The whole configuration: what there is (``schema``), how it is read (``loading``), what may be set (``kinds``,
``rules``), what would do nothing (``idle``) and what would never begin (``schedule``)."""

from __future__ import annotations

from icon_dist.arguments import PRESETS, presets
from icon_dist.config.idle import refuse_idle
from icon_dist.config.loading import Loaded, changes, config_hash, from_dict, load, load_own, to_yaml
from icon_dist.config.printed import to_commented_yaml
from icon_dist.config.rules import validate
from icon_dist.config.schedule import check_schedule
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
    ModelConfig,
    OptimConfig,
    RunConfig,
    SemiConfig,
    Sets,
    as_sets,
    get,
    micro_batch,
    parse_size,
    per_worker,
    sets_of,
)

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "BankConfig",
    "Changes",
    "Config",
    "ContrastConfig",
    "DataConfig",
    "EvalConfig",
    "HeatmapLossConfig",
    "Loaded",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "SemiConfig",
    "Sets",
    "as_sets",
    "changes",
    "check_schedule",
    "config_hash",
    "from_dict",
    "get",
    "load",
    "load_own",
    "micro_batch",
    "parse_size",
    "per_worker",
    "presets",
    "refuse_idle",
    "sets_of",
    "to_commented_yaml",
    "to_yaml",
    "validate",
]
