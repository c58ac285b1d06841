"""InfoNCE with several positives, Eq. 1, for all queries and keys at once, and its gradient in closed form.

For a query i with positives p and negatives n, and s = cos / tau::

    L_i = mean_p -log( e^{s_p} / (e^{s_p} + sum_n e^{s_n}) ) = mean_p softplus( logsumexp_n(s_n) - s_p )

Positives have the query's category and another owner, its instance or its image; negatives are the keys of Hn other
categories (:class:`icon_dist.losses.sampling.Negatives`). Each positive stands alone in its denominator with all the
negatives (this is not SupCon). ``icon_dist/losses/reference.py`` has the same as loops.

A query meets only its own and its negative categories: :mod:`icon_dist.losses.block_sparse` multiplies just these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from icon_dist.losses.block_sparse import Blocks, Span, blocked, parts
from icon_dist.losses.sampling import Negatives, Queries, choose_negatives, limit_negatives
from icon_dist.types import KeySet

STEEP = 40  # e to this and to minus this, and sums of them, are neither 0 nor infinite in fp32
HELD = 1 << 24  # similarities held at once on an accelerator
GPU_SHARE = 10  # bits: on a GPU one for 1024 bytes of its memory, so that a large one needs few launches


def mean_of_categories(sums: Float[Tensor, " C"], counts: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """Mean over the queries of a category, then over categories that have any; a zero with a gradient when none has."""
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def info_nce_sums(
    queries: Queries,
    keys: KeySet,
    *,
    negatives: Negatives,
    tau: float,
    bank: KeySet | None = None,
    products: str = "fp32",
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Per category, the sum of L_i and the number of queries with at least one positive and one negative.

    ``keys`` may carry gradient, ``bank`` receives none. In fp32, or fp64 for queries in fp64, whatever the autocast.
    With ``products="bf16"`` queries and keys are rounded before they are multiplied: s is off by 2^-8 / tau at most.
    """
    wide = torch.promote_types(queries.features.dtype, torch.float32)
    stored = [keys] if bank is None else [keys, bank]
    with torch.autocast(queries.features.device.type, enabled=False):
        query, live = queries.features.to(wide), keys.features.to(wide)
        joined = KeySet(
            live.detach().contiguous() if bank is None else torch.cat([live.detach(), bank.features.to(wide)], 1),
            torch.cat([k.valid for k in stored], 1),
            torch.cat([k.instance for k in stored], 1),
        )
        allowed = (
            limit_negatives(joined.valid, negatives.most, key=negatives.draw.key) if negatives.most else joined.valid
        )
        fixed = replace(queries, features=query.detach())
        chosen = choose_negatives(fixed, replace(joined, valid=allowed), negatives)
        width = negatives.draw.most(len(joined.valid) - 1) + 1  # categories that a query meets
        masked = _masked(joined, allowed, queries.owner)
        rounded = products == "bf16"
        compared = replace(joined, features=_in_bf16(joined.features)) if rounded else joined
        found = []
        for rows in _at_once(len(query), width * joined.valid.shape[1], query.device):
            part = Queries(**{name: column[rows] for name, column in vars(fixed).items()})
            problem = _Problem(part, compared, chosen[rows], allowed, negatives, tau, masked, rounded)
            found.append(_Consistency.apply(query[rows], live, problem))  # type: ignore[no-untyped-call]
        each, usable = (torch.cat(x) for x in zip(*found, strict=True))
        # A product with the one-hot matrix: deterministic on a GPU, unlike index_add.
        by_category = _members(queries.category, chosen.shape[1]).to(wide)
        return each @ by_category, usable.to(wide) @ by_category


def _at_once(queries: int, similarities: int, device: torch.device) -> list[slice]:
    """Queries that are compared together, each by so many ``similarities``; a CPU holds only those of a part."""
    held = torch.cuda.get_device_properties(device).total_memory >> GPU_SHARE if device.type == "cuda" else HELD
    step = max(1, held // max(1, similarities) if blocked(device) else queries)
    return [slice(start, start + step) for start in range(0, max(1, queries), step)]


def _in_bf16(x: Tensor) -> Tensor:
    """Rounded to bf16. On a CPU, whose products of bf16 are slower, the same numbers in their own type."""
    low = x.bfloat16()
    return low if blocked(x.device) else low.to(x.dtype)


def _masked(keys: KeySet, allowed: Bool[Tensor, "C S"], owner: Int64[Tensor, " A"]) -> int:
    """How many keys, the first of each category, need a mask; the others count for every query.

    In a bank that is full that is none of the stored keys, unless it holds people of this batch. All of them where
    only the device knows.
    """
    if blocked(allowed.device) or not len(owner):
        return allowed.shape[1]
    own = torch.unique(owner)
    near = own[torch.searchsorted(own, keys.instance).clamp_(max=len(own) - 1)]  # a fifth of the time of torch.isin
    places = (~allowed | (near == keys.instance)).any(0).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


def _members(category: Int64[Tensor, " A"], categories: int) -> Bool[Tensor, "A C"]:
    return category[:, None] == torch.arange(categories, device=category.device)


@dataclass(frozen=True)
class _Problem:
    """What Eq. 1 compares, without gradient."""

    queries: Queries
    keys: KeySet  # this step's, which the gradient goes to, then the bank's
    negative: Bool[Tensor, "A C"]  # negative categories ...
    allowed: Bool[Tensor, "C S"]  # ... whose keys may be negatives
    negatives: Negatives
    tau: float
    masked: int  # keys of a category that need a mask; those after them count for every query
    rounded: bool  # whether products are of bf16

    def others(self, part: Span | Blocks) -> Tensor:
        """Which of the first keys are of another owner than the query that they are compared with."""
        return part.of_keys(self.keys.instance[:, : self.masked]) != part.of_queries(self.queries.owner)

    def peak(self, negatives: Sequence[Span | Blocks], scaled: Float[Tensor, "A m"]) -> Float[Tensor, " A"] | None:
        """The largest s_n of each query, at least that of a cosine of -1; None where e^s needs no such care."""
        if 1 / self.tau <= STEEP:
            return None
        peak = self.queries.features.new_full((len(scaled), 1), -1 / self.tau)
        for part in negatives:
            counted = part.of_keys(self.allowed[:, : self.masked])
            if self.negatives.others_only:
                counted = counted & self.others(part)
            s = part.similarities(scaled, self.keys.features)
            s[..., : self.masked].masked_fill_(~counted, -torch.inf)
            part.gather(peak, s.amax(-1, keepdim=True), largest=True)
        return peak[:, 0]


class _Consistency(torch.autograd.Function):
    """L_i of every query, with its gradient in closed form.

    With Z = sum_n e^{s_n} and w_p = sigmoid(log Z - s_p)::

        dL_i/ds_p = -w_p / |P|          dL_i/ds_n = (sum_p w_p / |P|) e^{s_n} / Z

    First the negatives, then the positives, which need Z: each is one product of queries and keys, that turns into
    these slopes in place, up to a factor of the query, and a second one that makes the query's gradient of them. The
    slopes of this step's keys are kept for theirs; the bank needs none.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, live: Tensor, problem: _Problem) -> tuple[Tensor, Tensor]:
        """Of queries [A, m] and this step's keys [C, G, m]: L_i [A], 0 where ``usable`` [A] is false, and ``usable``:
        whether a query has a positive and a negative."""
        queries, keys, own = problem.queries, problem.keys, live.shape[1]
        scaled = _in_bf16(query / problem.tau) if problem.rounded else query / problem.tau
        member = _members(queries.category, problem.negative.shape[1]) & queries.active[:, None]
        ctx.negative = parts(
            problem.negative & queries.active[:, None], most=problem.negatives.draw.most(len(keys.valid) - 1)
        )
        ctx.positive = parts(member, most=1)
        peak, kept = problem.peak(ctx.negative, scaled), []

        z, pull = query.new_zeros(len(query), 1), torch.zeros_like(query)  # sum_n e^{s_n}, and sum_n e^{s_n} k_n
        masked, counted = problem.masked, problem.allowed[:, : problem.masked].to(query.dtype)
        for part in ctx.negative:
            r = part.similarities(scaled, keys.features)
            if peak is not None:
                r.sub_(part.of_queries(peak)).clamp_(max=0)  # above it are keys that do not count
            r.exp_()
            r[..., :masked].mul_(part.of_keys(counted))
            if problem.negatives.others_only:
                r[..., :masked].mul_(problem.others(part))
            part.gather(z, r.sum(-1, keepdim=True))
            part.to_queries(pull, r, keys.features)
            kept.append(r[..., :own].clone())
        z = z[:, 0]
        log_z = z.log() if peak is None else z.log() + peak  # -inf without negatives

        totals, push = query.new_zeros(len(query), 3), torch.zeros_like(query)  # push: sum_p w_p k_p
        for part in ctx.positive:
            t = part.similarities(scaled, keys.features)
            positive = part.of_keys(keys.valid[:, :masked]) & problem.others(part)
            torch.sub(part.of_queries(log_z), t, out=t)[..., :masked].masked_fill_(~positive, -torch.inf)
            error = F.softplus(t).sum(-1)
            w = t.sigmoid_()
            part.gather(totals, torch.stack([positive.sum(-1) + (t.shape[-1] - masked), error, w.sum(-1)], -1))
            part.to_queries(push, w, keys.features)
            kept.append(w[..., :own].clone())
        positives, error, weight = totals.unbind(1)

        usable = (positives > 0) & (z > 0)
        scale = torch.where(usable, 1 / (positives.clamp(min=1) * problem.tau), 0.0)  # of dL / d(q . k)
        of_negatives = torch.where(usable, scale * weight / z, 0.0)
        slope = pull.mul_(of_negatives[:, None]).sub_(push.mul_(scale[:, None]))
        ctx.save_for_backward(query, slope, of_negatives, -scale, *kept)  # freed by the backward pass
        ctx.live, ctx.factors = live.shape, keys.features.dtype
        ctx.mark_non_differentiable(usable)
        return torch.where(usable, error / positives.clamp(min=1), 0.0), usable

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The kept slopes times the gradient of each L_i, for queries and for this step's keys."""
        query, slope, of_negatives, of_positives, *kept = ctx.saved_tensors
        to_query = slope * grad[:, None] if ctx.needs_input_grad[0] else None
        to_live = None
        if ctx.needs_input_grad[1]:
            to_live = query.new_zeros(ctx.live)
            slopes = iter(kept)
            with torch.autocast(query.device.type, enabled=False):
                for which, factor in ((ctx.negative, of_negatives), (ctx.positive, of_positives)):
                    weighted = (query * (grad * factor)[:, None]).to(ctx.factors)
                    for part in which:
                        part.to_keys(to_live, next(slopes), weighted)
        return to_query, to_live, None
