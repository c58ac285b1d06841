"""Whether a run may go on from a checkpoint: of the same model, on the same data, at the same position."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from icon_dist import config as configuration
from icon_dist.checkpoints.manifest import NAME, OTHER, Manifest
from icon_dist.config import Config
from icon_dist.errors import CheckpointError, ConfigError


def require(manifest: Manifest, *, backbone: str, joints: Sequence[str], epoch: float) -> None:
    """Refuse a checkpoint of another model, or whose step is another position in this run's data, naming both."""
    where = f"checkpoint of step {manifest['step']}"
    if absent := [name for name in ("config", "skeleton", "epoch", "channel_order") if name not in manifest]:
        raise CheckpointError(f"{where}: {NAME} has no {absent[0]}; {OTHER}")
    theirs = _config_of(manifest).model.backbone
    if theirs != backbone:
        raise CheckpointError(f"{where}: model.backbone={theirs}, but this run has {backbone}; use another run.name")
    saved = manifest["skeleton"]["joints"]
    if list(saved) != list(joints):
        raise CheckpointError(
            f"{where}: {len(saved)} joints ({', '.join(saved)}), but the data has {len(joints)} ({', '.join(joints)})"
        )
    if manifest["epoch"] != epoch:
        raise CheckpointError(
            f"{where}: was epoch {manifest['epoch']:g}, but would be epoch {epoch:g} here; "
            "resume with the data and the optim.batch it was trained with, or use another run.name"
        )


def changes(manifest: Manifest, cfg: Config) -> list[str]:
    """What ``cfg`` changes of the config it was saved with, outside the ``run`` section."""
    return configuration.changes(dataclasses.asdict(_config_of(manifest)), cfg)


def _config_of(manifest: Manifest) -> Config:
    try:
        return configuration.from_dict(manifest["config"])
    except ConfigError as error:
        raise CheckpointError(f"checkpoint of step {manifest['step']}: its config: {error}; {OTHER}") from None


def require_same(manifest: Manifest, facts: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a run that stood on something else, such as other labelled people, naming the first."""
    for name, here in facts.items():
        if (there := manifest.get(name)) != here:
            theirs, ours = (json.dumps(fact, sort_keys=True) for fact in (there, here))
            raise CheckpointError(
                f"checkpoint of step {manifest['step']}: {name} was {theirs}, but is {ours} here; "
                "resume with what it was trained with, or use another run.name"
            )


def require_same_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], *, part: str = "") -> None:
    """Refuse tensors that do not fit, or that no training goes on from, naming the first of them.

    ``own`` has the names, shapes and types; ``part`` says whose they are where it is not the model.
    """
    theirs, ours = ({name: _described(tensor) for name, tensor in group.items()} for group in (saved, own))
    if differ := [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]:
        name = differ[0]
        raise CheckpointError(
            f"checkpoint: {part}{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here "
            f"({len(differ)} such tensors); resume with the model.*, loss.lambda_* and semi.method it was trained "
            "with, or use another run.name"
        )
    if broken := [name for name, tensor in saved.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"checkpoint: {part}{broken[0]} has values that are not finite; {OTHER}")


def _described(tensor: Tensor) -> str:
    """Its shape, and its type where that is not the usual one."""
    kind = "" if tensor.dtype == torch.float32 else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"
