"""The whole training objective of one network (paper Eq. 5).

    L = L_heatmap + lambda_p (lambda_1 L_SKCC + lambda_2 L_PRCC)

The mean over ranks of what N ranks find is the loss of one rank with the joined batch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.config import ContrastConfig, LossConfig
from icon_dist.distributed import mean_over_ranks
from icon_dist.losses import health
from icon_dist.losses.exchange import check_banks
from icon_dist.losses.health import Health
from icon_dist.losses.heatmap import heatmap_loss, joint_errors
from icon_dist.losses.icon import IconLoss
from icon_dist.losses.limb_pairs import relations
from icon_dist.losses.options import Bank, Options, Term
from icon_dist.losses.refined_joints import refinement_loss
from icon_dist.models import PoseNet
from icon_dist.types import Batch, DeviceStep, Outputs, Skeleton


@dataclass
class Losses:
    """The terms of one micro-batch. The mean over ranks of each is the loss of the joined batch."""

    total: Float[Tensor, ""]  # call backward on this one
    heatmap: Float[Tensor, ""]  # L_heatmap, without its weight
    skcc: Float[Tensor, ""]  # L_SKCC
    prcc: Float[Tensor, ""]  # L_PRCC
    joints: Float[Tensor, ""] | None = None  # of a model that refines joints
    unlabelled: Float[Tensor, ""] | None = None  # heatmap error of instances without labels, without its weights
    scale: float = 0.0  # lambda_p times the ramp
    health: dict[str, Health] = field(default_factory=dict)  # by term, with ``diagnose``
    measured: dict[str, Tensor] = field(default_factory=dict)  # what a method adds to the log; equal on all ranks
    watched: Outputs | None = None  # its gradients are compared, with ``diagnose``

    def scalars(self) -> dict[str, float]:
        """All there is to log. After backward and on every rank: it averages over ranks."""
        terms = {"total": self.total.detach(), "heatmap": self.heatmap, "skcc": self.skcc, "prcc": self.prcc}
        if self.joints is not None:
            terms["joints"] = self.joints
        if self.unlabelled is not None:
            terms["unlabelled"] = self.unlabelled
        means = mean_over_ranks(torch.stack([*terms.values(), *(each.loss for each in self.health.values())])).tolist()
        out = dict(zip(terms, means, strict=False)) | {"scale": self.scale}
        for (term, each), loss in zip(self.health.items(), means[len(terms) :], strict=True):
            out |= {f"{term}_{name}": value for name, value in each.scalars(loss).items()}
        out |= {name: value.item() for name, value in self.measured.items()}
        ratio = health.gradient_ratio(self.watched) if self.watched is not None else None
        return out if ratio is None else out | {"gradient_ratio": ratio.item()}


class Objective:
    """Eq. 5 on one rank: :class:`icon_dist.losses.icon.IconLoss` beside the heatmap error."""

    def __init__(
        self,
        cfg: LossConfig,
        skeleton: Skeleton,
        *,
        embedding_dim: int,
        embedding_stride: int,
        embedding_origin: float = 0.0,
        sigma: float,
        lambda_u: float = 0.0,
        seed: int,
    ) -> None:
        self._cfg, self._lambda_u = cfg, lambda_u
        options = Options(
            stride=embedding_stride,
            origin=embedding_origin,
            points=cfg.points,
            heatmap_stride=PoseNet.stride,
            sigma=sigma,
            read=cfg.read,
            contrast=cfg.contrast,
            negatives_from_others=cfg.negatives_from_others,
            entropy=cfg.entropy,
            query_scope=cfg.query_scope,
            max_queries=cfg.max_queries,
            max_negatives=cfg.max_negatives,
            products=cfg.products,
            seed=seed,
        )
        self._icon = icon_of(cfg, skeleton, dim=embedding_dim, options=options)

    def __call__(
        self,
        outputs: Outputs,
        batch: Batch,
        target: Float[Tensor, "N K h w"],
        weight: Float[Tensor, "N K"],
        *,
        step: int | DeviceStep,
        epoch: float,
        diagnose: bool = False,
        labelled: int | None = None,
    ) -> Losses:
        """``step`` counts optimizer steps, ``epoch`` is fractional. With ``diagnose``, measure for the log as well.

        After the first ``labelled`` instances come those without labels (Eq. 6-7): ``target`` is what a teacher says,
        and their heatmap error is weighted by lambda_u. For contrast all are alike.

        All ranks run the same collectives, whatever their instances: one gather and one sum, none without contrast.
        """
        errors = joint_errors(outputs.heatmaps, target, weight, reduction=self._cfg.heatmap.reduction)
        losses = self._supervised(outputs, batch, errors, weight, labelled, hw=target.shape[2:])
        if outputs.embedding is None or self._icon is None:
            return losses
        if epoch < self._cfg.start_epoch:
            # The head stays in the graph: an engine that waits for the gradient of every parameter must not hang.
            losses.total = losses.total + 0 * outputs.embedding.sum()
            return losses
        if self._icon.pending not in (None, step):
            self._icon.discard()  # the loop skipped that step
        losses.scale = self._cfg.lambda_p * ramp(epoch, self._cfg)
        found = self._icon(
            outputs.embedding if outputs.pixels is None else (outputs.embedding, outputs.pixels),
            batch.joints,
            self._counted(batch),
            batch.instance,
            heatmaps=outputs.heatmaps,
            errors=errors,
            image_id=batch.image_id if self._cfg.positives_from == "images" else None,
            step=step,
        )
        scale = step.scale.to(losses.total.dtype) if isinstance(step, DeviceStep) else losses.scale
        losses.total = losses.total + scale * found.total
        losses.skcc, losses.prcc = found.skcc, found.prcc
        if diagnose:
            losses.health = found.health()
            health.watch_gradients(outputs)
            losses.watched = outputs
        return losses

    def pixels(self, batch: Batch) -> tuple[Int64[Tensor, "N pixels"], ...]:
        """What the model is told beside the images: the pixels that are read, unless that is the whole map."""
        hw = batch.image.shape[1:3]
        if self._icon is None or self._icon.most_pixels * self._icon.options.stride**2 >= math.prod(hw):
            return ()
        return (self._icon.pixels(batch.joints, self._counted(batch), hw=hw).place,)

    def _counted(self, batch: Batch) -> Bool[Tensor, "N K"]:
        return batch.visible if self._cfg.counted == "visible" else batch.labelled

    def _supervised(
        self,
        outputs: Outputs,
        batch: Batch,
        errors: Float[Tensor, "N K"],
        weight: Float[Tensor, "N K"],
        labelled: int | None,
        *,
        hw: torch.Size,
    ) -> Losses:
        """All of it but contrast; ``hw`` of a heatmap."""
        heatmap = heatmap_loss(errors[:labelled])
        zero = torch.zeros_like(heatmap)
        losses = Losses(self._cfg.heatmap.weight * heatmap, heatmap.detach(), zero, zero)
        if labelled is not None:
            unlabelled = heatmap_loss(errors[labelled:])
            losses.total = losses.total + self._cfg.heatmap.weight * self._lambda_u * unlabelled
            losses.unlabelled = unlabelled.detach()
        if outputs.joints is not None:
            h, w = (side * PoseNet.stride for side in hw)
            truth, counted = batch.joints[:labelled], weight[:labelled]
            joints = refinement_loss(outputs.joints[:, :labelled], truth, counted, hw=(h, w))
            losses.total = losses.total + joints
            losses.joints = joints.detach()
        return losses

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """This step's tokens, of all its micro-batches, may enter the banks; without this they never do.

        Where ``keep`` does not hold the step leaves no trace in them.
        """
        if self._icon is not None:
            self._icon.commit(keep)

    def state_dict(self) -> dict[str, Tensor]:
        """That of the loss: plain tensors, the same bits on every rank; empty without contrast."""
        return {} if self._icon is None else self._icon.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a state of the same terms and sizes. Raises CheckpointError where it is of others."""
        check_banks(state, self.state_dict())
        if self._icon is not None and state:  # a run without contrast leaves nothing
            self._icon.load_state_dict(state)


def icon_of(cfg: LossConfig, skeleton: Skeleton, *, dim: int, options: Options) -> IconLoss | None:
    """The contrastive loss of a config, of the terms that a skeleton has tokens for; None without any."""

    def term(weight: float, section: ContrastConfig) -> Term:
        return Term(weight, **dataclasses.asdict(section))

    limbs = relations(skeleton, cfg.relation)
    prcc = cfg.lambda_2 if limbs else 0.0
    if cfg.lambda_p == 0 or cfg.lambda_1 == prcc == 0:
        return None
    return IconLoss(
        num_joints=skeleton.num_joints,
        limbs=limbs,
        dim=dim,
        tau=cfg.tau,
        bank=Bank(**dataclasses.asdict(cfg.bank)),
        skcc=term(cfg.lambda_1, cfg.skcc),
        prcc=term(prcc, cfg.prcc),
        options=options,
    )


def ramp(epoch: float, cfg: LossConfig) -> float:
    """0 before ``start_epoch``, then linearly to 1 over ``ramp_epochs``."""
    if epoch < cfg.start_epoch:
        return 0.0
    return min(1.0, (epoch - cfg.start_epoch) / cfg.ramp_epochs) if cfg.ramp_epochs > 0 else 1.0
