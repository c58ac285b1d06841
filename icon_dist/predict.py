"""Draw and write the poses of your own photos and videos.

icon-dist predict MODEL PHOTO|DIR|VIDEO... [--boxes whole|x,y,w,h|FILE.json|DETECTOR.onnx] [-o out/]

What it does is in :mod:`icon_dist.inference.predict_files`. One image in Python is ``icon_dist.load``, which is in
:mod:`icon_dist.inference.estimator`.
"""

from __future__ import annotations

import argparse
import re

from icon_dist.cli import Once, Parser, at_least, loading, number
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, shown

WHOLE = "whole"


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the command line says, checked as far as it can be by itself."""
    parser = Parser("icon-dist predict", __doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run (its best checkpoint) or a fetched .safetensors file; path or s3://")
    add("inputs", metavar="PHOTO|DIR|VIDEO", nargs="+", help="photos, folders of photos, videos")
    text = "where the instances are: the whole photo, a box in px, a COCO file, or RTMDet or YOLOX; default whole"
    add("--boxes", action=Once, metavar="whole|x,y,w,h|FILE.json|DETECTOR.onnx", help=text)
    text = (
        "leave out boxes of a detector that have a lower score; default 0.3, of a file with poses or without scores 0"
    )
    add("--min-score", type=number, metavar="SCORE", help=text)
    text = "folder for the drawn photos and poses.json; default %(default)s"
    add("-o", "--out", default="out", metavar="DIR", help=text)
    text = "follow the instances of a video, or of a folder of frames: a number and a color for each"
    add("--track", action="store_true", help=text)
    add("--skip-bad", action="store_true", help="name photos that cannot be read, and go on without them")
    parser.add_force()
    add("--flip", action="store_true", help="average with the mirrored photo: a little better, at twice the time")
    add("--device", metavar="NAME", help="such as cpu or cuda:1; default: a GPU if there is one")
    add("--batch", type=at_least(1), default=32, help="instances at once; default %(default)s")
    args = parser.parse_intermixed_args(argv)
    parse_boxes(args)
    if args.min_score is not None and args.kind not in ("file", "detector"):
        raise ConfigError("--min-score: is about boxes with scores; give --boxes FILE.json or DETECTOR.onnx")
    return args


def parse_boxes(args: argparse.Namespace) -> None:
    """Set ``args.kind`` to what ``--boxes`` is: ``whole``, ``box``, ``file`` or ``detector``; ``args.box`` to a box."""
    boxes, args.box = args.boxes or WHOLE, None
    if boxes == WHOLE:
        args.kind = "whole"
    elif re.search(r"\.json(\.gz)?$", boxes, re.IGNORECASE):
        args.kind = "file"
    elif boxes.lower().endswith(".onnx"):
        args.kind = "detector"
    elif "," in boxes:
        args.kind, args.box = "box", parse_box(boxes)
    else:
        expected = "expected whole, x,y,w,h in px, a COCO FILE.json, or a DETECTOR.onnx"
        raise ConfigError(f"--boxes {shown(boxes)}: {expected}")


def parse_box(text: str) -> list[float]:
    """Four numbers x, y, w, h in px; ConfigError for anything else."""
    try:
        x, y, w, h = map(number, text.replace(" ", "").split(","))
    except (ValueError, argparse.ArgumentTypeError):
        w = h = 0
    if min(w, h) <= 0:
        raise ConfigError(f"--boxes {shown(text)}: expected four numbers x,y,w,h in px, width and height above 0")
    return [x, y, w, h]


def main(argv: list[str]) -> None:
    """Run ``icon-dist predict`` with these words: write and draw the poses of images and videos."""
    args = arguments(argv)

    with loading():
        from icon_dist.inference import predict_files

    predict_files.run(args)


if __name__ == "__main__":
    run_cli(main)
