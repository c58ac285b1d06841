"""SSPose: two students that teach each other (Xie et al., ICCV 2021, dual networks).

Each sees unlabelled people twice. The easy view, the crop as it comes, tells the other one what to learn; the hard
view, with joints erased and turned once more (:mod:`icon_dist.methods.hard_view`), is what it has to learn it from::

    L = (L_1 + L_2) / 2 + c_1 + c_2       c_1 = MSE(net 1 on its hard view, heatmaps of net 2 turned alike), c_2 alike

without a threshold; ``lessons="sure"``, which is ours, ignores joints whose turned heatmap stays below gamma, as
pseudo-labels do. L_i is Eq. 5 of net i with its own projection head and bank; contrast, which needs places, reads
unlabelled people where the other net's turned heatmap is higher than gamma.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from icon_dist.codec import Codec
from icon_dist.config import SemiConfig
from icon_dist.losses.sampling import step_key
from icon_dist.methods import hard_view
from icon_dist.methods.objective import Losses, Objective
from icon_dist.methods.supervised import Forward, JointsOfSets, joined, passed, present, taught
from icon_dist.models.two_students import NETS
from icon_dist.types import Batch, DeviceStep, Outputs

LAMBDA_U = 2.0  # in the objective of each net, because the sum of the two is halved
CUTOUTS = 5  # joints erased in the hard view, as published
TURN, ERASE = 100, 101  # what a random key is for; the objective's own are small


class SSPose:
    """``forward`` runs a :class:`icon_dist.models.two_students.Pair`."""

    def __init__(
        self,
        objectives: tuple[Objective, Objective],
        codec: Codec,
        semi: SemiConfig,
        *,
        unlabelled: int,
        joints: Sequence[str],
        seed: int,
        has_joint: JointsOfSets | None = None,
    ) -> None:
        """``objectives`` have ``lambda_u=LAMBDA_U``; ``unlabelled`` people end every micro-batch; ``joints``: names.

        ``has_joint``: of a union of sets, which joints each has.
        """
        self._objectives, self._codec = objectives, codec
        self._semi, self._unlabelled, self._joints = semi, unlabelled, joints
        self._seed, self._has_joint = seed, has_joint

    def __call__(
        self, forward: Forward, batch: Batch, *, step: int | DeviceStep, epoch: float, diagnose: bool
    ) -> Losses:
        """The losses of one micro-batch, whose last people have no labels: the mean of both nets."""
        n = len(batch.row) - self._unlabelled  # labelled people
        known, easy = batch.image[:n], batch.image[n:]
        with torch.no_grad():
            said = [out.heatmaps.float() for out in forward(easy, easy)]
            hard, lessons = self._hard_views(easy, batch.instance[n:], said, step=step)
        target, weight = self._codec.encode(batch.joints[:n], batch.labelled[:n])
        pairs = zip(forward(known, known), forward(*hard), strict=True)
        losses = []
        for objective, (on_known, on_hard), lesson in zip(self._objectives, pairs, lessons, strict=True):
            place, peak = self._codec.decode(lesson)
            there = present(batch, self._has_joint)[n:].expand_as(peak)
            sure = (peak > self._semi.gamma) & there
            teaches = there if self._semi.lessons == "all" else sure
            part = objective(
                joined(on_known, on_hard),
                taught(batch, place, sure),
                torch.cat([target, lesson]),
                torch.cat([weight, teaches.to(weight.dtype)]),
                labelled=n,
                step=step,
                epoch=epoch,
                diagnose=diagnose,
            )
            if diagnose and self._semi.lessons == "sure":
                part.measured |= passed(sure, self._joints)
            losses.append(part)
        return mean_of(*losses)

    def _hard_views(
        self, easy: Tensor, instance: Tensor, said: list[Tensor], *, step: int | DeviceStep
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each net: the photos it gets, and the heatmaps it has to learn, both turned alike."""
        height, width = easy.shape[1:3]
        turns = hard_view.turns(instance, key=step_key(self._seed, step, TURN))
        unit = self._codec.unit
        in_photo = turns.matrix(unit=(1, 1), center=(width / 2, height / 2))
        in_map = turns.matrix(unit=unit, center=(width / 2 / unit[0], height / 2 / unit[1]))
        if self._semi.compat:
            h, w = self._codec.hw
            in_photo, in_map = (
                turns.matrix(unit=(1 / b, 1 / a), center=((b - 1) / 2, (a - 1) / 2))
                for a, b in ((height, width), (h, w))
            )
        hard, lessons = [], []
        for number, other in enumerate(reversed(said)):  # each net's cutouts sit where the other one sees joints
            place, peak = self._codec.decode(other, unseen=self._semi.compat)
            boxes = hard_view.erased_boxes(
                place,
                peak > 0,
                instance,
                count=CUTOUTS,
                key=step_key(self._seed, step, ERASE + number),
                hw=(height, width),
                compat=self._semi.compat,
            )
            hard.append(hard_view.warp_image(hard_view.erase(easy, boxes), in_photo))
            lessons.append(hard_view.warp(other, in_map))
        return hard, lessons

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """Commit the step in the banks of both nets, where ``keep`` holds."""
        for objective in self._objectives:
            objective.commit(keep)

    def state_dict(self) -> dict[str, Tensor]:
        """The banks of both nets, their names prefixed by that of the net."""
        return {
            f"{net}.{name}": tensor
            for net, objective in zip(NETS, self._objectives, strict=True)
            for name, tensor in objective.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`. Raises CheckpointError where the state is of other terms or sizes."""
        for net, objective in zip(NETS, self._objectives, strict=True):
            own = {name.removeprefix(f"{net}."): t for name, t in state.items() if name.startswith(f"{net}.")}
            objective.load_state_dict(own)

    def students(self, forward: Forward) -> dict[str, Callable[[Tensor], Outputs]]:
        """Net 1 speaks for the run: taking the better of the two on the people it is scored on would flatter it."""

        def mean(image: Tensor) -> Outputs:
            one, two = forward(image, image)
            joints = None if one.joints is None else (one.joints + two.joints) / 2
            return Outputs((one.heatmaps + two.heatmaps) / 2, joints=joints)

        return {
            "": lambda image: forward(image, None)[0],
            f"{NETS[1]}_": lambda image: forward(None, image)[1],
            "mean_": mean,
        }


def mean_of(one: Losses, two: Losses) -> Losses:
    """``(L_1 + L_2) / 2``, and the two nets' numbers for the log: net 1's go without a prefix."""
    second = f"{NETS[1]}_"

    def mean(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else (a + b) / 2

    return replace(
        one,
        total=(one.total + two.total) / 2,
        heatmap=(one.heatmap + two.heatmap) / 2,
        skcc=(one.skcc + two.skcc) / 2,
        prcc=(one.prcc + two.prcc) / 2,
        joints=mean(one.joints, two.joints),
        unlabelled=mean(one.unlabelled, two.unlabelled),
        health=one.health | {f"{second}{name}": value for name, value in two.health.items()},
        measured=one.measured | {f"{second}{name}": value for name, value in two.measured.items()},
    )
