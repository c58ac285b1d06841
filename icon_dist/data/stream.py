"""Streams of batches, each of three parts: who reads what, where training sees them, and how crops become batches.

They are ``sampler.py``, ``augment.py`` and ``loader.py``. The bytes of shards are read in ``shards/reader.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from icon_dist.codec.frame import InputFrame
from icon_dist.data.augment import Augmentation, Placement, upright
from icon_dist.data.loader import Loader
from icon_dist.data.sampler import I64, EvalSampler, TrainSampler
from icon_dist.errors import DataError
from icon_dist.shards.reader import People
from icon_dist.shards.union import ShardUnion
from icon_dist.types import Batch


class TrainStream:
    """Augmented micro-batches of one rank, epoch by epoch; the loader processes and their cache stay.

    A bad image ends the run, or up to ``max_bad_fraction`` of an epoch's instances leave empty places in its batches:
    all others come when and where they would have come. :meth:`skipped` names them.
    """

    def __init__(
        self, sampler: TrainSampler, augmentation: Augmentation, loader: Loader, *, max_bad_fraction: float = 0.0
    ) -> None:
        self.sampler, self.loader = sampler, loader
        self._augmentation = augmentation
        self._max_bad_fraction = max_bad_fraction

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """The micro-batches of an epoch from an optimizer step on, the sampler's ``accumulation`` of them per step."""
        steps = self.sampler.steps
        if start_step == steps:
            return iter(())
        order = self.sampler.order(epoch * steps + start_step, (epoch + 1) * steps, loaders=self.loader.parts)
        return self._within_limit(self.loader.batches(order, self._place))

    def skipped(self) -> list[str]:
        """Who was left out since this was last asked, and why: one line an instance."""
        return self.loader.skipped()

    def close(self) -> None:
        """End the loader processes; also happens when the stream is forgotten."""
        self.loader.close()

    def _place(self, rows: I64, epoch: I64) -> Placement:
        people = self.loader.people
        halves = people.has_halves[rows] if isinstance(people, ShardUnion) else None
        return self._augmentation(
            people.box[rows], people.keypoints[rows], people.instance[rows], epoch, has_halves=halves
        )

    def _within_limit(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of an epoch, as long as few enough instances are left out of them."""
        count, bad = self.sampler.per_epoch, 0
        for batch in batches:
            bad += int((batch.row < 0).sum())
            if bad > self._max_bad_fraction * count:
                limit = f"data.max_bad_fraction={self._max_bad_fraction:g} of {count}"
                raise DataError(f"{self.loader.skipped()[-1]} (bad image {bad} of this epoch, more than {limit})")
            yield batch


class EvalStream:
    """Instances as they are, upright and in order; every rank sees the same number of equal batches."""

    def __init__(self, sampler: EvalSampler, loader: Loader) -> None:
        self._sampler, self._loader = sampler, loader
        self.people, self.size = loader.people, sampler.size  # whose rows are read, and how many of them on all ranks

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        return self._loader.batches(self._sampler.order(loaders=self._loader.parts), self._place)

    def close(self) -> None:
        """End the loader processes; also happens when the stream is forgotten."""
        self._loader.close()

    def _place(self, rows: I64, _: I64) -> Placement:
        return upright(self._loader.people.box[rows], self._loader.frame)


@contextmanager
def crops_of(people: People, rows: I64, frame: InputFrame, *, batch: int, processes: int = 0) -> Iterator[EvalStream]:
    """These rows of ``people`` in batches, for this process alone; its loader processes end with the block."""
    loader = Loader(people, frame, batch=batch, processes=processes)
    with closing(EvalStream(EvalSampler(rows, batch=batch), loader)) as stream:
        yield stream
