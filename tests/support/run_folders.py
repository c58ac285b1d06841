"""Folders of runs without the training: records that the test chooses, and checkpoints of a small random network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.datasets import skeleton_to_dict
from icon_dist.models import Heads, build_model
from icon_dist.types import Skeleton

SMALL = {
    "data.input": "32x32",
    "data.sigma": 1.0,
    "model.backbone": "hrnet_small",
    "model.embedding": 16,
    "optim.epochs": 4,
    "optim.milestones": (3,),
    "eval.every": 2,
}


def write_run(
    uri: str,
    *,
    scores: Sequence[Mapping[str, float | None]] = (),
    headline: str = "PCK@0.2",
    skeleton: Skeleton | None = None,
    weights_seed: int = 0,
    broken: bool = False,
    tail: str = "",
    **settings: Any,
) -> str:
    """A run at ``uri``: one evaluation an epoch with these ``scores``, and a checkpoint where a ``skeleton`` is given.

    ``settings`` are of its config (section__key=value); with ``broken`` weights the answer is not finite;
    ``tail`` is appended to the records as it is.
    """
    given = {key.replace("__", "."): value for key, value in settings.items()}
    config = configuration.load("people", SMALL | {"run.name": "run", "run.dir": "runs"} | given)
    storage.write(f"{uri}/config.yaml", configuration.to_yaml(config).encode())
    events: list[dict[str, Any]] = []
    for epoch in range(1, max(len(scores), 3) + 1):
        loss = 2.0 / epoch + 0.1 * config.run.seed
        contrast = {"skcc": 5.0 / epoch, "prcc": 4.0 / epoch} if config.loss.lambda_p else {"skcc": 0.0, "prcc": 0.0}
        position = {"step": 10 * epoch, "epoch": float(epoch)}
        events.append(
            {"kind": "train", **position, "lr": 1e-3, "total": loss, "heatmap": loss, **contrast, "scale": 1.0}
        )
        if epoch <= len(scores):
            told = {"what": "split=val boxes=gt", "headline": headline, "scores": dict(scores[epoch - 1])}
            events.append({"kind": "eval", **position, **told})
    storage.write(f"{uri}/metrics.jsonl", ("".join(json.dumps(one) + "\n" for one in events) + tail).encode())
    if skeleton is not None:
        torch.manual_seed(weights_seed)
        model = build_model(
            config.model.backbone, Heads(joints=skeleton.num_joints, projection=None, input_hw=config.input_hw)
        )
        tensors = {
            key: value * 1e30 if broken and value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
        manifest = {
            "config": dataclasses.asdict(config),
            "skeleton": skeleton_to_dict(skeleton),
            "epoch": float(max(len(scores), 3)),
            "metrics": dict(scores[-1]) if scores else {},
            "score": scores[-1][headline] if scores else None,
            "evaluated": "model",
        }
        step = 10 * max(len(scores), 3)
        checkpoint.save(uri, step=step, attempt="a", tensors={"model": tensors}, state={}, manifest=manifest, keep=1)
    return uri
