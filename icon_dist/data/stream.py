"""Streams of batches: the plan of who reads what, carried out by loader processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from icon_dist.codec.geometry import compose, invert
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import Joints, Placement, augment, draws, place_joints, plain
from icon_dist.data.crops import Crops
from icon_dist.data.loaders import Job, Loaders
from icon_dist.data.resident import Resident
from icon_dist.data.sampler import (
    EpochPlan,
    check_streams,
    default_streams,
    eval_rows,
    plan_epoch,
    rank_places,
    read_ahead,
    split_over_loaders,
)
from icon_dist.errors import DataError
from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Batch

__all__ = ["EpochPlan", "EvalStream", "TrainStream", "default_streams", "eval_rows", "plan_epoch"]

TOGETHER = 256  # people whose augmentation is computed at once
I64 = NDArray[np.int64]
Place = Callable[[I64, slice], Placement]  # rows, and where they stand among all rows in order of time


class _Stream:
    """Loader processes and the way from rows to batches."""

    def __init__(
        self,
        people: People,
        *,
        micro_batch: int,
        input_hw: tuple[int, int],
        loaders: int,
        cache_mb: int,
        pin: bool,
        tolerant: bool = False,
        resident: str = "",
    ) -> None:
        self._people = people
        self._input_hw = input_hw
        self._parts = max(1, loaders)
        self._pin = pin
        self._loaders: Loaders | Resident
        if resident:
            assert isinstance(people, ShardSet)
            self._remote = False
            self._loaders = Resident(people, input_hw=input_hw, device=resident, threads=self._parts, tolerant=tolerant)
            return
        crops = Crops(people, input_hw=input_hw, cache_bytes=cache_mb * self._parts << 20, tolerant=tolerant)
        self._remote = crops.reader.remote
        self._loaders = Loaders(crops, processes=loaders, micro_batch=micro_batch, pin=pin)

    def close(self) -> None:
        """End the loader processes; also happens when the stream is forgotten."""
        self._loaders.close()

    def _batches(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        for job, image in self._loaders.run(jobs):
            rest = (job.joints.xy, job.joints.labelled, job.joints.visible, job.instance, job.image_id, job.rows)
            tensors = [torch.from_numpy(x) for x in (*rest, job.to_photo.astype(np.float32))]
            yield Batch(image, *(x.pin_memory() if self._pin else x for x in tensors))

    def _jobs(self, rows: I64, owner: I64, unit: I64, place: Place) -> Iterator[Job]:
        """``rows, owner, unit [T, N]`` to T jobs; ``place`` says where people land in the input."""
        people = self._people
        ahead = read_ahead(rows, owner, unit) if self._remote else [{}] * len(rows)
        width = rows.shape[1]
        together = max(1, TOGETHER // width)
        for start in range(0, len(rows), together):
            flat = rows[start : start + together].ravel()
            real = flat >= 0
            picked = np.where(real, flat, 0)
            placement = place(picked, slice(start * width, start * width + len(flat)))
            joints = place_joints(people.keypoints[picked], placement, skeleton=people.skeleton)
            to_photo = invert(placement.matrix)
            sampling = compose(people.to_stored(picked), to_photo)
            instance, image_id = (np.where(real, x[picked], -1) for x in (people.instance, people.image_id))
            for i in range(len(flat) // width):
                one = slice(i * width, (i + 1) * width)
                known = real[one, None]
                yield Job(
                    rows=flat[one],
                    instance=instance[one],
                    image_id=image_id[one],
                    joints=Joints(
                        xy=np.where(known[..., None], joints.xy[one], np.float32(0)),
                        labelled=joints.labelled[one] & known,
                        visible=joints.visible[one] & known,
                    ),
                    sampling=sampling[one],
                    to_photo=to_photo[one],
                    owner=owner[start + i],
                    ahead=ahead[start + i],
                )


@dataclass(frozen=True)
class _Part:
    """People who take turns with one another only: so many of every global batch."""

    rows: I64  # of the shard set, ascending
    batch: int  # global
    streams: int

    @property
    def steps(self) -> int:
        return len(self.rows) // self.batch


class TrainStream(_Stream):
    """Augmented micro-batches of one rank, epoch by epoch; the loader processes and their cache stay.

    A bad image ends the run, or up to ``max_bad_fraction`` of an epoch's people leave empty places in its batches: all
    others come when and where they would have come. :meth:`skipped` names them.

    With ``unlabelled_share`` every micro-batch ends with so many people who are not ``labelled``. Nobody gets to see
    their joints, at most ``guesses`` of them. An epoch is one of the labelled people; the others go through epochs of
    their own, from step 0 of the run on. So the position is still the number of steps, and both kinds come exactly once
    in each of their epochs.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        seed: int,
        batch: int,
        streams: int,
        rank: int,
        world: int,
        micro_batch: int,
        input_hw: tuple[int, int],
        codec: str = "msra",
        augment: AugmentConfig,
        loaders: int,
        cache_mb: int = 0,
        pin: bool = False,
        labelled: I64 | None = None,
        unlabelled_share: float = 0.0,
        guesses: NDArray[np.float32] | None = None,
        max_bad_fraction: float = 0.0,
        resident: str = "",
    ) -> None:
        """``batch`` is global; ``streams`` 0 = :func:`default_streams`; ``loaders`` 0 = decode in this process.

        ``labelled`` are rows of ``shards``, None = all. ``unlabelled_share`` of a micro-batch is a whole number.
        ``guesses [n, K, 3]`` are keypoints of all rows, of which those who are not ``labelled`` get theirs.
        ``resident`` is a device that holds all decoded images and cuts them; empty = loaders do.
        """
        known = np.ones(len(shards), dtype=bool)
        if labelled is not None:
            known[:] = False
            known[labelled] = True
            guessed = np.float32(0) if guesses is None else guesses
            shards = replace(shards, keypoints=np.where(known[:, None, None], shards.keypoints, guessed))
        others = round(batch * unlabelled_share)
        self._mixed = [
            _Part(np.flatnonzero(who), count, streams or default_streams(count))
            for who, count in ((known, batch - others), (~known, others))
            if count
        ]
        for part in self._mixed:
            micro = micro_batch * part.batch // batch
            check_streams(batch=part.batch, streams=part.streams, world=world, micro_batch=micro)
            assert micro * batch == micro_batch * part.batch, "no whole number of people of a micro-batch"
        self._shard = shards.shard
        self._seed, self._batch = seed, batch
        self._rank, self._world, self._micro_batch = rank, world, micro_batch
        self._augment, self._codec = augment, codec
        for part in self._mixed:
            self._plan(part, 0)  # too few people: say so before any process starts
        super().__init__(
            shards,
            micro_batch=micro_batch,
            input_hw=input_hw,
            loaders=loaders,
            cache_mb=cache_mb,
            pin=pin,
            tolerant=max_bad_fraction > 0,
            resident=resident,
        )
        self._max_bad_fraction = max_bad_fraction

    def skipped(self) -> list[str]:
        """Who was left out since this was last asked, and why: one line a person."""
        texts = self._loaders.skipped[:]
        self._loaders.skipped.clear()
        return texts

    def _within_limit(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of an epoch, as long as few enough people are left out of them."""
        people, bad = self.steps * self._batch // self._world, 0
        for batch in batches:
            bad += int((batch.row < 0).sum())
            if bad > self._max_bad_fraction * people:
                limit = f"data.max_bad_fraction={self._max_bad_fraction:g} of {people}"
                raise DataError(f"{self._loaders.skipped[-1]} (bad image {bad} of this epoch, more than {limit})")
            yield batch

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return self._mixed[0].steps

    @property
    def accumulation(self) -> int:
        """Micro-batches in an optimizer step."""
        return self._batch // self._world // self._micro_batch

    def plan(self, epoch: int) -> EpochPlan:
        """Of the labelled people; its rows count them alone."""
        return self._plan(self._mixed[0], epoch)

    def _plan(self, part: _Part, epoch: int) -> EpochPlan:
        return plan_epoch(self._shard[part.rows], seed=self._seed, epoch=epoch, streams=part.streams, batch=part.batch)

    def _orders(self, part: _Part, first: int, last: int) -> tuple[I64, I64, I64, I64]:
        """Of the steps ``[first, last)`` of the run: row, epoch of its part, owner and unit, each [T, N]."""
        micro = self._micro_batch * part.batch // self._batch
        pieces, unit_base = [], 0
        for epoch in range(first // part.steps, -(-last // part.steps)):
            plan = self._plan(part, epoch)
            place = rank_places(plan, rank=self._rank, world=self._world, micro_batch=micro)
            begin = epoch * part.steps
            place = place[max(0, first - begin) : last - begin].reshape(-1, micro)
            owner, unit = split_over_loaders(plan, place, world=self._world, loaders=self._parts)
            rows = part.rows[plan.sequence[place]]
            pieces.append((rows, np.full_like(rows, epoch), owner, unit + unit_base))
            unit_base += int(unit.max()) + 1
        row, epochs, owner, unit = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return row, epochs, owner, unit

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The micro-batches of an epoch from an optimizer step on: ``accumulation`` of them per step."""
        first, last = epoch * self.steps + start_step, (epoch + 1) * self.steps
        if first == last:
            return iter(())
        orders = [self._orders(part, first, last) for part in self._mixed]
        row, epochs, owner, unit = (np.concatenate(arrays, axis=1) for arrays in zip(*orders, strict=True))
        if len(self._mixed) > 1:  # the two count their units alike
            unit[:, orders[0][3].shape[1] :] += orders[0][3].max() + 1

        def augmented(rows: I64, at: slice) -> Placement:
            people = self._people
            return augment(
                people.box[rows],
                people.keypoints[rows],
                random=draws(self._seed, epochs.ravel()[at], people.instance[rows]),
                config=self._augment,
                skeleton=people.skeleton,
                input_hw=self._input_hw,
                codec=self._codec,
            )

        return self._within_limit(self._batches(self._jobs(row, owner, unit, augmented)))


class EvalStream(_Stream):
    """People as they are, in order, sharded over ranks; every rank sees the same number of equal batches."""

    def __init__(
        self,
        people: People,
        *,
        rank: int,
        world: int,
        batch: int,
        input_hw: tuple[int, int],
        codec: str = "msra",
        loaders: int,
        rows: I64 | None = None,
        pin: bool = False,
        tolerant: bool = False,
    ) -> None:
        """``batch`` is per rank; ``rows`` of ``people`` are wanted, None = all. Rows of -1 fill the last batches, and
        if it is ``tolerant`` the places of people whose image is bad.
        """
        wanted = np.arange(len(people)) if rows is None else rows
        place = eval_rows(len(wanted), rank=rank, world=world, batch=batch)
        self._rows = np.where(place >= 0, wanted[place], -1)
        self._codec = codec
        super().__init__(
            people, micro_batch=batch, input_hw=input_hw, loaders=loaders, cache_mb=0, pin=pin, tolerant=tolerant
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        batches, batch = self._rows.shape
        # neighbours go to the same loader: they are cut from one photo, or read in one range
        owner = np.tile(np.arange(batch) * self._parts // batch, (batches, 1))
        unit = owner + np.arange(batches)[:, None] * self._parts
        return self._batches(self._jobs(self._rows, owner, unit, self._as_they_are))

    def _as_they_are(self, rows: I64, _: slice) -> Placement:
        return plain(self._people.box[rows], input_hw=self._input_hw, codec=self._codec)
