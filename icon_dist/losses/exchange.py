"""What the ranks tell each other of a step: one centre embedding per person and category (METHOD 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.distributed import all_gather_rows, world_size
from icon_dist.losses import sampling, tokens
from icon_dist.types import KeySet

BUDGET = 0  # what a random key is for; the objective's terms use 1, 2, ...


@dataclass(frozen=True)
class Centres:
    """One token per person and category: this step's keys, and what goes into the bank."""

    features: Float[Tensor, "G C m"]
    visible: Bool[Tensor, "G C"]
    instance: Int64[Tensor, " G"]

    def keys(self) -> KeySet:
        return KeySet(self.features.transpose(0, 1), self.visible.T, self.instance.expand(self.visible.T.shape))


class Exchange:
    """Gathers this step's joints from all ranks, or from an equal random part of each rank's people."""

    def __init__(self, *, budget: int, seed: int) -> None:
        self._budget, self._seed = budget, seed

    def share(
        self,
        features: Float[Tensor, "N K m"],
        present: Bool[Tensor, "N K"],
        instance: Int64[Tensor, " N"],
        *,
        step: int,
    ) -> Centres:
        """The joints this step's queries are compared with; collective."""
        if self._budget:
            part = min(len(instance), math.ceil(self._budget / world_size()))
            draw = sampling.uniform(sampling.key_of(self._seed, step, BUDGET), instance)
            kept = draw.argsort(stable=True)[:part].sort().values
            features, present, instance = features[kept], present[kept], instance[kept]
        small = all_gather_rows(torch.cat([present.long(), instance[:, None]], 1))
        return Centres(all_gather_rows(features), small[:, :-1].bool(), small[:, -1])


def pairs(joints: Centres, limbs: Int64[Tensor, "P 2"]) -> Centres:
    """Limb pairs of gathered joints: no communication of their own."""
    features, both = tokens.pair_tokens(joints.features[:, :, None], joints.visible[..., None], limbs)
    return Centres(features[:, :, 0], both[..., 0], joints.instance)
