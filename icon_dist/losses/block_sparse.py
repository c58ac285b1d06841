"""Which queries meet which categories, sorted by category, so that products are made of these pairs only.

A part is some of the pairs. It compares queries [A, m] with the keys [C, S, m] of its pairs' categories: similarities
have a row for each of its pairs, and ``of_queries`` and ``of_keys`` lay beside them what belongs to queries and keys.
A CPU takes few pairs at a time, so that they stay in its cache. An accelerator takes all at once: static shapes, few
launches, no synchronization with the host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.tensors.torch_compat import bmm_of_bf16, linear_pointwise

ROUND = 16  # rows of a product, so that few kernels do for all
SPAN = 256  # pairs of a part on a CPU, at most
BLOCK = 128  # rows of a product on an accelerator


def processor() -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return lines.read(1024)
    except OSError:
        return ""


# MKL takes AMD's processors for ones of half their width: from Zen 5 (family 26) on that costs it half of its speed.
# On Zen 4 it takes nine tenths of oneDNN's time, on Intel three quarters.
of_amd = re.search(r"AuthenticAMD\s+cpu family\s*: (\d+)", processor())
onednn = linear_pointwise if of_amd and int(of_amd[1]) >= 26 else None


class Span:
    """Some pairs, and the places of each category among them; ``pairs`` are [n]."""

    def __init__(self, row: Tensor, category: Tensor, places: dict[int, slice]) -> None:
        self._row, self._category, self._places = row, category, places

    def of_queries(self, x: Tensor) -> Tensor:
        """[pairs, 1]: what x [A] has for each pair."""
        return x.index_select(0, self._row)[:, None]

    def of_keys(self, x: Tensor) -> Tensor:
        """[pairs, S], or [S] for pairs of one category: what x [C, S] has for the keys of each pair."""
        return x[next(iter(self._places))] if len(self._places) == 1 else x.index_select(0, self._category)

    def similarities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[pairs, S]: queries [A, m] times keys [C, S, m]."""
        return self._products(queries.index_select(0, self._row), keys.mT)

    def gather(self, total: Tensor, x: Tensor, *, largest: bool = False) -> None:
        """Add x [pairs, k] to total [A, k]; or, of k = 1, keep the largest."""
        if largest:
            total.scatter_reduce_(0, self._row[:, None], x, "amax")
        else:
            total.index_add_(0, self._row, x)

    def to_queries(self, total: Tensor, weights: Tensor, keys: Tensor) -> None:
        """Add to total [A, m] the keys [C, S, m] weighted by weights [pairs, S]."""
        total.index_add_(0, self._row, self._products(weights, keys))

    def to_keys(self, total: Tensor, weights: Tensor, queries: Tensor) -> None:
        """Add to total [C, S, m] the queries [A, m] weighted by weights [pairs, S]."""
        queries = queries.index_select(0, self._row)
        for category, place in self._places.items():
            total[category].addmm_(weights[place].T, queries[place])

    def _products(self, a: Tensor, b: Tensor) -> Tensor:
        out = a.new_empty(len(a), b.shape[2])
        if len(self._places) == 1:
            multiply(a, b[next(iter(self._places))], out=out)
            return out
        for category, place in self._places.items():
            multiply(a[place], b[category], out=out[place])
        return out


class Blocks:
    """All pairs, in blocks of one category each; what is left of a category's last block belongs to no pair.

    ``pairs`` are [blocks, rows]. With keys or queries in bf16, products are of bf16 and sums in fp32.
    """

    def __init__(self, member: Tensor, most: int) -> None:
        rows, categories = member.shape
        number = -(-rows * most // BLOCK) + categories  # one more than can be needed
        used = (member.sum(0) + BLOCK - 1) // BLOCK
        ends = used.cumsum(0)
        place = (ends - used) * BLOCK + member.cumsum(0) - 1
        place = torch.where(member, place, number * BLOCK - 1)  # of no pair: in the last block, which is free
        queries = torch.arange(rows, device=member.device)[:, None].expand_as(place)
        nobody = torch.full((number * BLOCK,), rows, device=member.device)
        self._row = nobody.scatter_(0, place.flatten(), queries.flatten())
        self._row[-1:].fill_(rows)
        self._category = torch.searchsorted(ends, torch.arange(number, device=ends.device), right=True)
        self._category.clamp_(max=categories - 1)
        self._place = place.sort(1).values[:, :most]  # [A, most]
        self._pair = (self._place < number * BLOCK - 1)[..., None]
        self._of_category = torch.arange(categories, device=ends.device)[:, None] == self._category

    def of_queries(self, x: Tensor) -> Tensor:
        """[pairs, 1]: what x [A] has for each pair."""
        return F.pad(x, (0, 1)).index_select(0, self._row).view(-1, BLOCK, 1)

    def of_keys(self, x: Tensor) -> Tensor:
        """[blocks, 1, S]: what x [C, S] has for the keys of each pair."""
        return x.index_select(0, self._category)[:, None]

    def similarities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[pairs, S]: queries [A, m] times keys [C, S, m]."""
        return product(self._queries(queries.to(keys.dtype)), keys.index_select(0, self._category).mT)

    def gather(self, total: Tensor, x: Tensor, *, largest: bool = False) -> None:
        """Add x [pairs, k] to total [A, k]; or, of k = 1, keep the largest."""
        found = x.flatten(0, 1)[self._place]
        if largest:
            torch.maximum(total, found.masked_fill(~self._pair, -torch.inf).amax(1), out=total)
        else:
            total.add_(found.mul_(self._pair).sum(1))

    def to_queries(self, total: Tensor, weights: Tensor, keys: Tensor) -> None:
        """Add to total [A, m] the keys [C, S, m] weighted by weights [pairs, S]."""
        found = product(weights.to(keys.dtype), keys.index_select(0, self._category)).flatten(0, 1)
        total.add_(torch.bmm(self._pair.mT.to(found), found[self._place])[:, 0])

    def to_keys(self, total: Tensor, weights: Tensor, queries: Tensor) -> None:
        """Add to total [C, S, m] the queries [A, m] weighted by weights [pairs, S]."""
        found = product(weights.mT.to(queries.dtype), self._queries(queries))  # [blocks, S, m]
        # A product with the one-hot matrix: deterministic on a GPU, unlike index_add.
        total.flatten(1).addmm_(self._of_category.to(found), found.flatten(1))

    def _queries(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 1)).index_select(0, self._row).view(-1, BLOCK, x.shape[1])


def parts(member: Tensor, *, most: int) -> Sequence[Span | Blocks]:
    """The pairs that ``member`` [A, C] names, ``most`` of a query."""
    return [Blocks(member, most)] if blocked(member.device) else spans(member)


def blocked(device: torch.device) -> bool:
    """Whether a device takes all pairs at once."""
    return device.type != "cpu"


def spans(member: Tensor) -> list[Span]:
    """The parts of a CPU: small categories together, large ones in several."""
    category, row = member.T.nonzero(as_tuple=True)
    ends = member.sum(0).cumsum(0).tolist()
    pieces = [
        (c, i, min(i + SPAN, end)) for c, (a, end) in enumerate(pairwise([0, *ends])) for i in range(a, end, SPAN)
    ]
    found: list[Span] = []
    first, places = 0, dict[int, slice]()
    for c, start, stop in pieces:
        if places and (c in places or stop - first > SPAN // 2):
            found.append(Span(row[first:start], category[first:start], places))
            first, places = start, {}
        places[c] = slice(start - first, stop - first)
    return [*found, Span(row[first:], category[first:], places)] if places else found


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of batches of matrices; in fp32 of bf16."""
    return bmm_of_bf16(a, b) if a.dtype == torch.bfloat16 else torch.bmm(a, b)


def multiply(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """``a @ b``, where it is faster by oneDNN, as compiled models do it.

    It makes a kernel for every new number of rows, which takes longer than a small product, and that number is another
    one in every step: so it gets a round one. ``b`` or its transpose must be contiguous, or oneDNN falls back on its
    reference kernel, a thousand times slower.
    """
    if onednn is None or a.dtype != torch.float32:
        torch.mm(a, b, out=out)
    else:
        rows = len(a)
        out.copy_(onednn(F.pad(a, (0, 0, 0, -rows % ROUND)), b.T, None, "none", [], "")[:rows])
