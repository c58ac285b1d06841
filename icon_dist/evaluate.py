"""Score a checkpoint on a shard set: ``icon-dist evaluate CKPT [--shards URI] [--boxes gt|FILE]``.

Or predict what only a test server scores: ``--photos image_info_test-dev2017.json --boxes FILE --images DIR --results
FILE``. This is the command line; what it does is in :mod:`icon_dist.reports.evaluation`.
"""

from __future__ import annotations

import argparse

from icon_dist.cli import Parser, loading, number
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError, note, shown


def from_zero(text: str) -> float:
    """An argparse type: 0 or more."""
    if (value := number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number from 0 on")
    return value


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked, as far as the words themselves can be wrong."""
    parser = Parser("icon-dist evaluate", __doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a fetched .safetensors file, or a run (its best checkpoint); path or s3://")
    scored = parser.add_mutually_exclusive_group()
    scored.add_argument("--shards", metavar="URI", help="the set to score on, path or s3://; default: its own data.val")
    scored.add_argument("--photos", metavar="FILE", help="a test set: image_info_*.json of COCO, test.json of MPII")
    add("--boxes", default="gt", metavar="gt|FILE", help="ground truth, or a detector's COCO result json")
    add("--images", metavar="DIR", help="photos, for --photos and --boxes FILE; shards hold only the annotated people")
    add("--no-flip", action="store_true", help="one pass instead of the average with the mirrored photo")
    add("--net", type=int, choices=(1, 2), default=1, help="of a run with two students; default %(default)s")
    text = "of an OPEC-Net: refine joints with peaks below it; 0 = none, the base alone; default 0.2"
    add("--refine-below", type=from_zero, metavar="PEAK", help=text)
    add("--decode", choices=("quarter", "argmax", "dark"), default="quarter", help="default %(default)s")
    add("--metric", choices=("coco", "pck"), help="instead of that of the shards' skeleton: COCO's AP, or PCK@0.2")
    engines = ("pycocotools", "fast")
    add("--engine", choices=engines, default=engines[0], help="what computes AP; default %(default)s")
    parser.add_evaluation()
    text = "fit a calibration of scores to probabilities on these people; replaces the one beside the model"
    add("--calibrate", action="store_true", help=text)
    add("--json", metavar="FILE", help="also write conditions and scores here")
    add("--results", metavar="FILE", help="also write the poses for the test server: FILE.json, MPII's is FILE.mat")
    add("--picture", metavar="FILE.png", help="draw predictions beside the ground truth")
    add("--diagnose", metavar="DIR", help="write errors by kind and the worst people: page, numbers, pictures")
    text = "with --diagnose: another run; a label is judged by the run that was not trained on it"
    add("--second", metavar="CKPT", help=text)
    parser.add_force()
    args = parser.parse_args(argv)
    if args.photos and (args.diagnose or not args.results):
        raise ConfigError(f"--photos {args.photos}: has no truth to score by; give --results FILE and no --diagnose")
    if args.calibrate and (args.photos or args.boxes != "gt"):
        given = f"--photos {args.photos}" if args.photos else f"--boxes {args.boxes}"
        raise ConfigError(f"--calibrate: needs annotated people in their own boxes; leave {given} out")
    if args.second and (not args.diagnose or args.boxes != "gt"):
        raise ConfigError(f"--second {args.second}: goes with --diagnose DIR, for people in their own boxes")
    if args.calibrate and args.net != 1:
        raise ConfigError("--calibrate --net 2: fetch that network into a file, and calibrate the file")
    if args.images and args.boxes == "gt" and not args.photos:
        note(f"--images {args.images}: is not read, because shards hold their people; it goes with --boxes FILE")
    if args.picture and not args.picture.endswith(".png"):
        raise ConfigError(f"--picture {args.picture}: is drawn as PNG; name it FILE.png")
    return args


def main(argv: list[str]) -> None:
    """Run ``icon-dist evaluate`` with these words: score a checkpoint, or write predictions for a test server."""
    args = arguments(argv)

    with loading():
        from icon_dist.reports import evaluation

    evaluation.run(args)


if __name__ == "__main__":
    run_cli(main)
