"""Streams over shards, from plain arguments."""

from __future__ import annotations

import dataclasses
import multiprocessing
from multiprocessing.process import BaseProcess

import numpy as np
from numpy.typing import NDArray

from icon_dist.codec.frame import InputFrame
from icon_dist.config import AugmentConfig
from icon_dist.data.augment import Augmentation
from icon_dist.data.loader import Loader
from icon_dist.data.sampler import Division, EvalSampler, TrainSampler
from icon_dist.data.stream import EvalStream, TrainStream
from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet

I64 = NDArray[np.int64]


def loader_workers() -> list[BaseProcess]:
    """The loader processes of this one, in their order."""
    children = [one for one in multiprocessing.active_children() if one.name.startswith("loader-")]
    return sorted(children, key=lambda child: child.name)


def train_stream(
    shards: ShardSet,
    *,
    seed: int,
    batch: int,
    streams: int,
    rank: int,
    world: int,
    micro_batch: int,
    input_hw: tuple[int, int],
    augment: AugmentConfig,
    loaders: int,
    codec: str = "msra",
    cache_mb: int = 0,
    labelled: I64 | None = None,
    unlabelled_share: float = 0.0,
    guesses: NDArray[np.float32] | None = None,
    max_bad_fraction: float = 0.0,
    resident: str = "",
) -> TrainStream:
    """A training stream; ``guesses`` are the joints of those who are not ``labelled``."""
    frame = InputFrame(input_hw, codec)
    if labelled is not None:
        kept = np.isin(np.arange(len(shards)), labelled)[:, None, None]
        others = np.float32(0) if guesses is None else guesses
        shards = dataclasses.replace(shards, keypoints=np.where(kept, shards.keypoints, others))
    division = Division(batch, micro_batch, rank, world, streams)
    sampler = TrainSampler(shards.shard, division, seed=seed, labelled=labelled, unlabelled_share=unlabelled_share)
    loader = Loader(
        shards,
        frame,
        batch=micro_batch,
        processes=loaders,
        cache_mb=cache_mb,
        skip_bad=max_bad_fraction > 0,
        resident=resident,
    )
    augmentation = Augmentation(augment, shards.skeleton, frame, seed)
    return TrainStream(sampler, augmentation, loader, max_bad_fraction=max_bad_fraction)


def eval_stream(
    people: People,
    *,
    batch: int,
    input_hw: tuple[int, int],
    rank: int = 0,
    world: int = 1,
    codec: str = "msra",
    loaders: int = 0,
    rows: I64 | None = None,
    skip_bad: bool = False,
) -> EvalStream:
    """An evaluation stream of ``rows``, None = all."""
    sampler = EvalSampler(np.arange(len(people)) if rows is None else rows, batch=batch, rank=rank, world=world)
    loader = Loader(people, InputFrame(input_hw, codec), batch=batch, processes=loaders, skip_bad=skip_bad)
    return EvalStream(sampler, loader)
