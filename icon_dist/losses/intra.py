"""Intra-image contrast, the alternative in the paper's Table 5: Eq. 1 with the tokens of one instance.

Positives are the other points of the query's joint on the same instance, negatives the points of that instance's other
joints. There is no bank and nothing to gather: ranks share the counts of queries only. In point mode, where a joint
has no other point, the query is its own positive and the loss just pushes the joints of an instance apart.

An instance has few points, so all their cosines are held at once and differentiated by autograd.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from icon_dist.losses.sampling import Negatives, choose_categories


def intra_sums(
    features: Float[Tensor, "N C T m"],
    active: Bool[Tensor, "N C T"],
    is_query: Bool[Tensor, "N C T"],
    instance: Int64[Tensor, " N"],
    *,
    negatives: Negatives,
    tau: float,
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Per category, the sum of L_i and the number of queries with at least one positive and one negative.

    ``active`` tokens are keys, those with ``is_query`` are queries. Of ``negatives``, owner and number are given here.
    As :func:`icon_dist.losses.info_nce.info_nce_sums` between instances.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        cosine = torch.einsum("nctm,ndum->nctdu", features, features)  # of query (c, t) and key (d, u)
        negative = _negative_categories(cosine.detach(), active, instance, negatives)
        is_negative = negative[..., None] & active[:, None, None]
        is_positive = _others(active)
        usable = is_query & is_negative.any((3, 4)) & is_positive.any(3)
        # Queries that do not count keep their numbers, and so their gradients, finite.
        kept = is_negative | ~usable[..., None, None]
        log_z = (cosine / tau).masked_fill(~kept, -torch.inf).flatten(3).logsumexp(3)
        own = torch.einsum("nctcu->nctu", cosine) / tau
        each = (F.softplus(log_z[..., None] - own) * is_positive).sum(3) / is_positive.sum(3).clamp(min=1)
        return torch.where(usable, each, 0.0).sum((0, 2)), usable.sum((0, 2)).to(each.dtype)


def _negative_categories(
    cosine: Float[Tensor, "N C T C T"],
    active: Bool[Tensor, "N C T"],
    instance: Int64[Tensor, " N"],
    negatives: Negatives,
) -> Bool[Tensor, "N C T C"]:
    """For each query, its negative categories."""
    keys = active[:, None, None]
    if negatives.score == "max":
        score = cosine.masked_fill(~keys, -torch.inf).amax(4)
    else:
        score = (cosine * keys).sum(4) / active.sum(2)[:, None, None].clamp(min=1)
    category = torch.arange(active.shape[1], device=active.device)
    allowed = (active.any(2)[:, None] & (category[:, None] != category))[:, :, None].expand(score.shape)
    chosen = choose_categories(
        negatives.draw,
        score.flatten(0, 2),
        allowed.flatten(0, 2),
        category[:, None].expand(active.shape).flatten(),
        instance[:, None, None].expand(active.shape).flatten(),
    )
    return chosen.view(score.shape)


def _others(active: Bool[Tensor, "N C T"]) -> Bool[Tensor, "N C T T"]:
    """The positives of each point: the other active points of its joint, or itself where a joint has one point."""
    points = active.shape[2]
    other = ~torch.eye(points, dtype=torch.bool, device=active.device)
    return active[:, :, None] & (other if points > 1 else ~other)
