"""What a query is compared with between images: this step's joints of all ranks, and the banks of earlier steps."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool, Int64
from torch import Tensor

from icon_dist.config import BankConfig
from icon_dist.errors import CheckpointError
from icon_dist.losses import health
from icon_dist.losses.bank import MemoryBank
from icon_dist.losses.exchange import Centres, Exchange, pairs
from icon_dist.losses.terms import Term
from icon_dist.losses.tokens import Tokens
from icon_dist.types import DeviceStep, KeySet, number_of


class Candidates:
    """Gathers a step's joints and holds the banks, one for joints and one for limb pairs.

    Per-category rings do not keep the joints of a person together, so pairs cannot be derived from the joints' bank.
    Both are fed from the same gathered joints, which costs no communication.

    The banks start with contrast itself: embeddings from before ``start_epoch`` come from a projection head that has
    not been trained and would be stale at once.
    """

    def __init__(
        self, cfg: BankConfig, terms: list[Term], limbs: Int64[Tensor, "P 2"], *, embedding_dim: int, seed: int
    ) -> None:
        self._limbs = limbs
        self._warmup = cfg.warmup
        self._terms = terms
        self._exchange = Exchange(mode=cfg.exchange, wire=cfg.wire, budget=cfg.budget, seed=seed)
        self._banks = {
            term.name: MemoryBank(term.categories, cfg.slots, embedding_dim) for term in terms if cfg.enabled
        }
        self._centres: dict[str, Centres] = {}
        self._step: int | Int64[Tensor, ""] = 0

    def share(self, joints: Tokens, owner: Int64[Tensor, " N"], *, step: int | DeviceStep) -> None:
        """Tell the other ranks of this rank's joints; collective. What earlier steps told enters the banks first."""
        self._push()
        self._step = number_of(step)
        mine = Centres(joints.features[:, :, 0], joints.active[..., 0], owner)
        self._centres = self._of_terms(self._exchange.share(mine, step=step))

    def of(self, term: Term) -> tuple[KeySet, KeySet | None]:
        """This step's candidates and, once it is ready, the bank.

        A device is not asked whether it is, which would stop the host: there nothing in the bank is valid before.
        """
        keys, bank = self._centres[term.name].keys(), self._banks.get(term.name)
        if bank is None:
            return keys, None
        bank.to(keys.features.device)
        ready = bank.ready(self._step, warmup=self._warmup)
        if ready.device.type == "cpu" and not ready:
            return keys, None
        stored = bank.keys()
        return keys, replace(stored, valid=stored.valid & ready)

    def measure(self, term: Term) -> dict[str, Tensor]:
        """Health of this step's embeddings and of the bank; equal on ranks that gathered the same."""
        centres = self._centres[term.name]
        measured = health.measure(centres.features, centres.visible, centres.instance)
        bank = self._banks.get(term.name)
        return measured if bank is None else measured | {"bank_fill": bank.fill(), "bank_age": bank.age(self._step)}

    def commit(self, keep: Bool[Tensor, ""] | None = None) -> None:
        """The joints that were shared last may enter the banks, where ``keep`` holds."""
        self._exchange.commit(keep)
        if self._exchange.waits:  # what still travels enters with the next step
            self._push()

    def state_dict(self) -> dict[str, Tensor]:
        """The banks as plain tensors, the same bits on every rank; empty without banks. Waits for what travels."""
        self._push()
        return {
            f"{term}.{name}": tensor for term, bank in self._banks.items() for name, tensor in bank.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._push()  # of the state that is replaced
        saved, have = {name.partition(".")[0] for name in state}, set(self._banks)
        if saved != have:
            raise CheckpointError(
                f"memory banks: the checkpoint has {sorted(saved) or 'none'}, this run {sorted(have) or 'none'}; "
                "resume with the loss.lambda_*, loss.contrast and loss.bank.enabled it was trained with, "
                "or use another run.name"
            )
        for term, bank in self._banks.items():
            prefix = f"{term}."
            bank.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _push(self) -> None:
        """The joints of the last committed step, once they are here, enter the banks."""
        for step, joints in self._exchange.arrived():
            centres = self._of_terms(joints)
            for term, bank in self._banks.items():
                new = centres[term]
                bank.push(new.features, new.visible, new.instance, step=number_of(step), keep=joints.keep)

    def _of_terms(self, joints: Centres) -> dict[str, Centres]:
        self._limbs = self._limbs.to(joints.features.device)
        return {term.name: joints if term.name == "single" else pairs(joints, self._limbs) for term in self._terms}
