"""Shards in a loop of one's own: a webdataset pipeline of (image, joints, record), from a path or ``s3://``."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.codec.affine import transform
from icon_dist.errors import DataError, needed_for
from icon_dist.images.image import decode
from icon_dist.shards.shard_set import ShardSet, open_shards

if TYPE_CHECKING:
    from webdataset import DataPipeline  # noqa: TID251  (see below)

Sample = tuple[NDArray[np.uint8], NDArray[np.float32], Mapping[str, Any]]  # record: JSON of the instance


def as_webdataset(uri: str, *, shuffle: int = 0) -> DataPipeline:
    """A webdataset pipeline over the shard set at ``uri``; ``.shuffle``, ``.batched`` and the like may follow.

    Each sample is ``image [h, w, 3]`` uint8 RGB as stored, ``joints [K, 3]`` float32 (x and y in px of that image, raw
    visibility; 0 where unlabelled) and ``record``, the instance's JSON in px of the original photo. Every instance
    comes exactly once an epoch: shards are divided over ``torch.distributed`` ranks and ``DataLoader`` workers.
    ``shuffle`` > 0 permutes the shards, and the samples within a buffer of that size, anew every epoch; as with
    ``DataLoader(shuffle=True)``, ``torch.manual_seed`` makes that repeatable.

    Nothing is unpickled and no command is run, so it works under ``WDS_SECURE=1``. A damaged shard is a DataError.
    """
    with needed_for("a webdataset pipeline", "webdataset"):
        # Allowed here: its tar reader and its pipelines only. Shards are opened and decoded by this package.
        import webdataset as wds  # noqa: TID251
        from webdataset.tariterators import group_by_keys, tar_file_expander  # noqa: TID251
    shards = open_shards(uri)
    names = list(shards.shard_names)
    order = [partial(_shuffled, len(names))] if shuffle else []  # after they are divided: each worker draws its own
    stages = [wds.split_by_node, wds.split_by_worker, *order, partial(_opened, shards)]
    stages += [tar_file_expander, group_by_keys, partial(_samples, shards)]
    stages += [partial(_shuffled, shuffle)] if shuffle else []
    return wds.FluidWrapper(wds.DataPipeline(wds.SimpleShardList(names), *stages))


def _shuffled(size: int, items: Iterable[Any]) -> Iterable[Any]:
    """Items through a buffer, by torch's seed: that of a loader's worker is another one in each epoch."""
    import webdataset as wds  # noqa: TID251  (see above)

    seed = int(torch.randint(2**62, ()))
    shuffled: Iterable[Any] = wds.shuffle(size, seed=seed)(items)
    return shuffled


def _opened(shards: ShardSet, urls: Iterable[dict[str, str]]) -> Iterator[Mapping[str, Any]]:
    """Each shard as a stream of verified bytes."""
    for item in urls:
        name = item["url"]
        place, expected = storage.join(shards.uri, name), shards.manifest["files"][name]["sha256"]
        data = storage.read(place, sound=partial(_is, sha256=expected))
        if not _is(data, expected):
            raise DataError(f"{place}: damaged (sha256 differs from the manifest's); build or copy it again")
        yield {**item, "stream": io.BytesIO(data)}


def _is(data: bytes, sha256: str) -> bool:
    return hashlib.sha256(data).hexdigest() == sha256


def _samples(shards: ShardSet, found: Iterable[Mapping[str, Any]]) -> Iterator[Sample]:
    row_of = {key: row for row, key in enumerate(shards.key)}
    for sample in found:
        row = row_of[sample["__key__"]]
        name = f"{shards.uri} key={sample['__key__']}"
        image = cv2.cvtColor(decode(sample["jpg"], name=name), cv2.COLOR_BGR2RGB)
        yield np.asarray(image, np.uint8), _joints(shards, row), json.loads(sample["json"])


def _joints(shards: ShardSet, row: int) -> NDArray[np.float32]:
    """Keypoints ``[K, 3]`` of a row in px of its stored image."""
    keypoints = shards.keypoints[row]
    labelled = keypoints[:, 2:] > 0
    xy = transform(shards.to_stored(np.array([row])), keypoints[None, :, :2])[0]
    return np.where(labelled, np.concatenate([xy, keypoints[:, 2:]], axis=1), 0).astype(np.float32)
