"""Stored crops with their skeletons on one page: what ``icon-dist shards view`` draws."""

from __future__ import annotations

import cv2
import numpy as np

from icon_dist import storage
from icon_dist.codec.affine import transform
from icon_dist.drawing.skeletons import Tile, sheet
from icon_dist.errors import plural, say
from icon_dist.images.image import decode
from icon_dist.shards.shard_set import ShardSet, open_shards


def tile(shards: ShardSet, row: int) -> Tile:
    """Return the stored crop of ``row`` (RGB) with its keypoints in px of the crop and the instance's id as title."""
    place = storage.join(shards.uri, shards.shard_names[shards.shard[row]])
    data = storage.read(place, int(shards.offset[row]), int(shards.size[row]))
    bgr = decode(data, name=f"{place}#{shards.key[row]}")
    keypoints = shards.keypoints[row].astype(np.float64)
    keypoints[:, :2] = transform(shards.to_stored(np.array([row]))[0], keypoints[:, :2])
    return Tile(np.ascontiguousarray(bgr[..., ::-1]), keypoints.astype(np.float32), str(shards.instance[row]))


def run(uri: str, out: str, *, count: int, columns: int, seed: int) -> None:
    """Draw so many people of the set at ``uri``, chosen by ``seed``, into the PNG or JPEG file ``out``."""
    shards = open_shards(uri)
    count = min(count, len(shards))
    rows = np.sort(np.random.default_rng(seed).permutation(len(shards))[:count])
    page = sheet([tile(shards, int(row)) for row in rows], shards.skeleton, columns=columns)
    done, encoded = cv2.imencode(out[-4:], np.ascontiguousarray(page[..., ::-1]))
    assert done
    storage.write(out, encoded.tobytes())
    say(f"{out}: {count} of {plural(len(shards), 'person')}")
