"""Pack photos and annotations into shards. The same command again goes on where it was stopped."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from icon_dist.arguments import Parser, at_least, text
from icon_dist.cli import run_cli
from icon_dist.errors import ConfigError, DataError, shown


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed words of ``icon-dist shards build``.

    ``max_input`` is (height, width) in px, or None; ``split`` is named after the first annotation file by default.
    Raises ConfigError for a mistake in the words.
    """
    parser = Parser("icon-dist shards build", __doc__)
    add = parser.add_argument
    add("dataset", choices=("coco", "mpii", "crowdpose", "custom"))
    add(
        "--annotations",
        type=annotation_file,
        action="append",
        required=True,
        metavar="FILE",
        help="repeat it to join several files",
    )
    add("--images", action="append", required=True, metavar="DIR", help="one for all annotation files, or one each")
    add("--out", required=True, metavar="DIR|s3://...")
    add("--skeleton", metavar="NAME|FILE", help="custom: a skeleton YAML, or lsp")
    add("--headboxes", metavar="FILE", help="mpii: gt_valid.mat, for PCKh")
    add("--boxes", metavar="FILE", help="pack a detector's boxes (COCO results json) instead of the annotated people")
    add("--split", type=str, metavar="NAME", help="name of the set; default: the name of the first annotation file")
    add(
        "--licence",
        type=one_line,
        metavar="TEXT",
        help="of the data, for the cards of models trained on it",
    )
    add("--max-input", default="384x288", metavar="HxW|none", help="largest input to train at; default %(default)s")
    add("--per-shard", type=at_least(1), default=1000, metavar="N", help="people in a shard; default %(default)s")
    add("--seed", type=int, default=0, help="of the one shuffle over shards; default %(default)s")
    add("--limit", type=at_least(1), metavar="N", help="only the first N people")
    add("--drop-invalid", action="store_true", help="leave bad annotations and photos out, with a warning")
    add("--exif", choices=("apply", "ignore"), help="turn photos upright as EXIF says, or use the pixels as stored")
    add("--jobs", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="processes; default: one per core")
    add("--ray", action="store_true", help="shards as Ray tasks; every node must see the photos and --out")
    options = parser.parse_args(argv)
    options.max_input = max_input(options.max_input)
    options.split = options.split or re.sub(r"\.json(\.gz)?$", "", Path(options.annotations[0]).name)
    if not options.split.isprintable():
        raise ConfigError(f"--split={options.split!r}: expected a name that can be printed")
    return options


def annotation_file(text: str) -> str:
    """An argparse type: a file that is not there is an error of data, whatever it is called."""
    if not text.strip():
        raise DataError(f"--annotations {text!r}: is empty; give the path of an annotation file")
    return text


def one_line(value: str) -> str:
    """An argparse type: text that fits on a line of a card."""
    if not text(value).isprintable() or len(value) > 200:
        raise argparse.ArgumentTypeError(f"{shown(value)} is not one line of at most 200 printable letters")
    return value


def max_input(text: str) -> tuple[int, int] | None:
    """Return (height, width) in px of ``HxW``, or None for ``none``; each side is from 10 to 9999 px.

    Raises ConfigError for any other text.
    """
    if text == "none":
        return None
    found = re.fullmatch(r"([1-9]\d{1,3})x([1-9]\d{1,3})", text)
    if found is None:
        raise ConfigError(f"--max-input={text}: expected HEIGHTxWIDTH in px such as 384x288, or none")
    return int(found[1]), int(found[2])


def main(argv: list[str]) -> None:
    """Run ``icon-dist shards build`` with these words: pack images and annotations into shards.

    Raises ConfigError for a mistake in the words, DataError for annotations or images that cannot be packed.
    """
    options = parse(argv)

    from icon_dist.shards import packing

    packing.run(options)


if __name__ == "__main__":
    run_cli(main)
