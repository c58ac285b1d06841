"""Inter-image contrastive consistency: SKCC (paper Eq. 1) over joints and PRCC (Eq. 4) over limb pairs, one function.

For a query i with positives p and negatives n, and s = cos / tau::

    L_i = mean_p -log( e^{s_p} / (e^{s_p} + sum_n e^{s_n}) ) = mean_p softplus( logsumexp_n(s_n) - s_p )

Positives have the query's category and another owner, the person or the photo; negatives are the candidates of Hn other
categories (:class:`icon_dist.losses.negatives.Negatives`).
Each positive stands alone in its denominator with all the negatives (this is not SupCon).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from icon_dist.losses.negatives import Negatives, choose_negatives, limit
from icon_dist.losses.queries import Queries
from icon_dist.losses.tiles import tiles
from icon_dist.types import KeySet


def consistency_loss(
    queries: Queries, keys: KeySet, *, negatives: Negatives, tau: float, bank: KeySet | None = None
) -> Float[Tensor, ""]:
    """Mean of L_i over the queries of a category, then over the categories; arguments as :func:`consistency_sums`."""
    return mean_of_categories(*consistency_sums(queries, keys, negatives=negatives, tau=tau, bank=bank))


def mean_of_categories(sums: Float[Tensor, " C"], counts: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """Mean over the queries of a category, then over categories that have any; a zero with a gradient when none has."""
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def consistency_sums(
    queries: Queries, keys: KeySet, *, negatives: Negatives, tau: float, bank: KeySet | None = None
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Per category, the sum of L_i and the number of queries with at least one positive and one negative.

    Candidates are ``keys``, which may carry gradient, and ``bank``, which receives none. In fp32, or fp64 for queries
    in fp64, whatever the autocast.
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
        fixed = replace(queries, features=query.detach())
        limited = limit(joined.valid, negatives.most, key=negatives.draw.key) if negatives.most else joined.valid
        chosen = choose_negatives(fixed, replace(joined, valid=limited), negatives)
        each, usable = _Consistency.apply(  # type: ignore[no-untyped-call]
            query, live, fixed, joined, limited, chosen, tau, negatives.others_only
        )
        # A product with the one-hot matrix: deterministic on a GPU, unlike index_add.
        by_category = F.one_hot(queries.category, chosen.shape[1]).to(wide)
        return each @ by_category, usable.to(wide) @ by_category


class _Consistency(torch.autograd.Function):
    """L_i of every query, with its gradient in closed form.

    With Z = sum_n e^{s_n} and w_p = sigmoid(log Z - s_p)::

        dL_i/ds_p = -w_p / |P|          dL_i/ds_n = (sum_p w_p / |P|) e^{s_n} / Z

    A query meets its own category and its negative ones in one product; the similarities turn into these slopes in
    place, and a second product makes the query's gradient of them. The slopes of this step's keys are kept for theirs;
    the bank needs none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # [A, m]
        live: Tensor,  # [C, G, m] the first of the keys, for their gradient
        queries: Queries,  # the same without gradient
        keys: KeySet,
        limited: Tensor,  # [C, G + S] the candidates that may be negatives
        chosen: Tensor,  # [A, C] negative categories
        tau: float,
        others_only: bool,
    ) -> tuple[Tensor, Tensor]:
        absent = torch.where(keys.valid, 0.0, -torch.inf).to(query.dtype)
        own = F.one_hot(queries.category, chosen.shape[1]).bool()
        member = (own | chosen) & queries.active[:, None]
        each, usable, gradient = [], [], []
        ctx.tiles, kept = [], []
        for rows, tile in tiles(member, width=keys.valid.shape[1]):
            s = tile.similarities(query[rows] / tau, keys.features, absent)  # [pairs, G + S]
            asks, who = queries.active[rows], queries.owner[rows]
            mine = tile.pairs_with(queries.category[rows])
            asking = tile.row.index_select(0, mine)
            same = keys.instance.index_select(0, tile.category[mine]) == who.index_select(0, asking)[:, None]
            s_p = s.index_select(0, mine).masked_fill_(same, -torch.inf)
            if limited is not keys.valid:
                s.masked_fill_(~limited.index_select(0, tile.category), -torch.inf)
            if others_only:
                same = keys.instance.index_select(0, tile.category) == who.index_select(0, tile.row)[:, None]
                s.masked_fill_(same, -torch.inf)

            negative = chosen[rows][tile.row, tile.category]
            # A cosine's least where there is no negative: finite, so that exp(-inf - peak) is 0.
            peak = tile.row_max(torch.where(negative, s.amax(1), -torch.inf)).clamp(min=-1 / tau)
            shift = torch.where(negative, peak.index_select(0, tile.row), torch.inf)
            r = s.sub_(shift[:, None]).exp_()
            z = tile.row_sum(r.sum(1))
            log_z = peak + z.log()  # -inf without negatives

            t = log_z.index_select(0, asking)[:, None] - s_p
            t.masked_fill_(s_p == -torch.inf, -torch.inf)
            zero = torch.zeros_like(z)
            positives = zero.index_copy(0, asking, (t > -torch.inf).sum(1).to(z))
            error = zero.index_copy(0, asking, F.softplus(t).sum(1))
            w = t.sigmoid_()
            weight = zero.index_copy(0, asking, w.sum(1))
            good = (positives > 0) & (z > 0) & asks
            each.append(torch.where(good, error / positives.clamp(min=1), 0.0))
            usable.append(good)

            scale = torch.where(good, 1 / (positives.clamp(min=1) * tau), 0.0)  # of dL / d(q . k)
            r.mul_(torch.where(good, scale * weight / z, 0.0).index_select(0, tile.row)[:, None])
            r.index_copy_(0, mine, w.mul_(-scale.index_select(0, asking)[:, None]))
            gradient.append(tile.to_queries(r, keys.features))
            ctx.tiles.append((rows, tile))
            kept.append(r[:, : live.shape[1]].clone())
        ctx.save_for_backward(query, torch.cat(gradient), *kept)  # freed by the backward pass
        ctx.live = live.shape
        out = torch.cat(usable)
        ctx.mark_non_differentiable(out)
        return torch.cat(each), out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, slope, *kept = ctx.saved_tensors
        to_query = slope * grad[:, None] if ctx.needs_input_grad[0] else None
        to_live = None
        if ctx.needs_input_grad[1]:
            to_live = query.new_zeros(ctx.live)
            with torch.autocast(query.device.type, enabled=False):
                weighted = query * grad[:, None]
                for (rows, tile), slopes in zip(ctx.tiles, kept, strict=True):
                    tile.add_to_keys(to_live, slopes, weighted[rows])
        return to_query, to_live, None, None, None, None, None, None
