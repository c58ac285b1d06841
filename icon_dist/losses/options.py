"""The options of :class:`icon_dist.losses.icon.IconLoss`, and the checks of its arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import SupportsIndex

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from icon_dist.errors import shown
from icon_dist.losses.sampling import Draw
from icon_dist.types import Pixels

STRATEGIES = ("hard", "random", "all")


@dataclass(frozen=True)
class Term:
    """Weight and sampling of one of the two terms (paper Table 7); counts above what there is are clipped to it."""

    weight: float
    query: str = "hard"  # hard | random | all: which categories of an instance are queries
    queries: int = 5  # Q of them
    queries_to: int = 0  # random only: Q is drawn for each instance from queries .. queries_to; 0 = always queries
    negative: str = "hard"  # hard | random | all: which other categories negatives come from
    negatives: int = 6  # Hn of them
    negatives_to: int = 0  # random only: the same for Hn
    category_score: str = "mean"  # mean | max: cosine to a category's keys, by which hard negatives are ranked

    def draws(self, query_key: int | Int64[Tensor, ""], negative_key: int | Int64[Tensor, ""]) -> tuple[Draw, Draw]:
        """How query categories and negative categories are drawn, with the keys of their random numbers."""
        return (
            Draw(self.query, (self.queries, max(self.queries, self.queries_to)), query_key),
            Draw(self.negative, (self.negatives, max(self.negatives, self.negatives_to)), negative_key),
        )


SKCC = Term(0.3)  # as in the paper: hard queries, hard negatives
PRCC = Term(0.7, query="all", queries=8, negatives=4)


@dataclass(frozen=True)
class Bank:
    """The memory bank of a term, and what its ranks send each other."""

    slots: int = 512  # per category; 0 = no bank
    warmup: int = 1000  # steps after its first one before it is used
    budget: int = 0  # instances sent per call by all ranks together; 0 = all of them
    exchange: str = "sync"  # sync | async: keys of other ranks arrive one step later, without waiting
    wire: str = "fp32"  # fp32 | bf16: number format of the exchange


@dataclass(frozen=True)
class Options:
    """Where tokens are read, and which of them are compared."""

    stride: int = 4  # input px per px of the embedding map
    origin: float = 0.0  # input px of its first px: the center of what that px sees, 5.5 for ViTPose's patches
    points: int = 16  # read around each joint; 1 = the joint alone
    heatmap_stride: int = 4  # of the pixels around a joint, input px
    sigma: float = 2.0  # they are those whose Gaussian of this width, in heatmap px, is at least .5
    read: str = "bilinear"  # bilinear | nearest
    contrast: str = "inter"  # inter | intra: with other instances, or within one and without a bank (paper Table 5)
    negatives_from_others: bool = False  # negatives never from the query's own instance
    entropy: str = "heatmap"  # heatmap | peak: uncertainty of a joint, by which queries are hard
    query_scope: str = "person"  # person | batch: Q queries of each person, or N Q of a micro-batch of N
    max_queries: int = 0  # per category, rank and call (paper Table 8); 0 = no limit
    max_negatives: int = 0  # keys per negative category that a query is compared with (paper Table 8); 0 = all
    products: str = "fp32"  # fp32 | bf16: of queries and keys; sums are fp32. bf16 is for GPUs
    seed: int = 0  # of all random numbers


CHOICES = {
    "query": STRATEGIES,
    "negative": STRATEGIES,
    "category_score": ("mean", "max"),
    "exchange": ("sync", "async"),
    "wire": ("fp32", "bf16"),
    "read": ("bilinear", "nearest"),
    "contrast": ("inter", "intra"),
    "entropy": ("heatmap", "peak"),
    "query_scope": ("person", "batch"),
    "products": ("fp32", "bf16"),
}
KINDS = {"int": Integral, "float": Real, "str": str, "bool": bool}  # of fields, by their annotation
WORDS = {"int": "a whole number", "float": "a number", "str": "a word", "bool": "True or False"}
AT_LEAST_ONE = ("queries", "negatives", "stride", "points", "heatmap_stride")


@dataclass(frozen=True)
class Inputs:
    """A batch as it is given to the loss: N instances, K joints, m = ``dim``."""

    embedding: Float[Tensor, "N m _ _"]  # of any norm
    joints: Float[Tensor, "N K 2"]  # xy, input px
    visible: Bool[Tensor, "N K"]
    instance_id: Int[Tensor, " N"]  # an instance may come back: its tokens are never each other's positives
    heatmaps: Float[Tensor, "N K h w"] | None = None
    errors: Float[Tensor, "N K"] | None = None
    image_id: Int[Tensor, " N"] | None = None
    pixels: Pixels | None = None  # that the embedding is of


LAYOUT = {  # of the inputs; letters that are no number may be any size
    "embedding": ("floating", ("N", "dim", "h", "w")),
    "joints": ("floating", ("N", "num_joints", "2")),
    "visible": ("bool", ("N", "num_joints")),
    "instance_id": ("integer", ("N",)),
    "heatmaps": ("floating", ("N", "num_joints", "h", "w")),
    "errors": ("floating", ("N", "num_joints")),
    "image_id": ("integer", ("N",)),
}


def check_settings(
    terms: dict[str, Term],
    bank: Bank,
    options: Options,
    *,
    num_joints: int,
    limbs: Sequence[tuple[int, ...]],
    dim: int,
    tau: float,
) -> None:
    """ValueError, in one line, of all that no loss can be made of."""
    if not isinstance(options, Options):
        raise ValueError(f"IconLoss: options={shown(options)}: give an Options(...)")
    sections: tuple[Term | Bank | Options, ...] = (*terms.values(), bank, options)
    _refuse(_wrong_kinds(sections, {"num_joints": (num_joints, "int"), "dim": (dim, "int"), "tau": (tau, "float")}))
    wrong = (fault for section in sections for fault in _wrong_options(section))
    _refuse([*_wrong_skeleton(num_joints, limbs), *_wrong_numbers(dim, tau, terms, len(limbs)), *wrong])


def pairs_of(limbs: Iterable[Iterable[SupportsIndex]]) -> list[tuple[int, ...]]:
    """Limbs as whole numbers, of whatever sequence or tensor they are given in; ValueError for anything else."""
    try:
        return [tuple(map(operator.index, limb)) for limb in limbs]
    except TypeError:
        raise ValueError("IconLoss: limbs: give pairs of joint numbers, such as ((5, 7), (7, 9))") from None


def check_inputs(inputs: Inputs, *, num_joints: int, dim: int, hard: bool) -> None:
    """ValueError, in one line, of all shapes, types and devices that do not fit; no value is read.

    ``hard``: whether queries are chosen by heatmaps and errors.
    """
    sizes = {"num_joints": num_joints, "dim": dim, "2": 2}
    _refuse(_wrong_inputs(inputs, sizes, hard=hard))


def _refuse(faults: Iterable[str]) -> None:
    if found := list(faults):
        raise ValueError(f"IconLoss: {'; '.join(found)}")


def _wrong_kinds(sections: Iterable[Term | Bank | Options], numbers: dict[str, tuple[object, str]]) -> Iterator[str]:
    for section in sections:
        name = type(section).__name__
        numbers |= {f"{name}.{f.name}": (getattr(section, f.name), str(f.type)) for f in fields(section)}
        for where, (value, kind) in numbers.items():
            if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
                yield f"{where}={shown(value)}: expected {WORDS[kind]}"
        numbers = {}


def _wrong_skeleton(num_joints: int, limbs: Sequence[tuple[int, ...]]) -> Iterator[str]:
    if num_joints < 2:
        yield f"num_joints={num_joints}: contrast compares joints with one another; give 2 or more"
    order = len(limbs[0]) if limbs and len(limbs[0]) in (3, 4) else 2  # all as long as the first one
    for limb in limbs:
        if len(limb) != order or len(set(limb)) != order or not all(0 <= end < num_joints for end in limb):
            what = "pair of two" if order == 2 else f"chain of {order} different"
            yield f"limbs: {limb} is no {what} joints from 0 to {num_joints - 1}"


def _wrong_numbers(dim: int, tau: float, terms: dict[str, Term], limbs: int) -> Iterator[str]:
    if dim < 1:
        yield f"dim={dim}: give the number of channels of the embedding"
    if not 0 < tau < math.inf:
        yield f"tau={tau}: give a temperature above 0, such as 0.07"
    weights = {name: term.weight for name, term in terms.items()}
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            yield f"{name}={weight}: give a weight of 0 or more"
    if not any(weights.values()):
        yield "skcc=0 and prcc=0: give one of them a weight"
    if weights["prcc"] and limbs < 2:
        yield f"prcc={weights['prcc']}: compares limbs with one another; give 2 or more, or prcc=0"


def _wrong_options(section: Term | Bank | Options) -> Iterator[str]:
    for name, value in vars(section).items():
        where = f"{type(section).__name__}.{name}={value!r}"
        if name in CHOICES:
            if value not in CHOICES[name]:
                yield f"{where}: expected one of {', '.join(CHOICES[name])}"
        elif name != "weight" and value < (least := int(name in AT_LEAST_ONE)):
            yield f"{where}: expected {least} or more"


def _wrong_inputs(inputs: Inputs, sizes: dict[str, int], *, hard: bool) -> Iterator[str]:
    device: torch.device | None = None  # the embedding's
    for name, (kind, dims) in LAYOUT.items():
        x = getattr(inputs, name)
        if x is None and name in ("heatmaps", "errors", "image_id"):
            if hard and name in ("heatmaps", "errors"):
                yield f"hard queries are chosen by {name}; give {name}=, or a Term whose query is random or all"
            continue
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            yield f"{name} is {x.layout if isinstance(x, Tensor) else type(x).__name__}, expected a dense tensor"
            continue
        if kind == "bool" and x.dtype != torch.bool:
            yield f"{name} is {x.dtype}, expected torch.bool; write {name} > 0"
        if (kind == "floating" and not x.is_floating_point()) or (kind == "integer" and not _is_integer(x)):
            yield f"{name} is {x.dtype}, expected {'a floating' if kind == 'floating' else 'an integer'} type"
        if x.ndim == len(dims) and "N" not in sizes:
            sizes["N"] = len(x)  # the embedding's
        wanted = [sizes.get(size, 1) for size in dims]
        fits = len(wanted) == x.ndim and all(
            have == want if size in sizes else have >= 1 for have, want, size in zip(x.shape, wanted, dims, strict=True)
        )
        if not fits or (name == "embedding" and len(x) == 0):
            known = [f"{size}={sizes[size]}" for size in dims if size in sizes and size != "2"]
            yield f"{name} is {list(x.shape)}, expected [{', '.join(dims)}] with {', '.join(known) or 'N >= 1'}"
        device = device or x.device
        if x.device != device:
            yield f"{name} is on {x.device}, the embedding on {device}"
    if inputs.pixels is not None and isinstance(inputs.embedding, Tensor):
        yield from _wrong_pixels(inputs.pixels, list(inputs.embedding.shape))


def _wrong_pixels(pixels: Pixels, have: list[int]) -> Iterator[str]:
    """``have`` is the shape of the embedding."""
    if not isinstance(pixels, Pixels):
        yield f"pixels is {type(pixels).__name__}, expected what IconLoss.pixels returns"
    elif have[:1] + have[2:] != [len(pixels.place), 1, pixels.place.shape[1]]:
        yield f"embedding is {have}, expected [N, dim, 1, pixels] at pixels of {list(pixels.place.shape)}"


def _is_integer(x: Tensor) -> bool:
    return x.dtype != torch.bool and not x.is_floating_point() and not x.is_complex()
