"""A trained model as one ONNX or torch.export file and the json beside it: what ``icon-dist export`` does."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import PurePath

import safetensors.torch
import torch

from icon_dist import __version__, storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.codec.affine import PADDING
from icon_dist.errors import ConfigError, plural, say, tell
from icon_dist.inference import export_program as programs
from icon_dist.inference import trained
from icon_dist.inference.trained import Trained
from icon_dist.metrics.score import main_metric
from icon_dist.models.opecnet import OPECNet

KINDS = (".onnx", ".pt2")
CROPS = 8  # to compare on


def check_arguments(args: argparse.Namespace) -> str:
    """The kind of the file, after all that can be refused before work."""
    kind = PurePath(args.out).suffix
    if kind not in KINDS:
        raise ConfigError(f"-o {args.out}: ends with none of {', '.join(KINDS)}; name it FILE.onnx")
    if args.use == "rtmlib" and kind != ".onnx":
        raise ConfigError(f"-o {args.out}: rtmlib reads ONNX files; name it FILE.onnx")
    storage.require_new(f"-o {args.out}", args.out, f"{args.out}.json", force=args.force)
    chosen = {"--which": args.which, "--net": args.net}
    is_run = storage.exists(storage.join(storage.absolute(args.model), manifests.FOLDER))
    if not is_run and (given := [name for name, value in chosen.items() if value is not None]):
        raise ConfigError(f"{given[0]}: {args.model} is no run with several checkpoints or nets; leave it out")
    programs.require_packages(kind)
    return kind


def run(args: argparse.Namespace) -> None:
    """Write what the options of ``icon-dist export`` ask for. Raises IconErrors; then nothing is left behind."""
    kind = check_arguments(args)
    found = trained.load(args.model, which=args.which, net=args.net or 1)
    decode, refine_below = args.decode or found.weights.config.eval.decode, found.weights.config.eval.refine_below
    joints = programs.JointsProgram(found.model, found.codec, decode=decode, refine_below=refine_below).eval()
    program = programs.RtmlibProgram(joints).eval() if args.use == "rtmlib" else joints
    crops = programs.drawn_crops(CROPS, hw=found.codec.input_hw)
    example = programs.input_of(program, crops[:2])
    tell(f"{found.weights.config.model.backbone}: is traced, then compared with torch; this takes a minute")
    data = programs.convert(program, example, kind=kind, outputs=programs.OUTPUTS[args.use])
    agreed = programs.check(programs.opened(data, kind=kind), program, joints, crops, name=args.out)
    said = about(found, use=args.use, decode=decode)
    said |= {"file": PurePath(args.out).name, "sha256": hashlib.sha256(data).hexdigest()}
    write(storage.absolute(args.out), data, (json.dumps(said, indent=1) + "\n").encode())
    for line in summary(found, args.out, decode=decode, size=len(data)), str(agreed):
        say(line)


def summary(found: Trained, out: str, *, decode: str, size: int) -> str:
    """One line about the file."""
    config, (height, width) = found.weights.config, found.codec.input_hw
    refined = f" refine_below={config.eval.refine_below:g}" if isinstance(found.model, OPECNet) else ""
    model = f"{config.model.backbone} {height}x{width}, {plural(found.weights.skeleton.num_joints, 'joint')}"
    how = f"codec={found.codec.name} decode={decode}{refined}"
    return f"{out}: {model}, step {found.weights.step}, {how}, {size / 1e6:.1f} MB"


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


def about(found: Trained, *, use: str, decode: str) -> dict[str, object]:
    """What a user of the file must know, and where it is from: the json beside it."""
    weights, codec = found.weights, found.codec
    skeleton = weights.skeleton
    names = skeleton.joints
    sha256 = hashlib.sha256(safetensors.torch.save(weights.tensors)).hexdigest()
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
        "weights_channels": found.model.channel_order,
        "box_padding": PADDING,
        "codec": codec.name,
        "decode": decode,
        "flip_test": "outside",
        "refine_below": found.weights.config.eval.refine_below if refines else None,
        "backbone": found.weights.config.model.backbone,
        "weights": {"sha256": sha256, "step": weights.step, "checkpoint": weights.checkpoint},
        "score": weights.score,
        "metric": weights.headline or main_metric(skeleton),
        "data": weights.data,
        "licence_of_data": weights.data.get("licence") if weights.data else None,
        "versions": {"icon_dist": __version__, "torch": str(torch.__version__)},
    }
