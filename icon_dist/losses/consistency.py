"""Inter-image contrastive consistency: SKCC (paper Eq. 1) over joints and PRCC (Eq. 4) over limb pairs, one function.

For a query i with positives p and negatives n, and s = cos / tau::

    L_i = mean_p -log( e^{s_p} / (e^{s_p} + sum_n e^{s_n}) ) = mean_p softplus( logsumexp_n(s_n) - s_p )

Positives have the query's category and belong to another person; negatives are the candidates of Hn other categories.
Each positive stands alone in its denominator with all the negatives (this is not SupCon).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from icon_dist.losses.sampling import Count, choose_negatives
from icon_dist.types import KeySet

TILE = 1 << 24  # similarities held at once on an accelerator: 64 MiB of fp32


def consistency_loss(
    query: Float[Tensor, "A m"],
    category: Int64[Tensor, " A"],
    instance: Int64[Tensor, " A"],
    active: Bool[Tensor, " A"],
    keys: KeySet,
    *,
    negatives: Count,
    tau: float,
    negative: str = "hard",
    others_only: bool = False,
    bank: KeySet | None = None,
    person: Int64[Tensor, " A"] | None = None,
    key: int = 0,
) -> Float[Tensor, ""]:
    """Mean of L_i over the queries of a category, then over the categories; arguments as :func:`consistency_sums`."""
    sums, counts = consistency_sums(
        query,
        category,
        instance,
        active,
        keys,
        negatives=negatives,
        tau=tau,
        negative=negative,
        others_only=others_only,
        bank=bank,
        person=person,
        key=key,
    )
    return mean_of_categories(sums, counts)


def mean_of_categories(sums: Float[Tensor, " C"], counts: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """Mean over the queries of a category, then over categories that have any; a zero with a gradient when none has."""
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def consistency_sums(
    query: Float[Tensor, "A m"],
    category: Int64[Tensor, " A"],
    instance: Int64[Tensor, " A"],
    active: Bool[Tensor, " A"],
    keys: KeySet,
    *,
    negatives: Count,
    tau: float,
    negative: str = "hard",
    others_only: bool = False,
    bank: KeySet | None = None,
    person: Int64[Tensor, " A"] | None = None,
    key: int = 0,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Per category, the sum of L_i and the number of queries with at least one positive and one negative.

    Candidates are ``keys``, which may carry gradient, and ``bank``, which receives none. ``negatives`` is Hn, chosen
    ``hard | random | all`` per query (METHOD 2.9, 2.10; random draws from ``key``); ``others_only`` also keeps the
    query's own person out of them. Who owns a token is told by ``instance``, which may be the photo's id; random draws
    are for the ``person``, who is the owner if not given. In fp32, or fp64 for an fp64 query, whatever the autocast.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    stored = [keys] if bank is None else [keys, bank]
    with torch.autocast(query.device.type, enabled=False):
        query = query.to(wide)
        chosen = choose_negatives(
            negative,
            negatives,
            query.detach(),
            category,
            instance,
            stored,
            others_only=others_only,
            person=instance if person is None else person,
            key=key,
        )
        own = category[:, None] == torch.arange(chosen.shape[1], device=query.device)
        each, usable = _Consistency.apply(  # type: ignore[no-untyped-call]
            query,
            keys.features.to(wide),
            None if bank is None else bank.features.detach().to(wide),
            torch.cat([k.valid for k in stored], 1),
            torch.cat([k.instance for k in stored], 1),
            instance,
            own & active[:, None],
            chosen & active[:, None],
            tau,
            others_only,
        )
        by_category = own.to(wide)  # a product with the one-hot matrix: deterministic on a GPU, unlike index_add
        return each @ by_category, usable.to(wide) @ by_category


class _Consistency(torch.autograd.Function):
    """L_i of every query, with its gradient in closed form.

    With w_p = sigmoid(logZ - s_p), Z = sum_n e^{s_n} and softmax weights r_n = e^{s_n} / Z::

        tau * |P| * dL_i/dq = (sum_p w_p) sum_n r_n k_n - sum_p w_p k_p

    Both sums are collected during the forward pass with a running maximum, so that no matrix of similarities outlives
    its tile. The backward pass recomputes similarities to the keys of this step only (the bank needs no gradient).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # [A, m]
        live: Tensor,  # [C, G, m]
        bank: Tensor | None,  # [C, S, m]
        valid: Tensor,  # [C, G + S]
        owner: Tensor,  # [C, G + S]
        instance: Tensor,  # [A]
        own: Tensor,  # [A, C] the query's category
        chosen: Tensor,  # [A, C] its negative categories
        tau: float,
        others_only: bool,
    ) -> tuple[Tensor, Tensor]:
        peak = query.new_full((len(query),), -1 / tau)  # a cosine's least: finite, so that exp(-inf - peak) is 0
        z = torch.zeros_like(peak)
        pull = torch.zeros_like(query)  # sum_n e^{s_n - peak} k_n
        for rows, classes in _tiles(chosen, valid.shape[1]):
            q, k = query.index_select(0, rows), _keys(live, bank, classes)
            mask = _negative_mask(chosen, valid, owner, instance, others_only, rows, classes)
            s = torch.addmm(torch.where(mask, 0.0, -torch.inf).to(q.dtype), q, k.T, alpha=1 / tau)
            old = peak.index_select(0, rows)
            top = torch.maximum(old, s.amax(1))
            shrink = old.sub_(top).exp_()
            s.sub_(top[:, None]).exp_()
            z.index_copy_(0, rows, torch.addcmul(s.sum(1), z.index_select(0, rows), shrink))
            pull.index_copy_(0, rows, pull.index_select(0, rows).mul_(shrink[:, None]).addmm_(s, k))
            peak.index_copy_(0, rows, top)
        log_z = peak + z.log()  # -inf without negatives

        positives, error, weight = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
        push = torch.zeros_like(query)  # sum_p w_p k_p
        for rows, classes in _tiles(own, valid.shape[1]):
            q, k = query.index_select(0, rows), _keys(live, bank, classes)
            mask = _positive_mask(own, valid, owner, instance, rows, classes)
            bias = torch.where(mask, log_z.index_select(0, rows)[:, None], -torch.inf)
            t = torch.addmm(bias, q, k.T, alpha=-1 / tau)
            positives.index_copy_(0, rows, mask.sum(1).to(q.dtype))
            error.index_copy_(0, rows, F.softplus(t).sum(1))
            w = t.sigmoid_()
            weight.index_copy_(0, rows, w.sum(1))
            push.index_copy_(0, rows, w @ k)

        usable = (positives > 0) & (z > 0)
        each = torch.where(usable, error / positives.clamp(min=1), 0.0)
        scale = torch.where(usable, 1 / (positives.clamp(min=1) * tau), 0.0)
        mean_negative = pull.mul_(torch.where(usable, weight / z, 0.0)[:, None])
        slope = mean_negative.sub_(push).mul_(scale[:, None])
        ctx.save_for_backward(query, live, valid, owner, instance, own, chosen, log_z, weight, scale, slope)
        ctx.tau, ctx.others_only = tau, others_only
        ctx.mark_non_differentiable(usable)
        return each, usable

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, live, valid, owner, instance, own, chosen, log_z, weight, scale, slope = ctx.saved_tensors
        to_query = slope * grad[:, None] if ctx.needs_input_grad[0] else None
        to_live = None
        if ctx.needs_input_grad[1]:
            with torch.autocast(query.device.type, enabled=False):
                to_live = torch.zeros_like(live)
                valid, owner = valid[:, : live.shape[1]], owner[:, : live.shape[1]]
                pushed = query * (grad * scale)[:, None]  # scale is 0 for a query that does not count
                pulled = pushed * weight[:, None]
                for rows, classes in _tiles(chosen, live.shape[1]):
                    q, k = query.index_select(0, rows), live[classes].flatten(0, 1)
                    mask = _negative_mask(chosen, valid, owner, instance, ctx.others_only, rows, classes)
                    bias = torch.where(mask, -log_z.index_select(0, rows)[:, None], -torch.inf)
                    r = torch.addmm(bias, q, k.T, alpha=1 / ctx.tau).exp_()
                    to_live[classes] += (r.T @ pulled.index_select(0, rows)).view_as(to_live[classes])
                for rows, classes in _tiles(own, live.shape[1]):
                    q, k = query.index_select(0, rows), live[classes].flatten(0, 1)
                    mask = _positive_mask(own, valid, owner, instance, rows, classes)
                    bias = torch.where(mask, log_z.index_select(0, rows)[:, None], -torch.inf)
                    w = torch.addmm(bias, q, k.T, alpha=-1 / ctx.tau).sigmoid_()
                    to_live[classes] -= (w.T @ pushed.index_select(0, rows)).view_as(to_live[classes])
        return to_query, to_live, None, None, None, None, None, None, None, None


def _tiles(member: Tensor, width: int) -> Iterator[tuple[Tensor, slice]]:
    """Rows by classes that cover every (row, class) of ``member`` [A, C]; each class has ``width`` candidates.

    A CPU takes one class at a time with just the rows that belong to it: the fewest operations. An accelerator takes
    all classes at once and masks: the fewest launches, static shapes, no synchronisation with the host.
    """
    rows_total, classes_total = member.shape
    if _by_class(member.device):
        for c in range(classes_total):
            rows = member[:, c].nonzero().squeeze(1)
            if len(rows):
                yield rows, slice(c, c + 1)
    else:
        step = max(1, TILE // (classes_total * width))
        for rows in torch.split(torch.arange(rows_total, device=member.device), step):
            yield rows, slice(0, classes_total)


def _by_class(device: torch.device) -> bool:
    return device.type == "cpu"


def _keys(live: Tensor, bank: Tensor | None, classes: slice) -> Tensor:
    if bank is None:
        return live[classes].flatten(0, 1)
    return torch.cat([live[classes], bank[classes]], 1).flatten(0, 1)


def _negative_mask(
    chosen: Tensor, valid: Tensor, owner: Tensor, instance: Tensor, others_only: bool, rows: Tensor, classes: slice
) -> Tensor:
    """[rows or 1, classes * S]: one row where all rows of the tile share it."""
    mask = valid[None, classes]
    if classes.stop - classes.start > 1:
        mask = mask & chosen.index_select(0, rows)[..., None]
    if others_only:
        mask = mask & (owner[classes] != instance.index_select(0, rows)[:, None, None])
    return mask.flatten(1)


def _positive_mask(own: Tensor, valid: Tensor, owner: Tensor, instance: Tensor, rows: Tensor, classes: slice) -> Tensor:
    mask = valid[classes] & (owner[classes] != instance.index_select(0, rows)[:, None, None])
    if classes.stop - classes.start > 1:
        mask = mask & own.index_select(0, rows)[..., None]
    return mask.flatten(1)
