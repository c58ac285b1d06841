"""Pseudo labels of a frozen teacher (paper Eq. 6-7): ``L = Eq. 5 + lambda_u * masked MSE(teacher, student)``.

On unlabelled people a joint counts where the teacher's peak is above gamma; elsewhere it is ignored, which is not the
same as background. The target is the teacher's raw heatmap of the same crop, and contrast reads the student there.
A teacher that has looked before (``semi.cache``) left joints rather than heatmaps: the targets are drawn from them, as
they are from labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from icon_dist.codec import Codec
from icon_dist.methods.objective import Losses, Objective
from icon_dist.methods.supervised import Forward, JointsOfSets, Supervised, joined, passed, present, taught
from icon_dist.types import Batch, DeviceStep, Outputs


class Pseudo(Supervised):
    """One student, one teacher."""

    def __init__(
        self,
        objective: Objective,
        codec: Codec,
        *,
        model: nn.Module,
        teacher: Callable[[Tensor], Outputs] | None,
        gamma: float,
        unlabelled: int,
        joints: Sequence[str],
        has_joint: JointsOfSets | None = None,
    ) -> None:
        """``unlabelled`` people end every micro-batch; ``objective`` knows lambda_u; ``joints`` are names, for the log.

        ``teacher`` must be in evaluation mode; without one, batches bring the joints that it was sure of. ``model`` is
        what ``forward`` runs. ``has_joint``: of a union of sets, which joints each has.
        """
        super().__init__(objective, codec)
        self._model, self._teacher = model, teacher
        self._gamma, self._unlabelled, self._joints, self._has_joint = gamma, unlabelled, joints, has_joint

    def __call__(
        self, forward: Forward, batch: Batch, *, step: int | DeviceStep, epoch: float, diagnose: bool
    ) -> Losses:
        """The losses of one micro-batch, whose last people have no labels: Eq. 6-7."""
        n = len(batch.row) - self._unlabelled  # labelled people
        pseudo, target, weight = self._lesson(batch, n)
        places = self.objective.pixels(pseudo)
        known = forward(batch.image[:n], *(some[:n] for some in places))
        with statistics_held(self._model):
            unknown = forward(batch.image[n:], *(some[n:] for some in places))
        losses = self.objective(
            joined(known, unknown),
            pseudo,
            target,
            weight,
            labelled=n,
            step=step,
            epoch=epoch,
            diagnose=diagnose,
        )
        if diagnose:
            losses.measured |= passed(pseudo.labelled[n:], self._joints)
        return losses

    def _lesson(self, batch: Batch, n: int) -> tuple[Batch, Tensor, Tensor]:
        """The batch with what the teacher says of those after the first ``n``; heatmaps to learn, and their weights."""
        if self._teacher is None:
            return batch, *self.codec.encode(batch.joints, batch.labelled)
        target, weight = self.codec.encode(batch.joints[:n], batch.labelled[:n])
        with torch.no_grad():
            guess = self._teacher(batch.image[n:]).heatmaps.float()
        place, peak = self.codec.decode(guess)
        sure = (peak > self._gamma) & present(batch, self._has_joint)[n:]
        target, weight = torch.cat([target, guess]), torch.cat([weight, sure.to(weight.dtype)])
        return taught(batch, place, sure), target, weight


@contextmanager
def statistics_held(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalizes by the batch as in training, and its running statistics stay: they are labelled people's.

    So unlabelled people act through the loss alone, and without a joint above gamma they do not act at all.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
