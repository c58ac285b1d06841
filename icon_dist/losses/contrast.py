"""``lambda_1 L_SKCC + lambda_2 L_PRCC`` on one rank: tokens, who asks, Eq. 1, and the mean over all ranks' queries.

Ranks meet here and nowhere below: this step's centre embeddings are gathered, each rank sums the losses of its own
queries, and the numbers of queries are summed over ranks. N ranks then equal one rank with the joined batch, but for
what is chosen among a rank's own people: ``query_scope=batch``, ``max_queries`` and ``bank.budget``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.config import LossConfig
from icon_dist.distributed import sum_over_ranks, world_size
from icon_dist.losses import health, queries, sampling
from icon_dist.losses.candidates import Candidates
from icon_dist.losses.consistency import consistency_sums, mean_of_categories
from icon_dist.losses.intra import intra_sums
from icon_dist.losses.negatives import Negatives
from icon_dist.losses.queries import Queries
from icon_dist.losses.sampling import Draw
from icon_dist.losses.terms import Term
from icon_dist.losses.tokens import Tokens, pair_tokens, pixel_set, read_points, ring
from icon_dist.types import Batch, DeviceStep, Outputs, Skeleton

Sums = tuple[Float[Tensor, " C"], Float[Tensor, " C"]]  # of L_i per category, and the number of queries


@dataclass
class Contrasted:
    """A micro-batch's contrast. The mean over ranks of each loss is that of the joined batch."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]  # without gradient
    measured: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """The queries of one term among a micro-batch's tokens, and what they are compared with."""

    term: Term
    tokens: Tokens
    asks: Bool[Tensor, "N C T"]
    most: int  # of them that there can be
    person: Int64[Tensor, " N"]  # random draws are for it
    owner: Int64[Tensor, " N"]  # of its tokens, the person or the photo: positives have another
    negatives: Negatives


class Contrast:
    """The two terms, as far as they are switched on; with other people (``inter``) or within one person (``intra``)."""

    def __init__(
        self,
        cfg: LossConfig,
        skeleton: Skeleton,
        *,
        embedding_dim: int,
        embedding_stride: int,
        sigma: float,
        heatmap_stride: int,
        seed: int,
    ) -> None:
        self._cfg = cfg
        self._limbs = torch.tensor(skeleton.limbs, dtype=torch.int64).reshape(-1, 2)
        self._ring = ring(sigma=sigma, points=cfg.points)
        self._stride, self._heatmap_stride = embedding_stride, heatmap_stride
        self._seed = seed
        self.terms = [
            term
            for term in (
                Term("single", cfg.lambda_1, cfg.single, skeleton.num_joints),
                Term("pair", cfg.lambda_2, cfg.pair, len(skeleton.limbs)),
            )
            if cfg.lambda_p > 0 and term.weight > 0 and term.categories > 0
        ]
        bank = cfg.bank if cfg.contrast == "inter" else replace(cfg.bank, enabled=False, exchange="sync")
        self.candidates = Candidates(bank, self.terms, self._limbs, embedding_dim=embedding_dim, seed=seed)

    def __call__(
        self, outputs: Outputs, batch: Batch, errors: Float[Tensor, "N K"], *, step: int | DeviceStep, diagnose: bool
    ) -> Contrasted:
        """``errors`` of the heatmaps make joints hard; with ``diagnose``, measure for the log as well.

        All ranks run the same collectives, whatever their people.
        """
        tokens = self._tokens(outputs, batch, errors)
        owner = batch.image_id if self._cfg.positives_from == "images" else batch.instance
        if self._cfg.contrast == "inter" or diagnose:
            self.candidates.share(tokens["single"], owner, step=step)
        asked = []
        for i, term in enumerate(self.terms):
            draws = term.draws(*(sampling.step_key(self._seed, step, 2 * i + purpose) for purpose in (1, 2)))
            asked.append(self._asked(term, tokens[term.name], *draws, person=batch.instance, owner=owner))
        found = [self._sums(one) for one in asked]

        counts = torch.split(sum_over_ranks(torch.cat([n for _, n in found])), [term.categories for term in self.terms])
        # Sums are this rank's and counts are everybody's; the factor undoes the mean over ranks that gradients get.
        losses = [world_size() * mean_of_categories(sums, n) for (sums, _), n in zip(found, counts, strict=True)]
        total = torch.stack([term.weight * loss for term, loss in zip(self.terms, losses, strict=True)]).sum()
        out = Contrasted(total, {term.name: loss.detach() for term, loss in zip(self.terms, losses, strict=True)})
        if diagnose:
            for one, n in zip(asked, counts, strict=True):
                measured = self.candidates.measure(one.term) | {"chance": self._chance(one, n)}
                out.measured |= {f"{one.term.name}_{name}": value for name, value in measured.items()}
        return out

    def _tokens(self, outputs: Outputs, batch: Batch, errors: Float[Tensor, "N K"]) -> dict[str, Tokens]:
        assert outputs.embedding is not None
        self._ring, self._limbs = (x.to(batch.joints.device) for x in (self._ring, self._limbs))  # copied once
        points = pixel_set(batch.joints, self._ring, stride=self._heatmap_stride)
        features, inside = read_points(outputs.embedding, points, stride=self._stride, read=self._cfg.read)
        counted = batch.visible if self._cfg.counted == "visible" else batch.labelled
        present = counted & inside[:, :, 0]  # a joint exists where its own embedding can be read
        active = inside & present[..., None]
        scores = queries.hard_scores(
            outputs.heatmaps.detach(), errors, present, entropy=self._cfg.entropy, scope=self._cfg.query_scope
        )
        tokens = {"single": Tokens(features, active, scores)}
        if any(term.name == "pair" for term in self.terms):
            pairs = pair_tokens(features, active, self._limbs)
            tokens["pair"] = Tokens(*pairs, queries.pair_scores(scores, self._limbs))
        return tokens

    def _asked(
        self,
        term: Term,
        tokens: Tokens,
        asking: Draw,
        compared: Draw,
        *,
        person: Int64[Tensor, " N"],
        owner: Int64[Tensor, " N"],
    ) -> Asked:
        cfg = self._cfg
        chosen = queries.choose_queries(asking, tokens.score, tokens.active[..., 0], person, scope=cfg.query_scope)
        asks = tokens.active & chosen[..., None]
        if cfg.max_queries:
            asks = queries.limit_queries(asks, person, most=cfg.max_queries, key=asking.key)
        people, classes, points = asks.shape
        most = queries.most_queries(asking, shape=(people, classes, points), most=cfg.max_queries)
        negatives = Negatives(
            compared,
            score=term.config.category_score,
            others_only=cfg.negatives_from_others,
            most=cfg.max_negatives,
        )
        return Asked(term, tokens, asks, most, person, owner, negatives)

    def _sums(self, asked: Asked) -> Sums:
        """Eq. 1 with the candidates that ``loss.contrast`` means."""
        return self._among_people(asked) if self._cfg.contrast == "inter" else self._within_person(asked)

    def _among_people(self, asked: Asked) -> Sums:
        _, classes, points = asked.asks.shape
        row, active = queries.first_rows(asked.asks, asked.most)
        n = row // (classes * points)
        features = asked.tokens.features.flatten(0, 2).index_select(0, row)
        asking = Queries(features, row // points % classes, asked.owner[n], asked.person[n], active)
        keys, bank = self.candidates.of(asked.term)
        return consistency_sums(asking, keys, negatives=asked.negatives, tau=self._cfg.tau, bank=bank)

    def _within_person(self, asked: Asked) -> Sums:
        tokens = asked.tokens
        return intra_sums(
            tokens.features, tokens.active, asked.asks, asked.person, negatives=asked.negatives, tau=self._cfg.tau
        )

    def _chance(self, asked: Asked, counts: Float[Tensor, " C"]) -> Float[Tensor, ""]:
        """Loss of queries to which all candidates look alike."""
        if self._cfg.contrast == "inter":
            keys, bank = self.candidates.of(asked.term)
            compared = asked.negatives.draw.mean(asked.term.categories - 1)
            stored = [keys] if bank is None else [keys, bank]
            return health.chance_loss(stored, categories=compared, most=asked.negatives.most)
        alike = replace(asked.tokens, features=torch.zeros_like(asked.tokens.features))
        sums, _ = self._within_person(replace(asked, tokens=alike))
        return mean_of_categories(sum_over_ranks(sums), counts)
