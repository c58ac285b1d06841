"""Eq. 1 for all queries and keys at once, and its gradient in closed form.

For a query i with positives p and negatives n, and s = cos / tau::

    L_i = mean_p -log( e^{s_p} / (e^{s_p} + sum_n e^{s_n}) ) = mean_p softplus( logsumexp_n(s_n) - s_p )

Positives have the query's category and another owner, its instance or its image; negatives are the keys of Hn other
categories (:class:`icon_dist.losses.sampling.Negatives`). Each positive stands alone in its denominator with all the
negatives (this is not SupCon). ``icon_dist/losses/reference.py`` has the same as loops.

A query meets only its own and its negative categories. A tile is some queries and these (query, category) pairs. A CPU
makes one product per category of just the pairs that are in it: the fewest operations. An accelerator makes one of all
queries with all categories, where the other pairs are masked: the fewest launches, static shapes, no synchronization
with the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from icon_dist.losses.sampling import Negatives, Queries, choose_negatives, limit_negatives
from icon_dist.torch_compat import linear_pointwise
from icon_dist.types import KeySet

ROUND = 16  # rows of a product, so that few kernels do for all
HELD = {"cpu": 1 << 22}  # similarities held at once, by device type
HELD_ELSEWHERE = 1 << 24
GPU_SHARE = 10  # bits: on a GPU one for 1024 bytes of its memory, so that a large one needs few launches


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

    ``keys`` may carry gradient, ``bank`` receives none. In fp32, or fp64 for queries in fp64, whatever the autocast.
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
        allowed = limit_negatives(joined.valid, negatives.most, key=negatives.draw.key) if negatives.most else None
        chosen = choose_negatives(fixed, joined if allowed is None else replace(joined, valid=allowed), negatives)
        problem = _Problem(fixed, joined, chosen, allowed, tau, negatives.others_only)
        each, usable = _Consistency.apply(query, live, problem)  # type: ignore[no-untyped-call]
        # A product with the one-hot matrix: deterministic on a GPU, unlike index_add.
        by_category = F.one_hot(queries.category, chosen.shape[1]).to(wide)
        return each @ by_category, usable.to(wide) @ by_category


@dataclass(frozen=True)
class _Problem:
    """What Eq. 1 compares, without gradient."""

    queries: Queries
    keys: KeySet  # this step's, which the gradient goes to, then the bank's
    negative: Bool[Tensor, "A C"]  # negative categories
    allowed: Bool[Tensor, "C S"] | None  # the keys that may be negatives; None = all valid ones
    tau: float
    others_only: bool


class _Consistency(torch.autograd.Function):
    """L_i of every query, with its gradient in closed form.

    With Z = sum_n e^{s_n} and w_p = sigmoid(log Z - s_p)::

        dL_i/ds_p = -w_p / |P|          dL_i/ds_n = (sum_p w_p / |P|) e^{s_n} / Z

    A query meets its own category and its negative ones in one product; the similarities turn into these slopes in
    place, and a second product makes the query's gradient of them. The slopes of this step's keys are kept for theirs;
    the bank needs none.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, live: Tensor, problem: _Problem) -> tuple[Tensor, Tensor]:
        """Of queries [A, m] and this step's keys [C, G, m]: L_i [A], 0 where ``usable`` [A] is false, and ``usable``:
        whether a query has a positive and a negative."""
        queries, keys = problem.queries, problem.keys
        absent = torch.where(keys.valid, 0.0, -torch.inf).to(query.dtype)
        own = F.one_hot(queries.category, problem.negative.shape[1]).bool()
        member = (own | problem.negative) & queries.active[:, None]
        each, usable, gradient = [], [], []
        ctx.tiles, kept = [], []
        for rows, tile in tiles(member, width=keys.valid.shape[1]):
            s = tile.similarities(query[rows] / problem.tau, keys.features, absent)  # [pairs, G + S]
            active, owner = queries.active[rows], queries.owner[rows]
            pair = tile.pairs_with(queries.category[rows])  # of a query with its own category ...
            row = tile.row.index_select(0, pair)  # ... and which query that is
            same = keys.instance.index_select(0, tile.category[pair]) == owner.index_select(0, row)[:, None]
            s_p = s.index_select(0, pair).masked_fill_(same, -torch.inf)
            if problem.allowed is not None:
                s.masked_fill_(~problem.allowed.index_select(0, tile.category), -torch.inf)
            if problem.others_only:
                same = keys.instance.index_select(0, tile.category) == owner.index_select(0, tile.row)[:, None]
                s.masked_fill_(same, -torch.inf)

            negative = problem.negative[rows][tile.row, tile.category]
            # A cosine's least where there is no negative: finite, so that exp(-inf - peak) is 0.
            peak = tile.row_max(torch.where(negative, s.amax(1), -torch.inf)).clamp(min=-1 / problem.tau)
            shift = torch.where(negative, peak.index_select(0, tile.row), torch.inf)
            r = s.sub_(shift[:, None]).exp_()
            z = tile.row_sum(r.sum(1))
            log_z = peak + z.log()  # -inf without negatives

            t = log_z.index_select(0, row)[:, None] - s_p
            t.masked_fill_(s_p == -torch.inf, -torch.inf)
            zero = torch.zeros_like(z)
            positives = zero.index_copy(0, row, (t > -torch.inf).sum(1).to(z))
            error = zero.index_copy(0, row, F.softplus(t).sum(1))
            w = t.sigmoid_()
            weight = zero.index_copy(0, row, w.sum(1))
            good = (positives > 0) & (z > 0) & active
            each.append(torch.where(good, error / positives.clamp(min=1), 0.0))
            usable.append(good)

            scale = torch.where(good, 1 / (positives.clamp(min=1) * problem.tau), 0.0)  # of dL / d(q . k)
            r.mul_(torch.where(good, scale * weight / z, 0.0).index_select(0, tile.row)[:, None])
            r.index_copy_(0, pair, w.mul_(-scale.index_select(0, row)[:, None]))
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
        """The kept slopes times the gradient of each L_i, for queries and for this step's keys."""
        query, slope, *kept = ctx.saved_tensors
        to_query = slope * grad[:, None] if ctx.needs_input_grad[0] else None
        to_live = None
        if ctx.needs_input_grad[1]:
            to_live = query.new_zeros(ctx.live)
            with torch.autocast(query.device.type, enabled=False):
                weighted = query * grad[:, None]
                for (rows, tile), slopes in zip(ctx.tiles, kept, strict=True):
                    tile.add_to_keys(to_live, slopes, weighted[rows])
        return to_query, to_live, None


class Grouped:
    """Pairs sorted by category."""

    def __init__(self, member: Tensor) -> None:  # [rows, C]
        self.category, self.row = member.T.nonzero(as_tuple=True)  # [pairs]
        ends = member.sum(0).cumsum(0).tolist()
        self._spans = [(c, slice(a, b)) for c, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if b > a]
        self._rows = len(member)

    def pairs_with(self, category: Tensor) -> Tensor:
        """The places of the pairs of rows with their category [rows]; rows that have no such pair are left out."""
        return (self.category == category.index_select(0, self.row)).nonzero().squeeze(1)

    def similarities(self, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """[pairs, S] of query [rows, m] and keys [C, S, m], plus bias [C, S]."""
        q = query.index_select(0, self.row)
        s = q.new_empty(len(q), keys.shape[1])
        for c, span in self._spans:
            s[span] = _product(q, span, keys[c].T, bias[c])
        return s

    def to_queries(self, slopes: Tensor, keys: Tensor) -> Tensor:
        """[rows, m]: keys [C, S, m] weighted by slopes [pairs, S]."""
        total = slopes.new_zeros(self._rows, keys.shape[2])
        for c, span in self._spans:
            total.index_add_(0, self.row[span], _product(slopes, span, keys[c]))
        return total

    def add_to_keys(self, keys: Tensor, slopes: Tensor, query: Tensor) -> None:
        """Add to keys [C, S, m] the query [rows, m] weighted by slopes [pairs, S]."""
        q = query.index_select(0, self.row)
        for c, span in self._spans:
            keys[c] += slopes[span].T @ q[span]

    def row_sum(self, x: Tensor) -> Tensor:
        """[rows]: the sum of x [pairs] over the pairs of a row."""
        return x.new_zeros(self._rows).index_add_(0, self.row, x)

    def row_max(self, x: Tensor) -> Tensor:
        """[rows]: the largest x [pairs] of a row; -inf for a row without pairs."""
        return x.new_full((self._rows,), -torch.inf).scatter_reduce_(0, self.row, x, "amax")


class Dense:
    """All pairs, by query."""

    def __init__(self, member: Tensor) -> None:  # [rows, C]
        self._shape = rows, categories = member.shape
        self.row = torch.arange(rows, device=member.device).repeat_interleave(categories)
        self.category = torch.arange(categories, device=member.device).repeat(rows)

    def pairs_with(self, category: Tensor) -> Tensor:
        """The places [rows] of the pairs of rows with their category [rows]."""
        return torch.arange(len(category), device=category.device) * self._shape[1] + category

    def similarities(self, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """[pairs, S] of query [rows, m] and keys [C, S, m], plus bias [C, S]."""
        return torch.addmm(bias.flatten(), query, keys.flatten(0, 1).T).view(-1, keys.shape[1])

    def to_queries(self, slopes: Tensor, keys: Tensor) -> Tensor:
        """[rows, m]: keys [C, S, m] weighted by slopes [pairs, S]."""
        return slopes.view(self._shape[0], -1) @ keys.flatten(0, 1)

    def add_to_keys(self, keys: Tensor, slopes: Tensor, query: Tensor) -> None:
        """Add to keys [C, S, m] the query [rows, m] weighted by slopes [pairs, S]."""
        keys.flatten(0, 1).addmm_(slopes.view(self._shape[0], -1).T, query)

    def row_sum(self, x: Tensor) -> Tensor:
        """[rows]: the sum of x [pairs] over the categories of a row."""
        return x.view(self._shape).sum(1)

    def row_max(self, x: Tensor) -> Tensor:
        """[rows]: the largest x [pairs] of a row."""
        return x.view(self._shape).amax(1)


def tiles(member: Tensor, *, width: int) -> Iterator[tuple[slice, Grouped | Dense]]:
    """Rows of ``member`` [A, C] that go together, each category having ``width`` keys."""
    layout = Grouped if grouped(member.device) else Dense
    rows, categories = member.shape
    held = HELD.get(member.device.type, HELD_ELSEWHERE)
    if member.is_cuda:
        held = torch.cuda.get_device_properties(member.device).total_memory >> GPU_SHARE
    per_row = categories * width  # at most
    step = max(1, held // max(1, per_row))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        yield part, layout(member[part])


def _product(a: Tensor, span: slice, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a[span] @ b + bias`` by oneDNN, as compiled models do it: on AMD twice as fast as MKL, elsewhere no slower.

    It makes a kernel for every new number of rows, which takes longer than a small product, and that number is another
    one in every step: so it gets a round one, with the first rows of what follows the span. ``b`` or its transpose must
    be contiguous, or oneDNN falls back on its reference kernel, a thousand times slower.
    """
    rows = span.stop - span.start
    end = span.start + -(-rows // ROUND) * ROUND
    if a.dtype == torch.float32 and linear_pointwise is not None and end <= len(a):
        return linear_pointwise(a[span.start : end], b.T, bias, "none", [], "")[:rows]
    return a[span] @ b if bias is None else torch.addmm(bias, a[span], b)


def grouped(device: torch.device) -> bool:
    """Whether a device multiplies only the pairs that are compared, category by category, or all of them at once."""
    return device.type == "cpu"
