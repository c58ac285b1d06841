"""All stored images of a shard set, decoded once, in the memory of a GPU: a step then needs neither files nor decoders.

Crops are cut there as ``cv2.warpAffine`` cuts them for the loaders: OpenCV 5 has the same gray levels but for one in
some 100,000, which differ by 1; older ones read places in 1/32 px.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from icon_dist.data.crops import Crops
from icon_dist.data.loader_processes import Job
from icon_dist.errors import DataError
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Batch

CHUNK = 1 << 24  # pixels that a thread decodes before it copies them
I64 = NDArray[np.int64]


def decoded_bytes(shards: ShardSet) -> int:
    """Memory that the decoded images take."""
    return int(shards.stored_wh.astype(np.int64).prod(1).sum()) * 3


class Resident:
    """Has the interface of :class:`icon_dist.data.loader_processes.LoaderProcesses`: jobs in, batches out, in order."""

    def __init__(
        self, shards: ShardSet, *, input_hw: tuple[int, int], device: str, threads: int, skip_bad: bool = False
    ) -> None:
        """Decode everything, by so many threads. An image that is bad raises DataError, or with ``skip_bad`` the
        places of those cut from it stay empty in all batches."""
        self.skipped: list[str] = []  # why people were left out of the batches so far
        self._shards, self._input_hw, self._device, self._skip_bad = shards, input_hw, device, skip_bad
        size = shards.stored_wh.astype(np.int64).prod(1)
        self._end = np.cumsum(size)
        self.pixels: UInt8[Tensor, "pixels 3"] = torch.empty(int(size.sum()), 3, dtype=torch.uint8, device=device)
        self._bad: dict[int, str] = {}
        chunks = np.split(np.arange(len(shards)), np.flatnonzero(np.diff((self._end - 1) // CHUNK)) + 1)
        with ThreadPoolExecutor(max(1, threads), "decode") as pool:
            for bad in pool.map(self._decode, chunks):
                self._bad |= bad
        start = torch.from_numpy(self._end - size)
        self._start, self._wh = (x.to(device) for x in (start, torch.from_numpy(shards.stored_wh).long()))

    def _decode(self, rows: I64) -> dict[int, str]:
        """Neighbors, into their place; which of them are bad, and why."""
        crops = Crops(self._shards, input_hw=self._input_hw)
        crops.reader.prefetch(rows)
        parts, bad = [], {}
        for row in rows.tolist():
            width, height = self._shards.stored_wh[row]
            try:
                parts.append(cv2.cvtColor(crops.image(row), cv2.COLOR_RGBA2RGB).reshape(-1, 3))
            except DataError as error:
                if not self._skip_bad:
                    raise
                bad[row] = str(error)
                parts.append(np.zeros((int(width) * int(height), 3), np.uint8))
        pixels = torch.from_numpy(np.concatenate(parts))
        end = int(self._end[rows[-1]])
        self.pixels[end - len(pixels) : end].copy_(pixels)
        return bad

    def run(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        """The batches of the jobs in order, with their images on the device. Places of nobody are black."""
        for job in jobs:
            batch, sampling = job.batch, torch.from_numpy(job.sampling)
            bad = {place: self._bad[row] for place, row in enumerate(batch.row.tolist()) if row in self._bad}
            if bad:
                self.skipped += bad.values()
                gone = batch.row < 0
                gone[[*bad]] = True
                batch.pad(gone)
            rows = batch.row
            if self._device != "cpu":
                rows, sampling = rows.pin_memory(), sampling.pin_memory()
            rows, sampling = (x.to(self._device, non_blocking=True) for x in (rows, sampling))
            there = rows.clamp(min=0)
            wh = torch.where(rows[:, None] >= 0, self._wh[there], 0)
            batch.image = cut(self.pixels, self._start[there], wh, sampling, hw=self._input_hw)
            yield batch

    def close(self) -> None:
        """Give the memory back."""
        self.pixels = self.pixels[:0].clone()


def cut(
    pixels: UInt8[Tensor, "pixels 3"],
    start: Int64[Tensor, " N"],
    wh: Int64[Tensor, "N 2"],
    sampling: Float64[Tensor, "N 2 3"],
    *,
    hw: tuple[int, int],
) -> UInt8[Tensor, "N H W 3"]:
    """Crops of size ``hw`` of images of sizes ``wh`` that begin at ``start``; ``sampling`` maps input px -> stored px.

    Bilinear, black outside. Not ``grid_sample``: the images have different sizes, and it knows no uint8.
    """
    m = sampling.float()[..., None, None]
    y, x = (torch.arange(side, device=pixels.device, dtype=torch.float32) for side in hw)
    at = m[:, :, 0] * x + (m[:, :, 1] * y[:, None] + m[:, :, 2])  # [N, 2, H, W], px; no product that TF32 would round
    whole = at.floor()
    right, down = (at - whole)[..., None].unbind(1)
    whole, size = whole.long(), wh[..., None, None]

    def values(dx: int, dy: int) -> Tensor:
        place = torch.stack([whole[:, 0] + dx, whole[:, 1] + dy], 1)
        inside = ((place >= 0) & (place < size)).all(1)
        number = torch.where(inside, place[:, 1] * size[:, 0] + place[:, 0] + start[:, None, None], 0)
        return pixels[number].float() * inside[..., None]

    upper = torch.lerp(values(0, 0), values(1, 0), right)
    lower = torch.lerp(values(0, 1), values(1, 1), right)
    return torch.lerp(upper, lower, down).round_().to(torch.uint8)
