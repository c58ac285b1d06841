"""What tells whether contrast works: METHOD 1, the loss-scale and the collapse trap. Computed on logging steps only."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.distributed import sum_over_ranks
from icon_dist.types import KeySet, Outputs

MAX_PEOPLE = 256  # whose tokens are compared with one another for the purity


def mean_cosine(features: Float[Tensor, "G C m"], visible: Bool[Tensor, "G C"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different visible tokens; 1 = collapsed, 0 with fewer than two tokens."""
    n = visible.sum()
    total = (features * visible[..., None]).sum((0, 1))
    own = (features.square().sum(-1) * visible).sum()
    return (total.square().sum() - own) / (n * (n - 1)).clamp(min=1)


def purity(
    features: Float[Tensor, "G C m"], visible: Bool[Tensor, "G C"], instance: Int64[Tensor, " G"]
) -> Float[Tensor, ""]:
    """Share of visible tokens whose nearest visible token of *another person* has their category.

    Among the first 256 people; chance is about 1 / C.
    """
    features, visible, instance = features[:MAX_PEOPLE], visible[:MAX_PEOPLE], instance[:MAX_PEOPLE]
    people, classes = visible.shape
    flat, seen = features.reshape(people * classes, -1), visible.reshape(-1)
    person = instance.repeat_interleave(classes)
    category = torch.arange(classes, device=flat.device).repeat(people)
    candidate = seen & (person[:, None] != person)
    nearest = (flat @ flat.T).masked_fill(~candidate, -torch.inf).argmax(1)
    counted = seen & candidate.any(1)
    return (counted & (category[nearest] == category)).sum() / counted.sum().clamp(min=1)


def chance_loss(stored: list[KeySet], *, categories: float, most: int = 0) -> Float[Tensor, ""]:
    """Loss of a query to which all candidates look alike: log(1 + number of negatives).

    It has ``categories`` negative categories (fewer where fewer are populated), each with their mean number of
    candidates, of which it is compared with ``most`` in a category; 0 = all.
    """
    number = torch.stack([k.valid.sum(1) for k in stored]).sum(0)
    number = number.clamp(max=most) if most else number
    populated = (number > 0).sum()
    taken = (populated - 1).clamp(min=0, max=categories)
    return torch.log1p(taken * number.sum() / populated.clamp(min=1))


def measure(
    features: Float[Tensor, "G C m"], visible: Bool[Tensor, "G C"], instance: Int64[Tensor, " G"]
) -> dict[str, Tensor]:
    """Health of one term's gathered embeddings; the same on all ranks."""
    features = features.detach()
    return {"cosine": mean_cosine(features, visible), "purity": purity(features, visible, instance)}


def watch_gradients(outputs: Outputs) -> None:
    """Keep, in the coming backward pass, the gradients that :func:`gradient_ratio` compares."""
    for tensor in (outputs.feature, outputs.tap):
        if tensor is not None:
            tensor.retain_grad()


def gradient_ratio(outputs: Outputs) -> Float[Tensor, ""] | None:
    """``||grad contrast|| / ||grad heatmap||`` on the encoder map, over all ranks; after backward, on all ranks.

    ``tap`` carries the contrastive gradient alone and ``feature`` the sum, so that the ordinary backward pass gives
    both: no second pass, which the hooks of ZeRO-3 would not survive. None for a model that hides the two (a compiled
    graph keeps its inner gradients to itself).
    """
    if outputs.feature is None or outputs.feature.grad is None or outputs.tap is None or outputs.tap.grad is None:
        return None
    contrast = outputs.tap.grad.float()
    heatmap = outputs.feature.grad.float() - contrast
    squares = sum_over_ranks(torch.stack([contrast.square().sum(), heatmap.square().sum()]))
    return torch.where(squares[0] == 0, 0.0, (squares[0] / squares[1]).sqrt())  # no contrast: 0, even over 0


def collapsed(scalars: dict[str, float]) -> bool:
    """Whether a term, of any net, sits in the lazy optimum: embeddings all alike, the loss at the log of the number of
    negatives."""
    cosines = {name.removesuffix("_cosine"): value for name, value in scalars.items() if name.endswith("_cosine")}
    return any(cosine > 0.9 and scalars.get(f"{term}_over_chance", 0) > 0.95 for term, cosine in cosines.items())
