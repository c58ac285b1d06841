"""The keys that queries are compared with: this step's tokens of all ranks, and the memory banks of earlier steps.

What the ranks send each other in a step is one center embedding per instance and joint.

Everything travels in one message per micro-batch. With a budget each rank sends ``ceil(budget / world)`` of its
instances, chosen at random, so that what a rank receives does not grow with the number of ranks. (Where positives are
of other images, ``instance`` is the image, and instances of one image are drawn together.)

``sync``: a step's keys are the joints of all ranks, and the gradient of a joint returns to the rank that owns it.
``async``: they are this rank's own joints; the others' travel during the backward pass and are waited for when the next
step wants them in the bank, which therefore holds the same as with ``sync``, at the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from icon_dist.distributed import return_gradient, start_gather, world_size
from icon_dist.errors import CheckpointError
from icon_dist.losses import sampling
from icon_dist.losses.memory_bank import LARGEST_ID, MemoryBank
from icon_dist.losses.options import Bank
from icon_dist.losses.tokens import limb_tokens
from icon_dist.tensors.random import uniform
from icon_dist.types import DeviceStep, KeySet, number_of

BUDGET = 0  # what a random key is for; the terms of the loss use 1, 2, ...


@dataclass(frozen=True)
class Centers:
    """One token per instance and category: this step's keys, and what goes into the bank."""

    features: Float[Tensor, "G C m"]
    visible: Bool[Tensor, "G C"]
    instance: Int64[Tensor, " G"]
    keep: Bool[Tensor, ""] | None = None  # whether they may enter the bank; None = they may

    def keys(self) -> KeySet:
        """The same tokens by category, as queries are compared with them."""
        return KeySet(self.features.transpose(0, 1), self.visible.T, self.instance.expand(self.visible.T.shape))

    def limbs(self, limbs: Int64[Tensor, "P R"]) -> Centers:
        """The limbs of gathered joints, which need no communication of their own."""
        features, both = limb_tokens(self.features[:, :, None], self.visible[..., None], limbs)
        return Centers(features[:, :, 0], both[..., 0], self.instance)


class Exchange:
    """A step's joints on their way to all ranks, and from there into the banks once the whole step is committed.

    A step has as many messages as micro-batches; all of them are committed, or discarded, together.

    Collective: ``share``, and the backward pass of what it returns. The rest is local.
    """

    def __init__(self, *, mode: str = "sync", wire: str = "fp32", budget: int = 0, seed: int) -> None:
        self.waits, self._rounds, self._budget, self._seed = mode == "sync", wire == "bf16", budget, seed
        self._pending: list[tuple[int | DeviceStep, Callable[[], Centers]]] = []
        self._committed: list[tuple[int | DeviceStep, Callable[[], Centers]]] = []

    def share(self, joints: Centers, *, step: int | DeviceStep) -> Centers:
        """Send ``joints`` to the other ranks; returns the joints that this step's queries are compared with."""
        part = self._within_budget(joints, step)
        sent = replace(part, features=part.features.detach())
        fetch = start_gather(_pack(sent, rounded=self._rounds))

        def gathered() -> Centers:
            return _unpack(fetch(), like=sent, rounded=self._rounds)

        if not self.waits:
            self._pending.append((step, gathered))
            return joints
        centers = gathered()
        self._pending.append((step, lambda: centers))
        return replace(centers, features=return_gradient(centers.features, to=part.features))

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """The step counts: its joints may enter the banks, where ``keep`` holds (None = they may)."""
        self._committed += [(step, _kept(gathered, keep)) for step, gathered in self._pending]
        self._pending = []

    def discard(self) -> None:
        """The step does not count: messages under way are received and dropped."""
        for _, gathered in self._pending:
            gathered()
        self._pending = []

    def arrived(self) -> list[tuple[int | DeviceStep, Centers]]:
        """The steps that were committed and the joints of all ranks, once, in order; waits for them."""
        committed, self._committed = self._committed, []
        return [(step, gathered()) for step, gathered in committed]

    def _within_budget(self, joints: Centers, step: int | DeviceStep) -> Centers:
        if not self._budget:
            return joints
        part = min(len(joints.instance), math.ceil(self._budget / world_size()))
        draw = uniform(sampling.step_key(self._seed, step, BUDGET), joints.instance)
        kept = draw.argsort(stable=True)[:part].sort().values
        return Centers(joints.features[kept], joints.visible[kept], joints.instance[kept])


class SharedKeys:
    """Gathers a step's joints and holds the banks, one for joints and one for limbs (terms ``skcc`` and ``prcc``).

    Per-category rings do not keep the joints of an instance together, so limbs cannot be derived from the joints' bank.
    Both are fed from the same gathered joints, which costs no communication.
    """

    def __init__(
        self, bank: Bank, categories: dict[str, int], limbs: Int64[Tensor, "P R"], *, dim: int, seed: int
    ) -> None:
        """``categories``: how many there are, of each term that is switched on; ``dim``: m of an embedding."""
        self._terms, self._limbs, self._warmup = tuple(categories), limbs, bank.warmup
        self._exchange = Exchange(mode=bank.exchange, wire=bank.wire, budget=bank.budget, seed=seed)
        self._banks = {term: MemoryBank(count, bank.slots, dim) for term, count in categories.items() if bank.slots}
        self._next = torch.tensor(0)  # step; on the CPU, as long as no flag of a device decides on it
        self.pending: int | DeviceStep | None = None  # the step that waits for commit() or discard()

    def begin(self, step: int | DeviceStep | None) -> int | DeviceStep:
        """Begin a step, or its next micro-batch, and return its number; None = the one after the last."""
        if self.pending is not None and step != self.pending:
            raise RuntimeError(
                f"IconLoss: step {self.pending} was not committed; call commit() after optimizer.step(), discard() "
                "where the step was skipped, or give all micro-batches of a step the same step="
            )
        self.pending = int(self._next) if step is None else step
        return self.pending

    def share(self, joints: Centers, *, step: int | DeviceStep, keep: bool = True) -> dict[str, Centers]:
        """This step's tokens of all ranks by term, to ``keep`` or only to look at. Collective.

        Those of committed steps enter the banks first.
        """
        self._push()
        shared = self._of_terms(self._exchange.share(joints, step=step))
        if not keep:
            self._exchange.discard()
        return shared

    def stored(self, term: str, *, step: int | DeviceStep) -> KeySet | None:
        """The bank of a term, once it is ready.

        A device is not asked whether it is, which would stop the host: there nothing in the bank is valid before.
        """
        bank = self._banks.get(term)
        if bank is None:
            return None
        bank.to(self._limbs.device)
        ready = bank.ready(number_of(step), warmup=self._warmup)
        if ready.device.type == "cpu" and not ready:
            return None
        stored = bank.keys()
        return replace(stored, valid=stored.valid & ready)

    def bank_health(self, term: str, *, step: int | DeviceStep) -> dict[str, Tensor]:
        """Fill and age of the bank of a term; empty without one."""
        bank = self._banks.get(term)
        return {} if bank is None else {"bank_fill": bank.fill(), "bank_age": bank.age(number_of(step))}

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """The pending step counts, where ``keep`` holds (None = it does): its tokens may enter the banks."""
        self._exchange.commit(keep)
        if self.pending is not None:
            after = number_of(self.pending) + 1
            if keep is not None:
                self._next = self._next.to(keep.device)
                after = torch.where(keep, after, self._next)
            self._next.copy_(torch.as_tensor(after))  # in place, as a CUDA graph needs it
            self.pending = None
        if self._exchange.waits:  # messages under way enter with the next step
            self._push()

    def discard(self) -> None:
        """The pending step does not count."""
        self._exchange.discard()
        self.pending = None

    def state_dict(self) -> dict[str, Tensor]:
        """Step and banks as plain tensors, the same bits on every rank. Waits for messages under way."""
        self._push()
        banks = {term: bank.state_dict() for term, bank in self._banks.items()}
        named = {f"{term}.{name}": tensor for term, state in banks.items() for name, tensor in state.items()}
        return {"step": self._next.clone(), **named}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """CheckpointError where ``state`` has other banks than these, or banks of another shape."""
        self.discard()
        self._push()  # of the state that is replaced
        check_banks(state, self.state_dict())
        step = state.get("step")
        if step is None or step.shape != () or step.dtype != torch.int64 or not 0 <= step < LARGEST_ID:
            raise CheckpointError("memory banks: step is not the number of a step; use another checkpoint")
        self._next.copy_(step)
        for term, bank in self._banks.items():
            prefix = f"{term}."
            bank.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _push(self) -> None:
        """The tokens of committed steps, once they are here, enter the banks; none that is not finite does."""
        for step, joints in self._exchange.arrived():
            centers = self._of_terms(joints)
            for term, bank in self._banks.items():
                new = centers[term]
                finite = new.visible & new.features.isfinite().all(2)
                bank.push(new.features, finite, new.instance, step=number_of(step), keep=joints.keep)

    def _of_terms(self, joints: Centers) -> dict[str, Centers]:
        self._limbs = self._limbs.to(joints.features.device)
        return {term: joints if term == "skcc" else joints.limbs(self._limbs) for term in self._terms}


def check_banks(state: Iterable[str], own: Iterable[str]) -> None:
    """CheckpointError where the names of a state are of the banks of other terms than one's own."""
    saved, have = ({name.partition(".")[0] for name in names if "." in name} for names in (state, own))
    if saved != have:
        raise CheckpointError(
            f"memory banks: the checkpoint has {sorted(saved) or 'none'}, this loss {sorted(have) or 'none'}; make it "
            "with the terms and the bank it was saved with (IconLoss: skcc, prcc, bank; in a config: loss.lambda_*, "
            "loss.contrast, loss.bank.slots), or begin anew"
        )


def _kept(gathered: Callable[[], Centers], keep: Bool[Tensor, ""] | None) -> Callable[[], Centers]:
    return lambda: replace(gathered(), keep=keep)


def _pack(joints: Centers, *, rounded: bool) -> UInt8[Tensor, "N bytes"]:
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


def _unpack(rows: UInt8[Tensor, "G bytes"], *, like: Centers, rounded: bool) -> Centers:
    """Rounded features get their unit norm back; the gradient passes the rounding as if it were not there."""
    _, categories, dim = like.features.shape
    wire = torch.bfloat16 if rounded else like.features.dtype
    features, visible, instance = torch.split(rows, [categories * dim * wire.itemsize, categories, 8], 1)
    read = features.flatten().clone().view(wire).view(-1, categories, dim).to(like.features.dtype)
    return Centers(
        F.normalize(read, dim=-1) if rounded else read,
        visible.bool(),
        instance.flatten().clone().view(torch.int64),
    )
