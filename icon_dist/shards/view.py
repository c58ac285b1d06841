"""A page of stored crops with their skeletons, to see what training will see."""

from __future__ import annotations

import cv2
import numpy as np

from icon_dist import storage
from icon_dist.arguments import Parser, at_least
from icon_dist.codec.geometry import transform
from icon_dist.drawing.skeletons import Tile, sheet
from icon_dist.errors import ConfigError, plural, run_cli, say
from icon_dist.images.image import decode
from icon_dist.shards.shard_set import ShardSet, open_shards


def tile(shards: ShardSet, row: int) -> Tile:
    place = storage.join(shards.uri, shards.shard_names[shards.shard[row]])
    data = storage.read(place, int(shards.offset[row]), int(shards.size[row]))
    bgr = decode(data, name=f"{place}#{shards.key[row]}")
    keypoints = shards.keypoints[row].astype(np.float64)
    keypoints[:, :2] = transform(shards.to_stored(np.array([row]))[0], keypoints[:, :2])
    return Tile(np.ascontiguousarray(bgr[..., ::-1]), keypoints.astype(np.float32), str(shards.instance[row]))


def main(argv: list[str]) -> int:
    parser = Parser("icon-dist shards view", __doc__)
    add = parser.add_argument
    add("shards", metavar="DIR|s3://...")
    add("-o", "--out", required=True, metavar="PAGE.png")
    add("--count", type=at_least(1), default=24, metavar="N", help="people; default %(default)s")
    add("--columns", type=at_least(1), default=6, metavar="N", help="default %(default)s")
    add("--seed", type=at_least(0), default=0, help="another seed, other people")
    options = parser.parse_args(argv)
    if not options.out.endswith((".png", ".jpg")):
        raise ConfigError(f"--out {options.out}: expected NAME.png or NAME.jpg")
    storage.require_place(options.out)
    shards = open_shards(options.shards)
    count = min(options.count, len(shards))
    rows = np.sort(np.random.default_rng(options.seed).permutation(len(shards))[:count])
    page = sheet([tile(shards, int(row)) for row in rows], shards.skeleton, columns=options.columns)
    done, encoded = cv2.imencode(options.out[-4:], np.ascontiguousarray(page[..., ::-1]))
    assert done
    storage.write(options.out, encoded.tobytes())
    say(f"{options.out}: {count} of {plural(len(shards), 'person')}")
    return 0


if __name__ == "__main__":
    run_cli(main)
