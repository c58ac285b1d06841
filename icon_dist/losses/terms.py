"""The terms of the objective: what they are, and on one micro-batch their values and the numbers to log."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from icon_dist.config import ContrastConfig
from icon_dist.distributed import mean_over_ranks
from icon_dist.losses import health
from icon_dist.losses.sampling import Draw
from icon_dist.types import Outputs


@dataclass(frozen=True)
class Term:
    """SKCC (``single``) or PRCC (``pair``)."""

    name: str
    weight: float
    config: ContrastConfig
    categories: int

    def draws(self, *keys: int | Int64[Tensor, ""]) -> tuple[Draw, Draw]:
        """Of the categories of a person that ask (Q), and of those that each is compared with (Hn)."""
        cfg, (asking, compared) = self.config, keys
        return (
            Draw(cfg.query, (cfg.queries, max(cfg.queries, cfg.queries_to)), asking),
            Draw(cfg.negative, (cfg.negatives, max(cfg.negatives, cfg.negatives_to)), compared),
        )


@dataclass
class Losses:
    """The terms of one micro-batch. The mean over ranks of each is the loss of the joined batch."""

    total: Float[Tensor, ""]  # call backward on this one
    heatmap: Float[Tensor, ""]  # L_heatmap, without its weight
    single: Float[Tensor, ""]  # L_SKCC
    pair: Float[Tensor, ""]  # L_PRCC
    joints: Float[Tensor, ""] | None = None  # of a model that refines joints
    unlabelled: Float[Tensor, ""] | None = None  # heatmap error of people without labels, without its weights
    scale: float = 0.0  # lambda_p times the ramp
    measured: dict[str, Tensor] = field(default_factory=dict)  # when asked to diagnose; equal on all ranks
    contrasted: dict[str, Tensor] = field(default_factory=dict)  # what the measured chances are of, if not the terms
    watched: Outputs | None = None

    def scalars(self) -> dict[str, float]:
        """All there is to log. After backward and on every rank: it averages over ranks."""
        terms = {"total": self.total.detach(), "heatmap": self.heatmap, "single": self.single, "pair": self.pair}
        if self.joints is not None:
            terms["joints"] = self.joints
        if self.unlabelled is not None:
            terms["unlabelled"] = self.unlabelled
        means = mean_over_ranks(torch.stack([*terms.values(), *self.contrasted.values()])).tolist()
        out = dict(zip(terms, means, strict=False))
        of_chance = out | dict(zip(self.contrasted, means[len(terms) :], strict=True))
        measured = {name: value.item() for name, value in self.measured.items()}
        out |= {"scale": self.scale} | measured
        for name, chance in measured.items():
            if name.endswith("_chance") and chance:
                term = name.removesuffix("_chance")
                out[f"{term}_over_chance"] = of_chance[term] / chance
        ratio = health.gradient_ratio(self.watched) if self.watched is not None else None
        return out if ratio is None else out | {"gradient_ratio": ratio.item()}
