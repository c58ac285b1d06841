"""Draw generated people and pack them into shards: the demo's data, from nothing. The same command again goes on."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from icon_dist import storage
from icon_dist.cli import Parser, at_least
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, plural, say


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the parsed words of ``icon-dist shards synthesize``; raises ConfigError for a mistake in them."""
    parser = Parser("icon-dist shards synthesize", __doc__)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR|s3://...")
    add("--people", type=at_least(1), default=2000, metavar="N", help="at least so many; default %(default)s")
    add("--seed", type=at_least(0), default=0, help="another seed, other people; default %(default)s")
    add("--difficulty", default="easy", choices=("easy", "hard"), help="poses, clutter, occlusion; default %(default)s")
    add("--photos", type=folder, metavar="DIR", help="keep photos and annotations.json here; default: not kept")
    add("--split", default="synthetic", metavar="NAME", help="name of the set; default %(default)s")
    add("--per-shard", type=at_least(1), default=250, metavar="N", help="people in a shard; default %(default)s")
    add("--jobs", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="processes; default: one per core")
    return parser.parse_args(argv)


def folder(text: str) -> Path:
    """An argparse type: a folder of this machine."""
    place = storage.absolute(text)
    if storage.is_remote(place):
        raise ConfigError("--photos: photos are kept in a folder of this machine; give a path")
    return Path(place)


def main(argv: list[str]) -> int:
    """Run ``icon-dist shards synthesize`` with these words: draw generated instances and pack them into shards.

    Returns the exit code 0. Raises ConfigError for a mistake in the words.
    """
    options = parse(argv)
    storage.require_place(storage.join(options.out, "manifest.json"))
    if not options.split.isprintable():
        raise ConfigError(f"--split={options.split!r}: expected a name that can be printed")

    from icon_dist.loggers.progress_line import ProgressLine
    from icon_dist.shards.synthetic import Crowd, generate_shards

    manifest = generate_shards(
        options.out,
        Crowd(people=options.people, seed=options.seed, difficulty=options.difficulty),
        split=options.split,
        per_shard=options.per_shard,
        photos=options.photos,
        jobs=options.jobs,
        progress=partial(ProgressLine, unit="people"),
    )
    size = sum(file["bytes"] for file in manifest["files"].values())
    facts = f"{plural(manifest['people'], 'person')}, {plural(len(manifest['shards']), 'shard')}"
    say(f"{options.out}: {facts}, {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    run_cli(main)
