"""The whole training objective (paper Eq. 5): ``L = L_heatmap + lambda_p (lambda_1 L_SKCC + lambda_2 L_PRCC)``.

Ranks meet here and nowhere below: this step's centre embeddings are gathered, each rank sums the losses of its own
queries, and the numbers of queries are summed over ranks. N ranks then equal one rank with the joined batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.config import ContrastConfig, LossConfig
from icon_dist.distributed import sum_over_ranks, world_size
from icon_dist.errors import CheckpointError
from icon_dist.losses import diagnostics, sampling, tokens
from icon_dist.losses.consistency import consistency_sums, mean_of_categories
from icon_dist.losses.exchange import Centres, Exchange, pairs
from icon_dist.losses.heatmap import heatmap_loss, joint_errors
from icon_dist.losses.memory import MemoryBank
from icon_dist.losses.terms import Losses
from icon_dist.types import Batch, KeySet, Outputs, Skeleton

__all__ = ["Losses", "Objective", "ramp"]


@dataclass(frozen=True)
class _Term:
    """SKCC or PRCC."""

    name: str
    weight: float
    config: ContrastConfig
    bank: MemoryBank | None

    @property
    def queries(self) -> sampling.Count:
        return self.config.queries, max(self.config.queries, self.config.queries_to)

    @property
    def negatives(self) -> sampling.Count:
        return self.config.negatives, max(self.config.negatives, self.config.negatives_to)


class Objective:
    """Eq. 5 on one rank; holds the banks, one for joints and one for limb pairs.

    Per-category rings do not keep the joints of a person together, so pairs cannot be derived from the joints' bank.
    Both are fed from the same gathered joints, which costs no communication.

    The banks start with contrast itself: embeddings from before ``start_epoch`` come from a projection head that has
    not been trained and would be stale at once.
    """

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
        self._limbs = torch.tensor(skeleton.limbs, dtype=torch.int64).reshape(-1, 2)
        self._stride = embedding_stride
        self._heatmap_stride = heatmap_stride
        self._ring = tokens.ring(sigma=sigma, points=cfg.points)
        self._seed = seed
        self._exchange = Exchange(mode=cfg.bank.exchange, wire=cfg.bank.wire, budget=cfg.bank.budget, seed=seed)
        self._terms = [
            _Term(
                name,
                weight,
                config,
                MemoryBank(categories, cfg.bank.slots, embedding_dim) if cfg.bank.enabled else None,
            )
            for name, weight, config, categories in (
                ("single", cfg.lambda_1, cfg.single, skeleton.num_joints),
                ("pair", cfg.lambda_2, cfg.pair, len(skeleton.limbs)),
            )
            if cfg.lambda_p > 0 and weight > 0 and categories > 0
        ]

    def __call__(
        self,
        outputs: Outputs,
        batch: Batch,
        target: Float[Tensor, "N K h w"],
        weight: Float[Tensor, "N K"],
        *,
        step: int,
        epoch: float,
        diagnose: bool = False,
        labelled: int | None = None,
    ) -> Losses:
        """``step`` counts optimizer steps, ``epoch`` is fractional. With ``diagnose``, measure for the log as well.

        After the first ``labelled`` people come those without labels (Eq. 6-7): ``target`` is what a teacher says, and
        their heatmap error is weighted by lambda_u. For contrast all are alike.

        All ranks run the same collectives, whatever their people: one gather and one sum, none without contrast.
        """
        self._exchange.discard()
        errors = joint_errors(outputs.heatmaps, target, weight, reduction=self._cfg.heatmap.reduction)
        heatmap = heatmap_loss(errors[:labelled])
        total = self._cfg.heatmap.weight * heatmap
        losses = Losses(total, heatmap.detach(), torch.zeros_like(heatmap), torch.zeros_like(heatmap))
        if labelled is not None:
            unlabelled = heatmap_loss(errors[labelled:])
            losses.total = total = total + self._cfg.heatmap.weight * self._lambda_u * unlabelled
            losses.unlabelled = unlabelled.detach()
        if outputs.embedding is None or not self._terms:
            return losses
        if epoch < self._cfg.start_epoch:
            # The head stays in the graph: an engine that waits for the gradient of every parameter must not hang.
            losses.total = total + 0 * outputs.embedding.sum()
            return losses
        losses.scale = self._cfg.lambda_p * ramp(epoch, self._cfg)
        losses.total = total + losses.scale * self._contrast(
            outputs, batch, errors.detach(), losses, step=step, diagnose=diagnose
        )
        if diagnose:
            diagnostics.watch_gradients(outputs)
            losses.watched = outputs
        return losses

    def commit(self) -> None:
        """This step's tokens may enter the banks: after backward, and not at all when the step is discarded."""
        self._exchange.commit()

    def state_dict(self) -> dict[str, Tensor]:
        """The banks as plain tensors, the same bits on every rank; empty without banks. Waits for what travels."""
        self._push()
        return {
            f"{term.name}.{name}": tensor
            for term in self._terms
            if term.bank is not None
            for name, tensor in term.bank.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._push()  # of the state that is replaced
        banks = {term.name: term.bank for term in self._terms if term.bank is not None}
        saved = {name.partition(".")[0] for name in state}
        if saved != set(banks):
            raise CheckpointError(
                f"memory banks: the checkpoint has {sorted(saved) or 'none'}, this run {sorted(banks) or 'none'}; "
                "resume with the loss.lambda_* and loss.bank.enabled it was trained with, or use another run.name"
            )
        for name, bank in banks.items():
            prefix = f"{name}."
            bank.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _contrast(
        self,
        outputs: Outputs,
        batch: Batch,
        errors: Float[Tensor, "N K"],
        losses: Losses,
        *,
        step: int,
        diagnose: bool,
    ) -> Float[Tensor, ""]:
        """``lambda_1 L_SKCC + lambda_2 L_PRCC``; also leaves the two in ``losses``, and the tokens for the banks."""
        assert outputs.embedding is not None
        self._ring, self._limbs = (x.to(batch.joints.device) for x in (self._ring, self._limbs))  # copied once
        points = tokens.pixel_set(batch.joints, self._ring, stride=self._heatmap_stride)
        features, inside = tokens.read_points(outputs.embedding, points, stride=self._stride)
        present = batch.visible & inside[:, :, 0]  # a joint exists where its own embedding can be read
        active = inside & present[..., None]
        scores = sampling.hard_scores(outputs.heatmaps.detach(), errors, present)
        tokens_of = {"single": (features, active, scores)}
        self._push()
        centres = self._of_terms(self._exchange.share(Centres(features[:, :, 0], present, batch.instance), step=step))
        if "pair" in centres:
            tokens_of["pair"] = (
                *tokens.pair_tokens(features, active, self._limbs),
                sampling.pair_scores(scores, self._limbs),
            )

        sums, counts = [], []
        for i, term in enumerate(self._terms):
            keys = centres[term.name].keys()
            bank = self._ready_bank(term, keys.features.device, step)
            term_sums, term_counts = consistency_sums(
                *self._queries(term, *tokens_of[term.name], batch.instance, key=self._key(step, 1 + 2 * i)),
                keys,
                bank=bank,
                negatives=term.negatives,
                tau=self._cfg.tau,
                negative=term.config.negative,
                others_only=self._cfg.negatives_from_others,
                key=self._key(step, 2 + 2 * i),
            )
            sums.append(term_sums)
            counts.append(term_counts)
            if diagnose:
                losses.measured |= _measure(term, centres[term.name], [keys] if bank is None else [keys, bank], step)

        everywhere = torch.split(sum_over_ranks(torch.cat(counts)), [len(c) for c in counts])
        # Sums are this rank's and counts are everybody's; the factor undoes the mean over ranks that gradients get.
        found = [world_size() * mean_of_categories(s, c) for s, c in zip(sums, everywhere, strict=True)]
        for term, loss in zip(self._terms, found, strict=True):
            setattr(losses, term.name, loss.detach())
        return torch.stack([term.weight * loss for term, loss in zip(self._terms, found, strict=True)]).sum()

    def _push(self) -> None:
        """The joints of the last committed step, once they are here, enter the banks."""
        arrived = self._exchange.arrived()
        if arrived is None:
            return
        step, joints = arrived
        centres = self._of_terms(joints)
        for term in self._terms:
            if term.bank is not None:
                new = centres[term.name]
                term.bank.push(new.features, new.visible, new.instance, step=step)

    def _of_terms(self, joints: Centres) -> dict[str, Centres]:
        centres = {"single": joints}
        if any(term.name == "pair" for term in self._terms):
            centres["pair"] = pairs(joints, self._limbs)
        return centres

    def _queries(
        self,
        term: _Term,
        features: Float[Tensor, "N C T m"],
        active: Bool[Tensor, "N C T"],
        scores: Float[Tensor, "N C"],
        instance: Int64[Tensor, " N"],
        *,
        key: int,
    ) -> tuple[Float[Tensor, "A m"], Int64[Tensor, " A"], Int64[Tensor, " A"], Bool[Tensor, " A"]]:
        """Query, category, instance and active of the T points of each chosen category: A = N Q T."""
        index, chosen = sampling.choose_queries(
            term.config.query, term.queries, scores, active[..., 0], instance, key=key
        )
        query = torch.take_along_dim(features, index[:, :, None, None], 1)
        asks = torch.take_along_dim(active, index[:, :, None], 1) & chosen[..., None]
        category, person = index[:, :, None].expand(asks.shape), instance[:, None, None].expand(asks.shape)
        return query.flatten(0, 2), category.flatten(), person.flatten(), asks.flatten()

    def _ready_bank(self, term: _Term, device: torch.device, step: int) -> KeySet | None:
        if term.bank is None or not term.bank.ready(step, warmup=self._cfg.bank.warmup):
            return None
        term.bank.to(device)
        return term.bank.keys()

    def _key(self, step: int, purpose: int) -> int:
        return sampling.key_of(self._seed, step, purpose)


def ramp(epoch: float, cfg: LossConfig) -> float:
    """0 before ``start_epoch``, then linearly to 1 over ``ramp_epochs``."""
    if epoch < cfg.start_epoch:
        return 0.0
    return min(1.0, (epoch - cfg.start_epoch) / cfg.ramp_epochs) if cfg.ramp_epochs > 0 else 1.0


def _measure(term: _Term, centres: Centres, stored: list[KeySet], step: int) -> dict[str, Tensor]:
    most = centres.visible.shape[1] - 1 if term.config.negative == "all" else term.config.negatives
    measured = diagnostics.measure(centres.features, centres.visible, centres.instance, stored, categories=most)
    if term.bank is not None:
        measured |= {"bank_fill": term.bank.fill(), "bank_age": term.bank.age(step)}
    return {f"{term.name}_{name}": value for name, value in measured.items()}
