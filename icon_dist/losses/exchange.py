"""What the ranks tell each other of a step: one centre embedding per person and joint (METHOD 3).

Everything travels in one message per step. With a budget each rank tells of ``ceil(budget / world)`` of its people,
chosen at random, so that what a rank receives does not grow with the number of ranks. (Where positives are of other
photos, ``instance`` is the photo, and people of one photo are drawn together.)

``sync``: a step's candidates are everybody's joints, and the gradient of a joint returns to the rank that owns it.
``async``: they are this rank's own joints; the others' travel during the backward pass and are waited for when the next
step wants them in the bank, which therefore holds the same as with ``sync``, at the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from icon_dist.distributed import return_gradient, start_gather, world_size
from icon_dist.losses import sampling, tokens
from icon_dist.types import DeviceStep, KeySet

BUDGET = 0  # what a random key is for; the objective's terms use 1, 2, ...


@dataclass(frozen=True)
class Centres:
    """One token per person and category: this step's keys, and what goes into the bank."""

    features: Float[Tensor, "G C m"]
    visible: Bool[Tensor, "G C"]
    instance: Int64[Tensor, " G"]
    keep: Bool[Tensor, ""] | None = None  # whether they may enter the bank; None = they may

    def keys(self) -> KeySet:
        return KeySet(self.features.transpose(0, 1), self.visible.T, self.instance.expand(self.visible.T.shape))


class Exchange:
    """A step's joints on their way to all ranks, and from there into the banks once the whole step is committed.

    A step has as many shares as micro-batches. It is discarded, all of it, when another one begins before its commit.

    Collective: ``share``, and the backward pass of what it returns. The rest is local.
    """

    def __init__(self, *, mode: str = "sync", wire: str = "fp32", budget: int = 0, seed: int) -> None:
        self.waits, self._rounds, self._budget, self._seed = mode == "sync", wire == "bf16", budget, seed
        self._shared: list[tuple[int | DeviceStep, Callable[[], Centres]]] = []
        self._committed: list[tuple[int | DeviceStep, Callable[[], Centres]]] = []

    def share(self, joints: Centres, *, step: int | DeviceStep) -> Centres:
        """Tell the other ranks of ``joints``; returns the joints that this step's queries are compared with."""
        if self._shared and self._shared[0][0] != step:
            self.discard()
        told = self._part(joints, step)
        sent = replace(told, features=told.features.detach())
        fetch = start_gather(_pack(sent, rounded=self._rounds))

        def everybody() -> Centres:
            return _unpack(fetch(), like=sent, rounded=self._rounds)

        if not self.waits:
            self._shared.append((step, everybody))
            return joints
        centres = everybody()
        self._shared.append((step, lambda: centres))
        return replace(centres, features=return_gradient(centres.features, to=told.features))

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """The last step counts: its joints may enter the banks, where ``keep`` holds (None = they may)."""
        self._committed += [(step, _kept(everybody, keep)) for step, everybody in self._shared]
        self._shared = []

    def discard(self) -> None:
        """The last step does not count unless it was committed."""
        for _, everybody in self._shared:
            everybody()
        self._shared = []

    def arrived(self) -> list[tuple[int | DeviceStep, Centres]]:
        """The steps that were committed and everybody's joints of them, once, in order; waits for them."""
        committed, self._committed = self._committed, []
        return [(step, everybody()) for step, everybody in committed]

    def _part(self, joints: Centres, step: int | DeviceStep) -> Centres:
        if not self._budget:
            return joints
        part = min(len(joints.instance), math.ceil(self._budget / world_size()))
        draw = sampling.uniform(sampling.step_key(self._seed, step, BUDGET), joints.instance)
        kept = draw.argsort(stable=True)[:part].sort().values
        return Centres(joints.features[kept], joints.visible[kept], joints.instance[kept])


def pairs(joints: Centres, limbs: Int64[Tensor, "P 2"]) -> Centres:
    """Limb pairs of gathered joints: no communication of their own."""
    features, both = tokens.pair_tokens(joints.features[:, :, None], joints.visible[..., None], limbs)
    return Centres(features[:, :, 0], both[..., 0], joints.instance)


def _kept(everybody: Callable[[], Centres], keep: Bool[Tensor, ""] | None) -> Callable[[], Centres]:
    return lambda: replace(everybody(), keep=keep)


def _pack(joints: Centres, *, rounded: bool) -> UInt8[Tensor, "N bytes"]:
    features = joints.features.flatten(1)
    if rounded:
        features = features.bfloat16()
    return torch.cat(
        [
            features.contiguous().view(torch.uint8),
            joints.visible.to(torch.uint8),
            joints.instance[:, None].contiguous().view(torch.uint8),  # all 64 bits of it
        ],
        1,
    )


def _unpack(rows: UInt8[Tensor, "G bytes"], *, like: Centres, rounded: bool) -> Centres:
    """Rounded features get their unit norm back; the gradient passes the rounding as if it were not there."""
    _, categories, dim = like.features.shape
    wire = torch.bfloat16 if rounded else like.features.dtype
    features, visible, instance = torch.split(rows, [categories * dim * wire.itemsize, categories, 8], 1)
    read = features.flatten().clone().view(wire).view(-1, categories, dim).to(like.features.dtype)
    return Centres(
        F.normalize(read, dim=-1) if rounded else read,
        visible.bool(),
        instance.flatten().clone().view(torch.int64),
    )
