"""Write a trained model as one ONNX or torch.export file, decoding included.

icon-dist export s3://bucket/runs/coco -o coco.onnx

What it does is in :mod:`icon_dist.inference.export_file`, the program in :mod:`icon_dist.inference.export_program`.
"""

from __future__ import annotations

import argparse

from icon_dist.cli import Parser, did_you_mean, loading, text, whole
from icon_dist.command_exit import run_cli
from icon_dist.errors import shown


def which_checkpoint(value: str) -> str | int:
    """An argparse type: best, last, or the number of a step."""
    if text(value) in ("best", "last"):
        return value
    if not value[0].isdigit():
        like = did_you_mean(value, ("best", "last"))
        raise argparse.ArgumentTypeError(f"{shown(value)} is none of best, last or the number of a step{like}")
    return whole(value)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the parsed words of ``icon-dist export``; raises ConfigError for a mistake in them."""
    parser = Parser("icon-dist export", __doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run, or a fetched .safetensors file; path or s3://")
    add("-o", "--out", required=True, metavar="FILE", help="FILE.onnx, or FILE.pt2 for torch.export.load")
    use = "joints: uint8 crops to joints; rtmlib: heatmaps for rtmlib.ViTPose; default %(default)s"
    add("--for", dest="use", choices=("joints", "rtmlib"), default="joints", help=use)
    which = "checkpoint of a run: best, last or a step; default: best, or last"
    add("--which", type=which_checkpoint, metavar="best|last|N", help=which)
    add("--net", type=int, choices=(1, 2), help="of a run with two students; default 1")
    decode = "how joints are read from heatmaps; default: as in the run's own evaluation"
    add("--decode", choices=("quarter", "argmax", "dark"), help=decode)
    parser.add_force()
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Run ``icon-dist export`` with these words: write a trained model as one ONNX or torch.export file."""
    args = arguments(argv)

    with loading():
        from icon_dist.inference import export_file

    export_file.run(args)


if __name__ == "__main__":
    run_cli(main)
