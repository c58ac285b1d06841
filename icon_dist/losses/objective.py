"""The whole training objective (paper Eq. 5): ``L = L_heatmap + lambda_p (lambda_1 L_SKCC + lambda_2 L_PRCC)``.

The mean over ranks of what N ranks find is the loss of one rank with the joined batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icon_dist.config import LossConfig
from icon_dist.losses import health
from icon_dist.losses.contrast import Contrast
from icon_dist.losses.heatmap import heatmap_loss, joint_errors
from icon_dist.losses.refined_joints import refinement_loss
from icon_dist.losses.terms import Losses
from icon_dist.types import Batch, DeviceStep, Outputs, Skeleton

__all__ = ["Losses", "Objective", "ramp"]


class Objective:
    """Eq. 5 on one rank."""

    def __init__(
        self,
        cfg: LossConfig,
        skeleton: Skeleton,
        *,
        embedding_dim: int,
        embedding_stride: int,
        sigma: float,
        heatmap_stride: int = 4,
        lambda_u: float = 0.0,
        seed: int,
    ) -> None:
        self._cfg = cfg
        self._lambda_u = lambda_u
        self._heatmap_stride = heatmap_stride
        self._contrast = Contrast(
            cfg,
            skeleton,
            embedding_dim=embedding_dim,
            embedding_stride=embedding_stride,
            sigma=sigma,
            heatmap_stride=heatmap_stride,
            seed=seed,
        )

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

        After the first ``labelled`` people come those without labels (Eq. 6-7): ``target`` is what a teacher says, and
        their heatmap error is weighted by lambda_u. For contrast all are alike.

        All ranks run the same collectives, whatever their people: one gather and one sum, none without contrast.
        """
        errors = joint_errors(outputs.heatmaps, target, weight, reduction=self._cfg.heatmap.reduction)
        heatmap = heatmap_loss(errors[:labelled])
        total = self._cfg.heatmap.weight * heatmap
        losses = Losses(total, heatmap.detach(), torch.zeros_like(heatmap), torch.zeros_like(heatmap))
        if labelled is not None:
            unlabelled = heatmap_loss(errors[labelled:])
            losses.total = total = total + self._cfg.heatmap.weight * self._lambda_u * unlabelled
            losses.unlabelled = unlabelled.detach()
        if outputs.joints is not None:
            h, w = (side * self._heatmap_stride for side in target.shape[2:])
            joints = refinement_loss(
                outputs.joints[:, :labelled], batch.joints[:labelled], weight[:labelled], hw=(h, w)
            )
            losses.total = total = total + joints
            losses.joints = joints.detach()
        if outputs.embedding is None or not self._contrast.terms:
            return losses
        if epoch < self._cfg.start_epoch:
            # The head stays in the graph: an engine that waits for the gradient of every parameter must not hang.
            losses.total = total + 0 * outputs.embedding.sum()
            return losses
        losses.scale = self._cfg.lambda_p * ramp(epoch, self._cfg)
        found = self._contrast(outputs, batch, errors.detach(), step=step, diagnose=diagnose)
        scale = step.scale.to(total.dtype) if isinstance(step, DeviceStep) else losses.scale
        losses.total = total + scale * found.total
        for name, loss in found.terms.items():
            setattr(losses, name, loss)
        losses.measured = found.measured
        if diagnose:
            health.watch_gradients(outputs)
            losses.watched = outputs
        return losses

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """This step's tokens, of all its micro-batches, may enter the banks; without this they never do.

        Where ``keep`` does not hold the step leaves no trace in them.
        """
        self._contrast.candidates.commit(keep)

    def state_dict(self) -> dict[str, Tensor]:
        """The banks as plain tensors, the same bits on every rank; empty without banks. Waits for what travels."""
        return self._contrast.candidates.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._contrast.candidates.load_state_dict(state)


def ramp(epoch: float, cfg: LossConfig) -> float:
    """0 before ``start_epoch``, then linearly to 1 over ``ramp_epochs``."""
    if epoch < cfg.start_epoch:
        return 0.0
    return min(1.0, (epoch - cfg.start_epoch) / cfg.ramp_epochs) if cfg.ramp_epochs > 0 else 1.0
