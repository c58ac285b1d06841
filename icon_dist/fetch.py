"""Fetch weights of a run, or public ones, into one safetensors file, with a card beside it that says what they are.

icon-dist fetch s3://bucket/runs/w48 --best -o best.safetensors
icon-dist fetch runs/coco_vit_b --hf coco_vit_b      # for transformers
icon-dist fetch hrnet_w32_coco.pth --cfg coco -o w32.safetensors      # public weights, as the config reads them

The file is :mod:`icon_dist.checkpoints.weights`, the card :mod:`icon_dist.checkpoints.card`, and the folder for
transformers :mod:`icon_dist.inference.transformers_folder`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from icon_dist import storage
from icon_dist.cli import Parser
from icon_dist.command_exit import run_cli
from icon_dist.errors import CheckpointError, ConfigError, plural, say, shown

if TYPE_CHECKING:
    from icon_dist.checkpoints.weights import Weights


def _list(run_uri: str, net: int) -> None:
    from icon_dist.checkpoints import checkpoint
    from icon_dist.checkpoints import manifest as manifests
    from icon_dist.checkpoints import weights as stored_weights
    from icon_dist.checkpoints.not_a_run import not_a_run
    from icon_dist.metrics.score import MAIN
    from icon_dist.types import score_text

    found = checkpoint.entries(run_uri)
    if not found:
        raise CheckpointError(f"{run_uri}: {not_a_run(run_uri)}")
    print(f"{'step':>10}  {'score %':>7}  {'MB':>7}  attempt")
    for entry in found:
        whole = manifests.whole(entry)
        score = None if whole is None else stored_weights.score_of(net, whole)
        note = "" if whole else "  incomplete"
        skeleton = whole["skeleton"] if whole is not None and "skeleton" in whole else {}
        headline = whole and whole.get("headline")
        shown = score_text(headline or MAIN.get(str(skeleton.get("metric")), ""), score)
        print(f"{entry.step:>10}  {shown:>7}  {sum(entry.files.values()) / 1e6:>7.1f}  {entry.attempt}{note}")


def _write_folder(run_uri: str, args: argparse.Namespace) -> None:
    """``--hf``: the weights of a run, or of a fetched file, for transformers."""
    folder = storage.absolute(args.hf)
    if storage.is_remote(folder):
        raise ConfigError(f"--hf {args.hf}: transformers opens a folder of this machine; give a path, and copy it then")
    from icon_dist.checkpoints import card
    from icon_dist.checkpoints import weights as stored_weights
    from icon_dist.inference import transformers_folder
    from icon_dist.storage import local

    local.require_new_folder(Path(folder))
    weights = _public(run_uri, args) if args.cfg else stored_weights.load(run_uri, which=args.which, net=args.net)
    files, metadata = transformers_folder.files(weights), stored_weights.metadata_of(weights)
    sha256 = hashlib.sha256(files[transformers_folder.WEIGHTS]).hexdigest()
    count = sum(value.numel() for value in weights.tensors.values())
    files["README.md"] = card.card(metadata, file=Path(folder).name, sha256=sha256, numbers=count, hf=True).encode()
    transformers_folder.write(folder, files)
    say(f"{args.hf}: {_said(weights)}, {', '.join(files)}, from {weights.checkpoint}")


def _public(uri: str, args: argparse.Namespace) -> Weights:
    from icon_dist import config
    from icon_dist.training import start_weights

    return start_weights.as_trained(uri, config.load(args.cfg, args.overrides))


def _said(weights: Weights) -> str:
    """What the weights are, in a line that says what was written."""
    from icon_dist.metrics.score import headline_text

    if weights.step == 0 and weights.pretrained is not None:
        return f"{weights.pretrained['kind']}, {plural(weights.skeleton.num_joints, 'joint')}"
    return f"step {weights.step}, {headline_text(weights.skeleton, weights.score, weights.headline)}"


def main(argv: list[str]) -> None:
    """Run ``icon-dist fetch`` with these words: write weights and a card, or list the checkpoints of a run.

    Raises ConfigError for a mistake in the words, CheckpointError where no intact checkpoint is found.
    """
    parser = Parser("icon-dist fetch", __doc__.splitlines()[0])
    text = "folder of a run: path or s3://bucket/runs/name; with --cfg a file of public weights"
    parser.add_argument("run", help=text)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--best", action="store_const", dest="which", const="best", help="highest score, of --net")
    wanted.add_argument("--last", action="store_const", dest="which", const="last", help="newest intact")
    wanted.add_argument("--step", type=int, dest="which", metavar="N", help="of this step; default: --best, or --last")
    wanted.add_argument("--list", action="store_true", help="show what is there and write nothing")
    parser.add_argument("--net", type=int, choices=(1, 2), default=1, help="of semi.method=sspose; default %(default)s")
    text = "the safetensors file to write; its card, FILE.md, is written beside it"
    parser.add_argument("-o", "--out", metavar="FILE", help=text)
    parser.add_force()
    folder = "the folder to write for VitPoseForPoseEstimation.from_pretrained of transformers; of a vit_... alone"
    parser.add_argument("--hf", metavar="DIR", help=folder)
    parser.add_config(overrides="what the public weights need beside --cfg, such as data.codec=udp", required=False)
    args = parser.parse_intermixed_args(argv)
    run_uri = storage.absolute(args.run)
    if args.overrides and not args.cfg:
        surplus = " ".join(map(shown, args.overrides))
        parser.error(f"unrecognized arguments: {surplus}; values of a config are for public weights and want --cfg")
    if args.cfg and (args.list or args.which or args.net != 1):
        raise ConfigError("--cfg: is for a file of public weights, without --list, --best, --last, --step and --net")
    if args.list:
        _list(run_uri, args.net)
        return
    if args.hf and args.out:
        raise ConfigError("--hf, -o: two places to write to; give one of them")
    if args.hf:
        _write_folder(run_uri, args)
        return
    if not args.out:
        raise ConfigError("-o FILE: missing; say where to write the weights, or use --list")
    out = storage.absolute(args.out)
    if Path(out).suffix != ".safetensors":
        raise ConfigError(f"-o {args.out}: the file is written in the safetensors format; name it .safetensors")
    from icon_dist.checkpoints import card
    from icon_dist.checkpoints import weights as stored_weights
    from icon_dist.inference import calibration_file

    storage.require_new(f"-o {args.out}", out, force=args.force)
    storage.require_place(card.place(out))

    # Beside the file, so that the same command goes on where a lost connection or Ctrl-C left it.
    parts = None if storage.is_remote(out) else Path(out).parent
    if args.cfg:
        weights = _public(run_uri, args)
    else:
        found = stored_weights.find(run_uri, args.which, net=args.net, parts=parts)
        weights = stored_weights.of_checkpoint(found, net=args.net)
    data, count = stored_weights.encode(weights), sum(value.numel() for value in weights.tensors.values())
    storage.write(out, data)
    sha256 = hashlib.sha256(data).hexdigest()
    if not args.cfg and (known := calibration_file.read(run_uri, weights)) is not None:
        calibration_file.write(calibration_file.place_of(out), known)
    card.write(out, card.card(stored_weights.metadata_of(weights), file=out, sha256=sha256, numbers=count))
    say(f"{args.out}: {_said(weights)}, {count:,} numbers, from {weights.checkpoint}")


if __name__ == "__main__":
    run_cli(main)
