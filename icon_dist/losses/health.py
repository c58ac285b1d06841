"""What tells whether contrast works (docs/loss.md#what-to-watch). Computed on logging steps only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from icon_dist.distributed import sum_over_ranks
from icon_dist.types import KeySet, Outputs

MAX_INSTANCES = 256  # whose tokens are compared with one another for the purity


@dataclass(frozen=True)
class Health:
    """How one term of the loss does at one step; all but ``loss`` are the same on ranks that gathered the same."""

    loss: Float[Tensor, ""]  # the term; its mean over ranks is the loss of the joined batch
    chance: Float[Tensor, ""]  # what the loss would be if all embeddings were alike
    cosine: Float[Tensor, ""]  # mean over pairs of tokens; near 1 = collapsed
    purity: Float[Tensor, ""]  # share of tokens whose nearest one of another instance has their category
    bank_fill: Float[Tensor, ""] | None = None  # share of the bank's slots that hold something
    bank_age: Float[Tensor, ""] | None = None  # their mean age, steps

    def scalars(self, loss: float) -> dict[str, float]:
        """All numbers to log by name; ``loss`` is the mean of ``self.loss`` over ranks. Waits for the device."""
        found = {"chance": self.chance, "cosine": self.cosine, "purity": self.purity}
        if self.bank_fill is not None and self.bank_age is not None:
            found |= {"bank_fill": self.bank_fill, "bank_age": self.bank_age}
        numbers = {name: value.item() for name, value in found.items()}
        return numbers | ({"over_chance": loss / numbers["chance"]} if numbers["chance"] else {})


def mean_cosine(features: Float[Tensor, "G C m"], visible: Bool[Tensor, "G C"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different visible tokens; 1 = collapsed, 0 with fewer than two tokens."""
    n = visible.sum()
    total = (features * visible[..., None]).sum((0, 1))
    own = (features.square().sum(-1) * visible).sum()
    return (total.square().sum() - own) / (n * (n - 1)).clamp(min=1)


def purity(
    features: Float[Tensor, "G C m"], visible: Bool[Tensor, "G C"], instance: Int64[Tensor, " G"]
) -> Float[Tensor, ""]:
    """Share of visible tokens whose nearest visible token of *another instance* has their category.

    Among the first 256 instances; chance is about 1 / C.
    """
    features, visible, instance = features[:MAX_INSTANCES], visible[:MAX_INSTANCES], instance[:MAX_INSTANCES]
    rows, classes = visible.shape
    flat, present = features.reshape(rows * classes, -1), visible.reshape(-1)
    owner = instance.repeat_interleave(classes)
    category = torch.arange(classes, device=flat.device).repeat(rows)
    other = present & (owner[:, None] != owner)
    nearest = (flat @ flat.T).masked_fill(~other, -torch.inf).argmax(1)
    counted = present & other.any(1)
    return (counted & (category[nearest] == category)).sum() / counted.sum().clamp(min=1)


def chance_loss(stored: list[KeySet], *, categories: float, most: int = 0) -> Float[Tensor, ""]:
    """Loss of a query to which all keys look alike: log(1 + number of negatives).

    It has ``categories`` negative categories (fewer where fewer are populated), each with their mean number of keys, of
    which it is compared with ``most`` in a category; 0 = all.
    """
    number = torch.stack([k.valid.sum(1) for k in stored]).sum(0)
    number = number.clamp(max=most) if most else number
    populated = (number > 0).sum()
    taken = (populated - 1).clamp(min=0, max=categories)
    return torch.log1p(taken * number.sum() / populated.clamp(min=1))


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
    """Whether a term, of any network, has collapsed: its embeddings all alike, its loss at the log of the number of
    negatives. ``scalars`` are what the trainer logs: ``skcc_cosine``, ``skcc_over_chance`` and so on."""
    cosines = {name.removesuffix("_cosine"): value for name, value in scalars.items() if name.endswith("_cosine")}
    return any(cosine > 0.9 and scalars.get(f"{term}_over_chance", 0) > 0.95 for term, cosine in cosines.items())
