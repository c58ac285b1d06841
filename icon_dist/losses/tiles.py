"""Products of queries with the candidates of only those categories that each is compared with.

A tile is some queries and the (query, category) pairs in question. A CPU makes one product per category of just the
pairs that are in it: the fewest operations. An accelerator makes one of all queries with all categories, where pairs
that nobody asked for have to be masked: the fewest launches, static shapes, no synchronisation with the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# A private operator: without it, torch's own product serves.
ONEDNN: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
ROUND = 16  # rows of a product, so that few kernels do for all
HELD = {"cpu": 1 << 22}  # similarities held at once, by device type
HELD_ELSEWHERE = 1 << 24
GPU_SHARE = 10  # bits: on a GPU one for 1024 bytes of its memory, so that a large one needs few launches


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
        return x.new_zeros(self._rows).index_add_(0, self.row, x)

    def row_max(self, x: Tensor) -> Tensor:
        return x.new_full((self._rows,), -torch.inf).scatter_reduce_(0, self.row, x, "amax")


class Dense:
    """All pairs, by query."""

    def __init__(self, member: Tensor) -> None:  # [rows, C]
        self._shape = rows, categories = member.shape
        self.row = torch.arange(rows, device=member.device).repeat_interleave(categories)
        self.category = torch.arange(categories, device=member.device).repeat(rows)

    def pairs_with(self, category: Tensor) -> Tensor:
        return torch.arange(len(category), device=category.device) * self._shape[1] + category

    def similarities(self, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        return torch.addmm(bias.flatten(), query, keys.flatten(0, 1).T).view(-1, keys.shape[1])

    def to_queries(self, slopes: Tensor, keys: Tensor) -> Tensor:
        return slopes.view(self._shape[0], -1) @ keys.flatten(0, 1)

    def add_to_keys(self, keys: Tensor, slopes: Tensor, query: Tensor) -> None:
        keys.flatten(0, 1).addmm_(slopes.view(self._shape[0], -1).T, query)

    def row_sum(self, x: Tensor) -> Tensor:
        return x.view(self._shape).sum(1)

    def row_max(self, x: Tensor) -> Tensor:
        return x.view(self._shape).amax(1)


def tiles(member: Tensor, *, width: int) -> Iterator[tuple[slice, Grouped | Dense]]:
    """Rows of ``member`` [A, C] that go together, each category having ``width`` candidates."""
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
    if a.dtype == torch.float32 and ONEDNN is not None and end <= len(a):
        return ONEDNN(a[span.start : end], b.T, bias, "none", [], "")[:rows]
    return a[span] @ b if bias is None else torch.addmm(bias, a[span], b)


def grouped(device: torch.device) -> bool:
    return device.type == "cpu"
