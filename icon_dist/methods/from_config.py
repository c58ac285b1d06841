"""The method that a config means."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from icon_dist.codec import codec_of
from icon_dist.config import Config
from icon_dist.methods.objective import Objective
from icon_dist.methods.pseudo_labels import Pseudo
from icon_dist.methods.sspose import LAMBDA_U, SSPose
from icon_dist.methods.supervised import JointsOfSets, Supervised
from icon_dist.models import PoseNet
from icon_dist.models.two_students import Pair
from icon_dist.types import Outputs, Skeleton

Method = Supervised | SSPose  # Pseudo is a Supervised one


def method_of(
    config: Config,
    skeleton: Skeleton,
    model: PoseNet | Pair,
    *,
    micro_batch: int,
    teacher: Callable[[Tensor], Outputs] | None,
    has_joint: JointsOfSets | None = None,
) -> Method:
    """``micro_batch`` counts all people of a forward pass; ``teacher`` there is with ``semi.method=pseudo`` alone, and
    not with ``semi.cache``. ``has_joint``: of a union of sets, which joints each has.
    """
    semi = config.semi
    codec = codec_of(config)

    def objective(lambda_u: float) -> Objective:
        return Objective(
            config.loss,
            skeleton,
            embedding_dim=config.model.embedding,
            embedding_stride=model.embedding_stride,
            embedding_origin=model.embedding_origin,
            sigma=config.data.sigma,
            lambda_u=lambda_u,
            seed=config.run.seed,
        )

    unlabelled = round(micro_batch * semi.unlabelled_share)
    if semi.method == "pseudo":
        assert (teacher is None) == semi.cache
        return Pseudo(
            objective(semi.lambda_u),
            codec,
            model=model,
            teacher=teacher,
            gamma=semi.gamma,
            unlabelled=unlabelled,
            joints=skeleton.joints,
            has_joint=has_joint,
        )
    if semi.method == "sspose":
        return SSPose(
            (objective(LAMBDA_U), objective(LAMBDA_U)),
            codec,
            semi,
            unlabelled=unlabelled,
            joints=skeleton.joints,
            seed=config.run.seed,
            has_joint=has_joint,
        )
    return Supervised(objective(0.0), codec)
