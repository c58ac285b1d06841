"""From rows of a shard set to batches: joints and matrices here, pixels by loader processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from icon_dist.codec.affine import compose, invert
from icon_dist.codec.frame import InputFrame
from icon_dist.data.augment import Placement, place_joints
from icon_dist.data.crops import Crops
from icon_dist.data.gpu_cache import Resident
from icon_dist.data.loader_processes import Job, LoaderProcesses
from icon_dist.data.sampler import I64, Order, read_ahead
from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Batch

TOGETHER = 1024  # instances whose matrices are computed at once
Place = Callable[[I64, I64], Placement]  # of rows, each in its epoch: where they land in the input


class Loader:
    """Crops of ``people`` as batches of equal shape."""

    def __init__(
        self,
        people: People,
        frame: InputFrame,
        *,
        batch: int,
        processes: int = 0,
        cache_mb: int = 0,
        pin: bool = False,
        skip_bad: bool = False,
        resident: str = "",
    ) -> None:
        """``processes`` 0 = decode in this one; each has ``cache_mb`` of decoded images.

        With ``skip_bad`` the places of instances whose image is bad stay empty, otherwise such an image is a DataError.
        ``resident`` is a device that holds all decoded images and cuts them; empty = the processes do.
        """
        self.people, self.frame = people, frame
        self.parts = max(1, processes)
        self._pin = pin
        self._cutter: LoaderProcesses | Resident
        if resident:
            assert isinstance(people, ShardSet)
            self._remote = False
            self._cutter = Resident(people, input_hw=frame.hw, device=resident, threads=self.parts, skip_bad=skip_bad)
            return
        crops = Crops(people, input_hw=frame.hw, cache_bytes=cache_mb * self.parts << 20, skip_bad=skip_bad)
        self._remote = crops.reader.remote
        self._cutter = LoaderProcesses(crops, processes=processes, micro_batch=batch, pin=pin)

    def batches(self, order: Order, place: Place) -> Iterator[Batch]:
        """The batches of an order, whose instances land in the input where ``place`` says."""
        for batch in self._cutter.run(self._jobs(order, place)):
            yield batch.pin_memory() if self._pin else batch

    def skipped(self) -> list[str]:
        """Who was left out since this was last asked, and why: one line an instance."""
        texts = self._cutter.skipped[:]
        self._cutter.skipped.clear()
        return texts

    def close(self) -> None:
        """End the loader processes; also happens when the loader is forgotten."""
        self._cutter.close()

    def _jobs(self, order: Order, place: Place) -> Iterator[Job]:
        ahead = read_ahead(order.rows, order.owner, order.unit) if self._remote else [{}] * len(order.rows)
        together = max(1, TOGETHER // order.rows.shape[1])
        for start in range(0, len(order.rows), together):
            block = slice(start, start + together)
            batches = self._without_pixels(order.rows[block], order.epoch[block], place)
            for i, (batch, sampling) in enumerate(batches, start):
                yield Job(batch, order.rows[i], sampling, order.owner[i], ahead[i])

    def _without_pixels(self, rows: I64, epoch: I64, place: Place) -> Iterator[tuple[Batch, np.ndarray]]:
        """``rows [T, N]`` as T batches that lack only their images, and the matrices that cut these."""
        people, (count, width) = self.people, rows.shape
        flat = rows.ravel()
        picked = np.maximum(flat, 0)
        placement = place(picked, epoch.ravel())
        joints = place_joints(people.keypoints[picked], placement, skeleton=people.skeleton)
        to_photo = invert(placement.matrix)
        sampling = compose(people.to_stored(picked), to_photo)
        columns = (
            *(joints.xy, joints.labelled, joints.visible),
            *(people.instance[picked], people.image_id[picked], flat.copy(), to_photo.astype(np.float32)),
        )
        no_image = torch.empty((width, 0, 0, 3), dtype=torch.uint8)
        for i in range(count):
            one = slice(i * width, (i + 1) * width)
            batch = Batch(no_image, *(torch.from_numpy(column[one]) for column in columns))
            if (flat[one] < 0).any():
                batch.pad(batch.row < 0)
            yield batch, sampling[one]
