"""A trained model that is ready to predict."""

from __future__ import annotations

from typing import NamedTuple

from icon_dist.checkpoints import weights as stored_weights
from icon_dist.checkpoints.weights import Weights
from icon_dist.codec import Codec, codec_of
from icon_dist.models import PoseNet, from_config


class Trained(NamedTuple):
    """A network in evaluation mode, what its weights say of it, and the codec that it was trained with."""

    model: PoseNet
    weights: Weights
    codec: Codec


def load(uri: str, *, which: str | int | None = None, net: int = 1, device: str = "cpu") -> Trained:
    """The model of a run or of a fetched file; arguments and errors are those of ``checkpoints.weights.load``."""
    return restored(stored_weights.load(uri, which=which, net=net), device=device)


def restored(weights: Weights, *, device: str) -> Trained:
    """The model of ``weights``, on a device; CheckpointError if no model fits them."""
    return Trained(from_config.restore(weights).to(device).eval(), weights, codec_of(weights.config))
