"""The plainest method: labelled people only. The others have the same members, which the loop calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.codec import Codec
from icon_dist.distributed import mean_over_ranks
from icon_dist.methods.objective import Losses, Objective
from icon_dist.types import Batch, DeviceStep, Outputs

Forward = Callable[..., Any]  # the engine: photos in, what the model returns out
PASS = "pass_"  # and a joint: what the log calls its share of the people on whom it counts


class Supervised:
    """Eq. 5 on labelled people.

    A method is one training step's arithmetic. State that outlives a step is in ``state_dict``; all else is a function
    of (seed, step, person).
    """

    def __init__(self, objective: Objective, codec: Codec) -> None:
        self.objective, self.codec = objective, codec

    def __call__(
        self, forward: Forward, batch: Batch, *, step: int | DeviceStep, epoch: float, diagnose: bool
    ) -> Losses:
        """The losses of one micro-batch, whose labelled people come first; ``total`` is to be differentiated."""
        target, weight = self.codec.encode(batch.joints, batch.labelled)
        outputs = forward(batch.image, *self.objective.pixels(batch))
        return self.objective(outputs, batch, target, weight, step=step, epoch=epoch, diagnose=diagnose)

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """After the last backward pass of a step: the banks take in all its micro-batches, where ``keep`` holds."""
        self.objective.commit(keep)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what outlives a step, the banks of the objective: the same bits on every rank."""
        return self.objective.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`. Raises CheckpointError where the state does not fit."""
        self.objective.load_state_dict(dict(state))

    def students(self, forward: Forward) -> dict[str, Callable[[Tensor], Outputs]]:
        """What to evaluate, by the prefix of its scores; the one without a prefix speaks for the run."""
        return {"": forward}


class JointsOfSets:
    """Which joints the sets of a union have: what an unlabelled person can be taught about."""

    def __init__(self, first_rows: Sequence[int], has_joint: Bool[np.ndarray, "sets K"]) -> None:
        """The first row of each set, ascending, and its joints."""
        self._first, self._has = torch.tensor(first_rows), torch.from_numpy(has_joint)

    def __call__(self, row: Int64[Tensor, " N"]) -> Bool[Tensor, "N K"]:
        """Of the people in these rows; of padding, those of the first set."""
        if self._first.device != row.device:
            self._first, self._has = self._first.to(row.device), self._has.to(row.device)
        number = torch.bucketize(row.clamp(min=0), self._first, right=True) - 1
        return self._has[number]


def present(batch: Batch, has_joint: JointsOfSets | None = None) -> Bool[Tensor, "N _"]:
    """Of whom something is to be learnt, ``[N, 1]``: a person with a damaged image leaves an empty place.

    With ``has_joint``, of a union, which joints of each, ``[N, K]``: nothing is taught of one that a set does not have.
    """
    there = (batch.row >= 0)[:, None]
    return there if has_joint is None else there & has_joint(batch.row)


def taught(batch: Batch, place: Float[Tensor, "_ K 2"], sure: Bool[Tensor, "_ K"]) -> Batch:
    """The batch with what a network says of its last people: where their joints are, and which of them count."""
    n = len(batch.row) - len(place)
    return replace(
        batch,
        joints=torch.cat([batch.joints[:n], place]),
        labelled=torch.cat([batch.labelled[:n], sure]),
        visible=torch.cat([batch.visible[:n], sure]),
    )


def passed(sure: Bool[Tensor, "_ K"], joints: Sequence[str]) -> dict[str, Tensor]:
    """For the log: the share of the unlabelled people's joints that count. Collective."""
    rates = mean_over_ranks(sure.float().mean(0))
    return {f"{PASS}{name}": rate for name, rate in zip(joints, rates, strict=True)}


def unsure(scalars: Mapping[str, float]) -> bool:
    """Whether none of them counts."""
    rates = [value for name, value in scalars.items() if name.startswith(PASS)]
    return bool(rates) and not any(rates)


def joined(known: Outputs, unknown: Outputs) -> Outputs:
    """Outputs of labelled and of unlabelled people as one. The maps that only diagnostics look at are the first's."""

    def cat(a: Tensor | None, b: Tensor | None, dim: int) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b], dim)

    some = None
    if known.pixels is not None and unknown.pixels is not None:
        some = replace(known.pixels, place=torch.cat([known.pixels.place, unknown.pixels.place]))
    return Outputs(
        torch.cat([known.heatmaps, unknown.heatmaps]),
        cat(known.embedding, unknown.embedding, 0),
        feature=known.feature,
        tap=known.tap,
        joints=cat(known.joints, unknown.joints, 1),
        pixels=some,
    )
