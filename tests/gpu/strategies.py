"""Configs that together reach every branch of a step: what all checks of the loss go through."""

from __future__ import annotations

from typing import Any

STRATEGIES: list[dict[str, Any]] = [
    {},
    {"loss__points": 1, "model__backbone": "hrnet_small"},  # reads a part of its map
    {"loss__skcc__query": "all", "loss__skcc__negative": "all", "loss__prcc__negative": "all"},
    {"loss__skcc__query": "random", "loss__skcc__negative": "random", "loss__prcc__negative": "random"},
    {"loss__skcc__category_score": "max", "loss__negatives_from_others": True},
    {"loss__max_queries": 8, "loss__max_negatives": 8, "loss__query_scope": "batch"},
    {"loss__contrast": "intra"},
    {"loss__lambda_p": 0},
    {"data__codec": "dark", "loss__read": "nearest", "loss__entropy": "peak"},
    {"data__codec": "udp", "loss__counted": "labelled", "loss__positives_from": "images"},
    {"model__backbone": "opecnet_hrnet_small"},
    {"loss__products": "bf16"},
]


def named(values: dict[str, Any]) -> str:
    return " ".join(f"{key.rpartition('__')[2]}={value}" for key, value in values.items()) or "default"
