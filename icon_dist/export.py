"""Write a trained model as one ONNX or torch.export file, decoding included.

icon-dist export s3://bucket/runs/coco -o coco.onnx
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import PurePath
from typing import Any, NamedTuple

import safetensors.torch
import torch

from icon_dist import __version__, storage
from icon_dist.arguments import Parser, did_you_mean, text, whole
from icon_dist.checkpoints import manifest as manifests
from icon_dist.checkpoints.weights import Metadata, described, load_weights
from icon_dist.codec import Codec, codec_of
from icon_dist.codec.geometry import PADDING
from icon_dist.config import Config
from icon_dist.errors import ConfigError, plural, run_cli, say, shown, tell
from icon_dist.inference import export as programs
from icon_dist.inference.predictor import load_model
from icon_dist.metrics.score import main_metric
from icon_dist.models import PoseNet
from icon_dist.models.opecnet import OPECNet
from icon_dist.types import Skeleton

KINDS = (".onnx", ".pt2")
CROPS = 8  # to compare on


class Trained(NamedTuple):
    """A model and what its file says of it."""

    model: PoseNet
    config: Config
    skeleton: Skeleton
    codec: Codec
    metadata: Metadata
    sha256: str  # of its tensors


def which_checkpoint(value: str) -> str | int:
    """An argparse type: best, last, or the number of a step."""
    if text(value) in ("best", "last"):
        return value
    if not value[0].isdigit():
        like = did_you_mean(value, ("best", "last"))
        raise argparse.ArgumentTypeError(f"{shown(value)} is none of best, last or the number of a step{like}")
    return whole(value)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("icon-dist export", (__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run, or a fetched .safetensors file; path or s3://")
    add("-o", "--out", required=True, metavar="FILE", help="FILE.onnx, or FILE.pt2 for torch.export.load")
    use = "joints: uint8 crops to joints; rtmlib: heatmaps for rtmlib.ViTPose; default %(default)s"
    add("--for", dest="use", choices=tuple(programs.OUTPUTS), default="joints", help=use)
    which = "checkpoint of a run: best, last or a step; default: best, or last"
    add("--which", type=which_checkpoint, metavar="best|last|N", help=which)
    add("--net", type=int, choices=(1, 2), help="of a run with two students; default 1")
    decode = "how joints are read from heatmaps; default: as in the run's own evaluation"
    add("--decode", choices=("quarter", "argmax", "dark"), help=decode)
    add("--force", action="store_true", help="replace FILE if it exists")
    return parser.parse_args(argv)


def load(args: argparse.Namespace) -> Trained:
    """The model that the command line names, on the CPU."""
    tensors, metadata = load_weights(args.model, which=args.which, net=args.net or 1)
    config, skeleton = described(metadata, name=args.model)
    model = load_model(config, skeleton, tensors, colour=metadata.get("colour") or "rgb").eval()
    codec = codec_of(config, stride=model.stride)
    return Trained(
        model, config, skeleton, codec, metadata, hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
    )


def check_arguments(args: argparse.Namespace) -> str:
    """The kind of the file, after all that can be refused before work."""
    kind = PurePath(args.out).suffix
    if kind not in KINDS:
        raise ConfigError(f"-o {args.out}: ends with none of {', '.join(KINDS)}; name it FILE.onnx")
    if args.use == "rtmlib" and kind != ".onnx":
        raise ConfigError(f"-o {args.out}: rtmlib reads ONNX files; name it FILE.onnx")
    for place in (args.out, f"{args.out}.json"):
        if storage.exists(storage.absolute(place)) and not args.force:
            raise ConfigError(f"-o {args.out}: {place} exists; give another name, or --force to replace it")
        storage.require_place(storage.absolute(place))
    chosen = {"--which": args.which, "--net": args.net}
    is_run = storage.exists(storage.join(storage.absolute(args.model), manifests.FOLDER))
    if not is_run and (given := [name for name, value in chosen.items() if value is not None]):
        raise ConfigError(f"{given[0]}: {args.model} is no run with several checkpoints or nets; leave it out")
    programs.require_packages(kind)
    return kind


def main(argv: list[str]) -> None:
    args = arguments(argv)
    kind = check_arguments(args)
    found = load(args)
    decode, refine_below = args.decode or found.config.eval.decode, found.config.eval.refine_below
    joints = programs.JointsProgram(found.model, found.codec, decode=decode, refine_below=refine_below).eval()
    program = programs.RtmlibProgram(joints).eval() if args.use == "rtmlib" else joints
    crops = programs.drawn_crops(CROPS, hw=found.codec.input_hw)
    example = programs.input_of(program, crops[:2])
    tell(f"{found.config.model.backbone}: is traced, then compared with torch; this takes a minute")
    data = programs.convert(program, example, kind=kind, outputs=programs.OUTPUTS[args.use])
    agreed = programs.check(programs.opened(data, kind=kind), program, joints, crops, name=args.out)
    said = about(found, use=args.use, decode=decode)
    said |= {"file": PurePath(args.out).name, "sha256": hashlib.sha256(data).hexdigest()}
    write(storage.absolute(args.out), data, (json.dumps(said, indent=1) + "\n").encode())
    for line in summary(found, args.out, decode=decode, size=len(data)), str(agreed):
        say(line)


def summary(found: Trained, out: str, *, decode: str, size: int) -> str:
    """One line about the file."""
    height, width = found.codec.input_hw
    refined = f" refine_below={found.config.eval.refine_below:g}" if isinstance(found.model, OPECNet) else ""
    model = f"{found.config.model.backbone} {height}x{width}, {plural(found.skeleton.num_joints, 'joint')}"
    how = f"codec={found.codec.name} decode={decode}{refined}"
    return f"{out}: {model}, step {found.metadata['step']}, {how}, {size / 1e6:.1f} MB"


def write(out: str, data: bytes, about: bytes) -> None:
    """The program and the json beside it: both, or neither."""
    beside = f"{out}.json"
    before = storage.read(beside) if storage.exists(beside) else None
    storage.write(beside, about)
    try:
        storage.write(out, data)
    except BaseException:
        storage.delete(beside) if before is None else storage.write(beside, before)
        raise


def about(found: Trained, *, use: str, decode: str) -> dict[str, Any]:
    """What a user of the file must know, and where it is from: the json beside it."""
    skeleton, codec, metadata = found.skeleton, found.codec, found.metadata
    names = skeleton.joints
    data = metadata.get("data")
    refines = isinstance(found.model, OPECNet)
    return {
        "for": use,
        "skeleton": skeleton.name,
        "joints": list(names),
        "bones": [[names[a], names[b]] for a, b in skeleton.bones],
        "flips": [[names[a], names[b]] for a, b in skeleton.flips],
        "input": list(codec.input_hw),
        **programs.about_output(use, joints=skeleton.num_joints, hw=codec.input_hw),
        "normalization": "inside",
        "weights_channels": found.model.colour,
        "box_padding": PADDING,
        "codec": codec.name,
        "decode": decode,
        "flip_test": "outside",
        "refine_below": found.config.eval.refine_below if refines else None,
        "backbone": found.config.model.backbone,
        "weights": {"sha256": found.sha256, "step": metadata["step"], "checkpoint": metadata["checkpoint"]},
        "score": metadata.get("score"),
        "metric": main_metric(skeleton),
        "data": data,
        "licence_of_data": data.get("licence") if isinstance(data, dict) else None,
        "versions": {"icon_dist": __version__, "torch": str(torch.__version__)},
    }


if __name__ == "__main__":
    run_cli(main)
