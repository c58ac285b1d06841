"""The sampler: who reads what, and in which order. All shuffling is here.

An epoch permutes the shards, concatenates their rows, turns the sequence by a random amount and cuts it into V equal
*virtual streams*. Every global batch takes B / V rows from each stream, in the order of the streams; rank r serves
the streams v with v % world == r. All of it is a pure function of (seed, epoch), so that any world size that divides
V sees the same global batches, and a position is (epoch, step). Inside a stream, blocks of neighboring rows change
places, and rows inside a block: S3 is read in ranges.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_dist.errors import ConfigError, DataError, plural
from icon_dist.rng import hashed

I64 = NDArray[np.int64]
MOST_STREAMS = 256
IN_BLOCKS = 8192  # rows in the current blocks of all streams together: what S3 readers hold in memory
LEAD = 16  # micro-batches between the request for a block and its first use
SHARD, TURN, BLOCK, ROW = range(4)  # what a random number of the plan is for


def default_streams(batch: int) -> int:
    """V: the largest divisor of the global batch up to 256."""
    return next(v for v in range(min(batch, MOST_STREAMS), 0, -1) if batch % v == 0)


def check_streams(*, batch: int, streams: int, world: int, micro_batch: int) -> None:
    """ConfigError unless V streams and ``world`` ranks divide a global batch."""
    if min(batch, streams, world, micro_batch) < 1:
        raise ConfigError(
            f"optim.batch={batch}, data.streams={streams}, run.workers={world}, optim.micro_batch={micro_batch}: "
            "must be at least 1"
        )
    if batch % streams:
        raise ConfigError(f"data.streams={streams}: does not divide optim.batch={batch}; use {default_streams(batch)}")
    if streams % world:
        fits = [w for w in range(1, streams + 1) if streams % w == 0]
        near = min(fits, key=lambda w: abs(w - world))
        text = f"does not divide data.streams={streams}; use {plural(near, 'worker')}"
        raise ConfigError(f"run.workers={world}: {text}")
    if batch % (world * micro_batch):
        raise ConfigError(
            f"optim.batch={batch}: not a multiple of run.workers={world} x optim.micro_batch={micro_batch}; "
            f"use optim.micro_batch={int(np.gcd(batch // world, micro_batch))}"
        )


@dataclass(frozen=True)
class EpochPlan:
    """The global batches of one epoch."""

    sequence: I64  # [n] rows as concatenated and turned; stream v is the v-th of V equal parts
    place: I64  # [steps, B] index into sequence, in canonical order: by stream, then by turn within the stream
    streams: int
    block: int

    @property
    def rows(self) -> I64:
        """``[steps, B]``"""
        return self.sequence[self.place]

    @property
    def dropped(self) -> I64:
        """Rows that this epoch leaves out: n mod B of them, others each time."""
        return self.sequence[self.place.size :]


def plan_epoch(shard_of_row: NDArray[np.int32], *, seed: int, epoch: int, streams: int, batch: int) -> EpochPlan:
    """The plan for rows of these shards."""
    n = len(shard_of_row)
    steps = n // batch
    if steps == 0:
        raise DataError(
            f"{plural(n, 'person')} in the shards: less than one batch of {batch}; lower optim.batch or add data"
        )
    sequence = np.argsort(hashed(seed, epoch, SHARD, shard_of_row), kind="stable")
    sequence = np.roll(sequence, int(hashed(seed, epoch, TURN)) % n)

    length = steps * (batch // streams)
    block = 1 << int(np.clip(IN_BLOCKS // streams, 32, 256)).bit_length() - 1
    stream = np.arange(streams)[:, None]
    at = np.arange(length)
    number = _staggered(stream, at, streams=streams, block=block) // block
    # one sort key: the upper half shuffles blocks, the lower half rows inside a block
    keys = hashed(seed, epoch, BLOCK, stream, number) & np.uint64(0xFFFFFFFF << 32)
    keys |= hashed(seed, epoch, ROW, stream, at) >> np.uint64(32)
    order = np.argsort(keys, axis=1, kind="stable") + stream * length
    place = order.reshape(streams, steps, -1).transpose(1, 0, 2).reshape(steps, batch)
    return EpochPlan(sequence=sequence, place=place, streams=streams, block=block)


def _staggered(stream: I64, at: I64, *, streams: int, block: int) -> I64:
    """Positions from which blocks are counted; shifted, so that streams do not all open a block at the same step."""
    return at + stream * block // streams


def rank_places(plan: EpochPlan, *, rank: int, world: int, micro_batch: int) -> I64:
    """Where in ``plan.sequence`` rank ``rank`` of ``world`` reads: ``[steps, accumulation, micro_batch]``."""
    steps, batch = plan.place.shape
    own = plan.place.reshape(steps, plan.streams // world, world, -1)[:, :, rank]
    return own.reshape(steps, batch // world // micro_batch, micro_batch)


def eval_rows(n: int, *, rank: int, world: int, batch: int) -> I64:
    """``[batches, batch]``, the same shape on every rank; -1 is padding."""
    batches = -(-n // (world * batch))
    rows = np.arange(batches * world * batch)
    rows[n:] = -1
    return rows.reshape(batches, world, batch)[:, rank]


def split_over_loaders(plan: EpochPlan, place: I64, *, world: int, loaders: int) -> tuple[I64, I64]:
    """(owner, unit) of the places of a rank: which loader cuts it, and the run of rows it is read with.

    Whole streams go to a loader, so that it reads every block once. Where they are too few for that to be even,
    each block is shared out in equal runs.
    """
    own = plan.streams // world
    parts = 1
    while own % loaders and own * parts < 4 * loaders and parts < plan.block:
        parts *= 2
    stream, at = np.divmod(place, plan.place.size // plan.streams)
    run = _staggered(stream, at, streams=plan.streams, block=plan.block) // (plan.block // parts)
    return (stream // world * parts + run % parts) % loaders, stream * (plan.place.size + 1) + run


def read_ahead(rows: I64, owner: I64, unit: I64) -> list[dict[int, I64]]:
    """What each loader should begin to read when a micro-batch is ordered: ``[T, N]`` to T times loader -> rows.

    Every unit is asked for LEAD micro-batches before its first use.
    """
    orders: list[dict[int, list[I64]]] = [{} for _ in rows]
    _, first, inverse = np.unique(unit.ravel(), return_index=True, return_inverse=True)
    members = np.split(np.argsort(inverse.ravel(), kind="stable"), np.cumsum(np.bincount(inverse.ravel()))[:-1])
    for index in np.argsort(first):
        used = rows.ravel()[members[index]]
        order = orders[max(0, first[index] // rows.shape[1] - LEAD)]
        order.setdefault(int(owner.ravel()[first[index]]), []).append(used[used >= 0])
    return [{loader: np.concatenate(parts) for loader, parts in order.items()} for order in orders]


@dataclass(frozen=True)
class Order:
    """Whose crops the micro-batches of one rank hold, all ``[T, N]``."""

    rows: I64  # of the shard set; -1 = padding
    epoch: I64  # in which each is seen
    owner: I64  # which loader cuts it
    unit: I64  # the run of neighboring rows that it is read with


@dataclass(frozen=True)
class Division:
    """How a global batch is cut into micro-batches of ranks."""

    batch: int  # global
    micro_batch: int  # of one rank
    rank: int = 0
    world: int = 1
    streams: int = 0  # 0 = default_streams


@dataclass(frozen=True)
class _Part:
    """Instances who take turns with one another only: so many of every global batch."""

    rows: I64  # of the shard set, ascending
    batch: int  # global
    micro_batch: int
    streams: int

    @property
    def steps(self) -> int:
        """Full global batches that the rows of this part fill in one epoch; the rest of the rows is left out."""
        return len(self.rows) // self.batch


class TrainSampler:
    """Who is in which micro-batch of one rank, as a pure function of the step.

    With ``unlabelled_share`` every micro-batch ends with so many instances that are not ``labelled``. An epoch is one
    of the labelled ones; the others go through epochs of their own, from step 0 of the run on. So the position is still
    the number of steps, and both kinds come exactly once in each of their epochs.
    """

    def __init__(
        self,
        shard: NDArray[np.int32],
        division: Division,
        *,
        seed: int,
        labelled: I64 | None = None,
        unlabelled_share: float = 0.0,
    ) -> None:
        """``shard [n]`` is the shard of every row; ``labelled`` are rows, None = all."""
        self._shard, self._seed, self._division = shard, seed, division
        known = np.ones(len(shard), dtype=bool) if labelled is None else np.isin(np.arange(len(shard)), labelled)
        others = round(division.batch * unlabelled_share)
        counts = ((known, division.batch - others), (~known, others))
        self._parts = [self._part(np.flatnonzero(who), count) for who, count in counts if count]
        for part in self._parts:
            self._plan(part, 0)  # too few instances: say so before any process starts

    def _part(self, rows: I64, count: int) -> _Part:
        division = self._division
        micro, rest = divmod(division.micro_batch * count, division.batch)
        assert not rest, "no whole number of instances of a micro-batch"
        streams = division.streams or default_streams(count)
        check_streams(batch=count, streams=streams, world=division.world, micro_batch=micro)
        return _Part(rows, count, micro, streams)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return self._parts[0].steps

    @property
    def accumulation(self) -> int:
        """Micro-batches in an optimizer step."""
        return self._division.batch // self._division.world // self._division.micro_batch

    @property
    def per_epoch(self) -> int:
        """Instances that this rank sees in an epoch, of both kinds."""
        return self.steps * self._division.batch // self._division.world

    def plan(self, epoch: int) -> EpochPlan:
        """The global batches of the labelled instances; its rows count them alone."""
        return self._plan(self._parts[0], epoch)

    def order(self, first: int, last: int, *, loaders: int) -> Order:
        """The micro-batches of the steps ``[first, last)`` of the run, shared out among ``loaders``."""
        orders = [self._order(part, first, last, loaders) for part in self._parts]
        for before, order in itertools.pairwise(orders):  # each counts its units from 0
            order.unit[:] += before.unit.max() + 1
        return _joined(orders, axis=1)

    def _plan(self, part: _Part, epoch: int) -> EpochPlan:
        return plan_epoch(self._shard[part.rows], seed=self._seed, epoch=epoch, streams=part.streams, batch=part.batch)

    def _order(self, part: _Part, first: int, last: int, loaders: int) -> Order:
        rank, world = self._division.rank, self._division.world
        orders, units = [], 0
        for epoch in range(first // part.steps, -(-last // part.steps)):
            plan = self._plan(part, epoch)
            place = rank_places(plan, rank=rank, world=world, micro_batch=part.micro_batch)
            begin = epoch * part.steps
            place = place[max(0, first - begin) : last - begin].reshape(-1, part.micro_batch)
            owner, unit = split_over_loaders(plan, place, world=world, loaders=loaders)
            rows = part.rows[plan.sequence[place]]
            orders.append(Order(rows, np.full_like(rows, epoch), owner, unit + units))
            units += int(unit.max()) + 1
        return _joined(orders, axis=0)


def _joined(orders: list[Order], *, axis: int) -> Order:
    columns = zip(*((order.rows, order.epoch, order.owner, order.unit) for order in orders), strict=True)
    return Order(*(np.concatenate(column, axis=axis) for column in columns))


class EvalSampler:
    """Rows in order, sharded over ranks; every rank has the same number of equal batches, padded with -1."""

    def __init__(self, rows: I64, *, batch: int, rank: int = 0, world: int = 1) -> None:
        """``rows`` are those wanted of a set; ``batch`` is that of one rank."""
        self.size = len(rows)
        place = eval_rows(self.size, rank=rank, world=world, batch=batch)
        self._rows = np.where(place >= 0, rows[place], -1)

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, *, loaders: int) -> Order:
        """The batches of this rank; neighbors go to the same loader: they are cut from one photo or read together."""
        batches, batch = self._rows.shape
        owner = np.tile(np.arange(batch) * loaders // batch, (batches, 1))
        unit = owner + np.arange(batches)[:, None] * loaders
        return Order(self._rows, np.zeros_like(self._rows), owner, unit)
