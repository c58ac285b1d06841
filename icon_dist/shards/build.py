"""Pack photos and annotations into shards. The same command again goes on where it was stopped."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from icon_dist.cli import Parser, at_least, number, text
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, DataError, shown

DATASETS = ("coco", "mpii", "crowdpose", "custom", "yolo", "labelstudio", "wholebody133", "aic14")
READ = ("annotations", "images", "skeleton", "headboxes", "boxes")  # options that name what is read
SHIPPED = "a name (lsp, halpe26, ap10k, ochuman, humanart, posetrack18, coco, ...)"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed words of ``icon-dist shards build``.

    ``max_input`` is (height, width) in px, or None; ``split`` is named after the first annotation file by default.
    Raises ConfigError for a mistake in the words.
    """
    parser = Parser("icon-dist shards build", __doc__)
    add = parser.add_argument
    add("dataset", nargs="?", choices=DATASETS)  # "?": what is missing is said together with missing options
    add("files", nargs="*", default=[], type=annotation_file, metavar="FILE", help="annotation files, as --annotations")
    add("--annotations", type=annotation_file, action="append", metavar="FILE", help="repeat it to join several files")
    about = "one for all annotation files, or one each; yolo: instead of the file's own path"
    add("--images", action="append", metavar="DIR", help=about)
    add("--out", metavar="DIR|s3://...")
    add("--skeleton", metavar="NAME|FILE", help=f"a skeleton YAML or {SHIPPED}; derived without")
    about = "OKS constants of a derived skeleton: one for all, or one each"
    add("--sigmas", type=sigmas, metavar="S[,S...]", help=about)
    add("--headboxes", metavar="FILE", help="mpii: gt_valid.mat, for PCKh")
    add("--boxes", metavar="FILE", help="pack a detector's boxes (COCO results json) instead of the annotated people")
    about = "name of the set; yolo: which to read, default train; else the name of the first annotation file"
    add("--split", type=str, metavar="NAME", help=about)
    add("--licence", type=one_line, metavar="TEXT", help="of the data, for the cards of models trained on it")
    add("--max-input", default="384x288", metavar="HxW|none", help="largest input to train at; default %(default)s")
    add("--per-shard", type=at_least(1), default=1000, metavar="N", help="people in a shard; default %(default)s")
    add("--seed", type=int, default=0, help="of the one shuffle over shards; default %(default)s")
    add("--limit", type=at_least(1), metavar="N", help="only the first N people")
    add("--drop-invalid", action="store_true", help="leave bad annotations and photos out, with a warning")
    add("--exif", choices=("apply", "ignore"), help="turn photos upright as EXIF says, or use the pixels as stored")
    add("--jobs", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="processes; default: one per core")
    add("--ray", action="store_true", help="shards as Ray tasks; every node must see the photos and --out")
    options = parser.parse_intermixed_args(argv)
    options.max_input = max_input(options.max_input)
    if options.annotations and options.files:
        parser.error(f"unrecognized arguments: {' '.join(options.files)}, beside --annotations")
    options.annotations = options.annotations or options.files
    needed = {"dataset": options.dataset, "--annotations": options.annotations}
    needed |= {"--images": options.images or options.dataset == "yolo", "--out": options.out}
    if missing := [name for name, there in needed.items() if not there]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    named = ((name, value) for name in READ for value in _listed(getattr(options, name)))
    for name, value in named:
        if re.match(r"\w+://", value):
            fix = "copy it to a disk first, such as by aws s3 sync; only --out may be s3://"
            raise DataError(f"--{name}={shown(value)}: labels and photos are read from a disk; {fix}")
    if options.skeleton and options.sigmas:
        raise ConfigError("--sigmas: for a skeleton that is derived; that of --skeleton has its own, change them there")
    if options.dataset != "yolo":
        options.split = options.split or re.sub(r"\.json(\.gz)?$", "", Path(options.annotations[0]).name)
    if options.split and not options.split.isprintable():
        raise ConfigError(f"--split={options.split!r}: expected a name that can be printed")
    return options


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def sigmas(value: str) -> tuple[float, ...]:
    """An argparse type: numbers from .001 to 1, separated by commas."""
    found = tuple(number(part) for part in value.split(","))
    if not all(0.001 <= sigma <= 1 for sigma in found):
        raise argparse.ArgumentTypeError(f"{shown(value)}: expected numbers from .001 to 1, as COCO's of .025 to .107")
    return found


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
