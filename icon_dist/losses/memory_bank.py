"""The cross-GPU memory bank: a FIFO ring of embeddings per category.

Everything pushed has been gathered in rank-major order, so all ranks hold the same bits and one of them saves them.
It is plain state, not a module's buffers: a broadcast of buffers must not overwrite it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.errors import CheckpointError
from icon_dist.types import KeySet

NOBODY = -1  # instance and step of an empty slot
LARGEST_ID = 2**53  # of an instance; steps are fewer


class MemoryBank:
    """The newest ``slots`` embeddings of each category."""

    def __init__(self, categories: int, slots: int, dim: int, *, device: str | torch.device = "cpu") -> None:
        # One slot more than there are: rows that are not kept are written there, so that shapes stay static.
        self._features = torch.zeros(categories, slots + 1, dim, device=device)
        self._instance = torch.full((categories, slots + 1), NOBODY, device=device)
        self._step = torch.full((categories, slots + 1), NOBODY, device=device)
        self._next = torch.zeros(categories, dtype=torch.int64, device=device)  # slot of the next write
        self._filled = torch.zeros(categories, dtype=torch.int64, device=device)
        self._began = torch.full((), NOBODY, device=device)  # step of the first push
        self._slots = slots

    @torch.no_grad()
    def push(
        self,
        features: Float[Tensor, "G C m"],
        visible: Bool[Tensor, "G C"],
        instance: Int64[Tensor, " G"],
        *,
        step: int | Int64[Tensor, ""],
        keep: Bool[Tensor, ""] | None = None,
    ) -> None:
        """Append the visible rows in order; of more than a ring holds, the newest stay.

        Where ``keep`` does not hold, nothing changes: a device need not tell the host which it is (None = it holds).
        """
        self.to(features.device)
        first = self._began == NOBODY
        if keep is not None:
            visible, first = visible & keep, first & keep
        order = visible.cumsum(0) - 1  # [G, C] place of each row among the visible ones of its category
        count = visible.sum(0)
        kept = visible & (order >= count - self._slots)  # else two rows would race for a slot on a GPU
        slot = torch.where(kept, (self._next + order) % self._slots, self._slots).T  # [C, G]
        rows = features.transpose(0, 1).to(self._features.dtype)
        self._features.scatter_(1, slot[..., None].expand_as(rows), rows)
        self._instance.scatter_(1, slot, instance.expand_as(slot))
        self._step.scatter_(1, slot, torch.zeros_like(slot) + step)
        self._next.add_(count).remainder_(self._slots)  # in place, as a CUDA graph needs it
        self._filled.add_(count).clamp_(max=self._slots)
        self._began.copy_(torch.where(first, step, self._began))

    def keys(self) -> KeySet:
        """Its contents as keys: views, to be used before the next push. Only filled slots are valid."""
        return KeySet(self._features[:, :-1], self._valid(), self._instance[:, :-1])

    def ready(self, step: int | Int64[Tensor, ""], *, warmup: int) -> Bool[Tensor, ""]:
        """Whether ``warmup`` steps have passed since the first push."""
        return (self._began != NOBODY) & (step - self._began >= warmup)

    def age(self, step: int | Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Mean age of the filled slots, steps."""
        valid = self._valid()
        return ((step - self._step[:, :-1]) * valid).sum() / valid.sum().clamp(min=1)

    def fill(self) -> Float[Tensor, ""]:
        """Share of the slots that hold something."""
        return self._filled.float().mean() / self._slots

    def to(self, device: torch.device) -> None:
        """Move all slots to ``device``, in place."""
        if self._features.device != device:
            for name in ("_features", "_instance", "_step", "_next", "_filled", "_began"):
                setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors, equal on all ranks: any one of them can save them, any number can load them."""
        return {
            "features": self._features[:, :-1].clone(),
            "instance": self._instance[:, :-1].clone(),
            "step": self._step[:, :-1].clone(),
            "next": self._next.clone(),
            "filled": self._filled.clone(),
            "began": self._began.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """A ring of another size keeps all there is, or the newest that fit."""
        own = self.state_dict()
        if state.keys() != own.keys():
            raise CheckpointError(f"memory bank: holds {sorted(state)}, expected {sorted(own)}; use another checkpoint")
        slots = state["features"].shape[1] if state["features"].ndim == 3 else 0
        for name, tensor in own.items():
            shape = [slots if i == 1 else size for i, size in enumerate(tensor.shape)]
            if list(state[name].shape) != shape or state[name].dtype != tensor.dtype:
                kinds = [one.dtype for one in (state[name], tensor)]
                theirs, ours = (
                    f"{list(one.shape)}{f' {one.dtype}' if kinds[0] != kinds[1] else ''}"
                    for one in (state[name], tensor)
                )
                raise CheckpointError(
                    f"memory bank: {name} is {theirs} in the checkpoint, {ours} here; "
                    "make it with the joints, limbs and size of embeddings it was saved with (in a config: "
                    "loss.relation, model.embedding)"
                )
        for name, rule in _rules(state, slots).items():
            if not bool(rule.all()):
                raise CheckpointError(f"memory bank: {name} has values that no training leaves; use another checkpoint")
        if slots != self._slots:
            state = _resized(state, self._slots)
        self._features[:, :-1] = state["features"]
        self._instance[:, :-1] = state["instance"]
        self._step[:, :-1] = state["step"]
        self._next.copy_(state["next"])
        self._filled.copy_(state["filled"])
        self._began.copy_(state["began"])

    def _valid(self) -> Bool[Tensor, "C S"]:
        return torch.arange(self._slots, device=self._filled.device) < self._filled[:, None]


def _rules(state: dict[str, Tensor], slots: int) -> dict[str, Tensor]:
    """By name, what must hold: else rows would be written outside a ring, or compared with before they are there."""
    filled, following, began = state["filled"], state["next"], state["began"]
    full = filled == slots
    return {
        "features": state["features"].isfinite(),
        "instance": (state["instance"] >= NOBODY) & (state["instance"] < LARGEST_ID),
        "step": (state["step"] >= NOBODY) & (state["step"] < LARGEST_ID),
        "filled": (filled >= 0) & (filled <= slots),
        "next": torch.where(full, (following >= 0) & (following < max(slots, 1)), following == filled),
        "began": (began >= NOBODY) & (began < LARGEST_ID) & ((began != NOBODY) | (filled == 0).all()),
    }


def _resized(state: dict[str, Tensor], slots: int) -> dict[str, Tensor]:
    """The newest rows of each ring, the oldest of them first, in rings of ``slots``."""
    had = state["features"].shape[1]
    filled = state["filled"].clamp(max=slots)
    place = torch.arange(slots, device=filled.device)
    source = (state["next"][:, None] - filled[:, None] + place) % had  # the ring holds at least as many as are filled
    empty = place >= filled[:, None]
    features = state["features"].take_along_dim(source[..., None], 1)
    return {
        "features": features.masked_fill(empty[..., None], 0),
        "instance": state["instance"].take_along_dim(source, 1).masked_fill(empty, NOBODY),
        "step": state["step"].take_along_dim(source, 1).masked_fill(empty, NOBODY),
        "next": filled % slots,
        "filled": filled,
        "began": state["began"],
    }
