"""The frozen teacher of ``semi.method=pseudo``: any run or fetched file, verified, and checked against this run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from icon_dist import config as configuration
from icon_dist import distributed
from icon_dist.config import Config
from icon_dist.data.shard import ShardSet
from icon_dist.data.split import Split, refuse_leak
from icon_dist.errors import CheckpointError, ConfigError, plain
from icon_dist.fetch import described, load_weights
from icon_dist.predict import load_model
from icon_dist.types import Outputs


@dataclass(frozen=True)
class Teacher:
    """Photos to heatmaps, and what it was."""

    forward: Callable[[Tensor], Outputs]
    origin: dict[str, str]  # for our own checkpoints: a resumed run must have the same teacher
    note: str  # one line for people


def load_teacher(config: Config, shards: ShardSet, known: Split, *, device: str, bf16: bool) -> Teacher:
    """The network that ``semi.teacher`` names, in evaluation mode; ``known`` are the people labelled in this run."""
    uri = config.semi.teacher
    tensors, metadata = distributed.from_first(lambda: load_weights(uri))
    theirs, skeleton = described(metadata, name=uri)
    if skeleton.joints != shards.skeleton.joints:
        raise CheckpointError(
            f"semi.teacher={uri}: predicts {skeleton.num_joints} joints of {skeleton.name}, the shards have "
            f"{shards.skeleton.num_joints} of {shards.skeleton.name}; give a teacher of the same skeleton"
        )
    for key in ("data.input", "data.sigma", "data.codec"):  # its heatmaps are the targets
        there, here = (configuration.get(c, key) for c in (theirs, config))
        if there != here:
            raise ConfigError(f"semi.teacher={uri}: trained with {key}={there}, this run has {here}; make them equal")
    refuse_leak(f"semi.teacher={uri}", metadata, known, shards.instance, index=shards.index_sha256)
    model = load_model(theirs, skeleton, tensors, colour=metadata.get("colour") or "rgb").to(device).eval()

    @torch.no_grad()
    def forward(image: Tensor) -> Outputs:
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs: Outputs = model(image)
        return outputs

    score = "not evaluated" if metadata["score"] is None else f"score {metadata['score']:.4f}"
    origin = {"checkpoint": metadata["checkpoint"], "sha256": metadata["manifest_sha256"]}
    return Teacher(forward, origin, plain(f"teacher: step {metadata['step']} of {metadata['checkpoint']}, {score}"))
