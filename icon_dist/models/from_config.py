"""Models as a config means them: new ones to train, and those of stored weights."""

from __future__ import annotations

from icon_dist.checkpoints.weights import Weights, require_same_tensors
from icon_dist.config import Config
from icon_dist.config.short_runs import contrasts
from icon_dist.errors import CheckpointError, ConfigError
from icon_dist.models import Heads, PoseNet, build_model
from icon_dist.models.shapes import Unfilled, shapes_alone
from icon_dist.models.two_students import Pair
from icon_dist.types import Skeleton


def build(config: Config, skeleton: Skeleton) -> PoseNet:
    """A model with fresh weights; without contrast it has no projection head to train."""
    return _build(config, skeleton, projection=config.model.projection if contrasts(config) else None)


def build_trained(config: Config, skeleton: Skeleton) -> PoseNet | Pair:
    """All that a run trains: one such model, or two students."""
    if config.semi.method == "sspose":
        return Pair(build(config, skeleton), build(config, skeleton))
    return build(config, skeleton)


def shape(config: Config, skeleton: Skeleton) -> PoseNet | Pair:
    """:func:`build_trained` without any values: parameters and buffers have shapes alone, on the meta device."""
    with shapes_alone():
        return build_trained(config, skeleton)


def unfilled(config: Config, skeleton: Skeleton) -> PoseNet:
    """A model to predict with, whose values are yet to be loaded; to draw them would take longer than all the rest."""
    with Unfilled():
        return _build(config, skeleton, projection=None)


def restore(weights: Weights) -> PoseNet:
    """The model of ``weights``, without the projection head that only training uses; a CheckpointError if none fits."""
    try:
        model = unfilled(weights.config, weights.skeleton)
    except ConfigError as error:
        raise CheckpointError(f"checkpoint: {error}") from None
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("projection.")}
    require_same_tensors(tensors, model.state_dict())
    model.load_state_dict(tensors)
    model.channel_order = weights.channel_order
    return model


def _build(config: Config, skeleton: Skeleton, *, projection: str | None) -> PoseNet:
    return build_model(
        config.model.backbone,
        Heads(
            joints=skeleton.num_joints,
            projection=projection,
            feature=config.model.feature,
            embedding=config.model.embedding,
            bones=skeleton.bones + skeleton.limbs,
            sigma=config.data.sigma,
            drop_path=config.model.drop_path,
            input_hw=config.input_hw,
        ),
    )
