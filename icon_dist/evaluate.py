"""Score a checkpoint on a shard set: ``python -m icon_dist.evaluate CKPT --shards URI [--boxes gt|FILE]``.

Or predict what only a test server scores: ``--photos image_info_test-dev2017.json --boxes FILE --images DIR --results
FILE``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os

import torch

from icon_dist import storage
from icon_dist.codec import codec_of
from icon_dist.config import EvalConfig
from icon_dist.data import subjects as who
from icon_dist.data.shard import open_shards
from icon_dist.data.subjects import first_photos
from icon_dist.diagnose import Scored, diagnose
from icon_dist.errors import CheckpointError, ConfigError, at_least, run_cli, shorten, shown
from icon_dist.evaluation import draw, embedding, export
from icon_dist.evaluation.score import ENGINES, require_evaluator
from icon_dist.fetch import described, load_weights
from icon_dist.models.opecnet import OPECNet
from icon_dist.pictures import picture
from icon_dist.predict import conditions, evaluate, load_model
from icon_dist.types import Skeleton


def level(text: str) -> float:
    """An argparse type: 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number from 0 on")
    return value


def device(text: str) -> str:
    """An argparse type: where torch can compute here."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"--device {text}: {shorten(str(error))}; cpu is always there") from None
    return text


def measured_by(metric: str | None, skeleton: Skeleton) -> Skeleton:
    """The skeleton with another metric than its own, if one was asked for."""
    if metric == "pck" and skeleton.torso[0] == skeleton.torso[1]:
        raise ConfigError(f"--metric {metric}: skeleton {skeleton.name} names no torso to measure by; give it one")
    return skeleton if metric is None else dataclasses.replace(skeleton, metric=metric)


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked, if it can be done: places that cannot be written are errors before the work."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m icon_dist.evaluate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a fetched .safetensors file, or a run (its best checkpoint); path or s3://")
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument("--shards", metavar="URI", help="the set to score on; path or s3://")
    scored.add_argument("--photos", metavar="FILE", help="a test set: image_info_*.json of COCO, test.json of MPII")
    add("--boxes", default="gt", metavar="gt|FILE", help="ground truth, or a detector's COCO result json")
    add("--images", metavar="DIR", help="photos, for --photos and --boxes FILE; shards hold only the annotated people")
    add("--no-flip", action="store_true", help="one pass instead of the average with the mirrored photo")
    add("--net", type=int, choices=(1, 2), default=1, help="of a run with two students; default %(default)s")
    unsure = EvalConfig().refine_below
    text = "of an OPEC-Net: refine joints with peaks below it; 0 = none, the base alone; default %(default)s"
    add("--refine-below", type=level, default=unsure, metavar="PEAK", help=text)
    add("--decode", choices=("quarter", "argmax", "dark"), default="quarter", help="default %(default)s")
    add("--metric", choices=("coco", "pck"), help="instead of that of the shards' skeleton: COCO's AP, or PCK@0.2")
    add("--engine", choices=ENGINES, default="pycocotools", help="what computes AP; default %(default)s")
    add("--batch", type=at_least(1), default=32, help="default %(default)s")
    add("--limit", type=at_least(0), default=0, metavar="N", help="only the first N boxes")
    cores = max(1, (os.cpu_count() or 1) - 1)
    add("--loaders", type=at_least(0), default=cores, help="decoding processes; default %(default)s")
    add("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    add("--json", metavar="FILE", help="also write conditions and scores here")
    add("--results", metavar="FILE", help="also write the poses for the test server: FILE.json, MPII's is FILE.mat")
    add("--picture", metavar="FILE.png", help="draw predictions beside the ground truth")
    add("--diagnose", metavar="DIR", help="write what goes wrong, and for whom: a page, its numbers and pictures")
    args = parser.parse_args(argv)
    if args.photos and (args.diagnose or not args.results):
        raise ConfigError(f"--photos {args.photos}: has no truth to score by; give --results FILE and no --diagnose")
    if args.picture and not args.picture.endswith(".png"):
        raise ConfigError(f"--picture {args.picture}: is drawn as PNG; name it FILE.png")
    if args.diagnose:
        embedding.require_tsne()
    page = args.diagnose and f"{args.diagnose}/diagnosis.html"
    for place in filter(None, (args.json, args.results, args.picture, page)):
        storage.require_place(place)
    return args


def main(argv: list[str]) -> None:
    args = arguments(argv)
    settings = EvalConfig(
        batch=args.batch,
        flip=not args.no_flip,
        decode=args.decode,
        refine_below=args.refine_below,
        engine=args.engine,
        limit=args.limit,
    )
    tensors, metadata = load_weights(args.checkpoint, net=args.net)
    config, skeleton = described(metadata, name=args.checkpoint)
    skeleton = measured_by(args.metric, skeleton)
    if args.results:
        export.check_results(args.results, skeleton, boxes=args.boxes)
    if args.photos:
        chosen = who.unlabelled(args.photos, skeleton=skeleton, boxes=args.boxes, images=args.images)
    else:
        shards = open_shards(args.shards, input_hw=config.input_hw)
        if shards.skeleton.joints != skeleton.joints:
            raise CheckpointError(
                f"{args.checkpoint}: predicts {skeleton.num_joints} joints of {skeleton.name}, {args.shards} has "
                f"{shards.skeleton.num_joints} of {shards.skeleton.name}; use shards of the same skeleton"
            )
        shards = dataclasses.replace(shards, skeleton=measured_by(args.metric, shards.skeleton))
        chosen = who.annotated(shards, boxes=args.boxes, images=args.images)
    people, truth = chosen.people, chosen.truth
    if truth is not None:
        require_evaluator(people.skeleton, engine=args.engine)
    model = load_model(config, skeleton, tensors, colour=metadata.get("colour") or "rgb").to(args.device).eval()
    if args.refine_below != EvalConfig().refine_below and not isinstance(model, OPECNet):
        raise ConfigError(f"--refine-below: {args.checkpoint} is {config.model.backbone}, which does not refine joints")
    codec = codec_of(config, stride=model.stride)
    scores, predictions = evaluate(
        model, people, truth, codec=codec, settings=settings, loaders=args.loaders, device=args.device
    )
    what = conditions(settings, people.skeleton, codec=codec.name, split=chosen.split, boxes=chosen.boxes)
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:8.4f}  {what}")
    if args.json:
        result = {"scores": scores, "conditions": what, "checkpoint": metadata["checkpoint"], "step": metadata["step"]}
        storage.write(storage.absolute(args.json), (json.dumps(result, indent=1) + "\n").encode())
    if args.results:
        ids = people.instance.tolist() if truth is None else [one["id"] for one in truth["annotations"]]
        storage.write(storage.absolute(args.results), export.results(predictions, skeleton, people=ids))
        print(f"{args.results}: poses of {len(predictions.instance)} boxes  {what}")
    if args.picture:
        height, width = config.input_hw
        draw.write_png(storage.absolute(args.picture), picture(people, predictions, aspect=width / height))
    if args.diagnose:
        assert truth is not None
        photos = {image["id"] for image in truth["images"]}
        if settings.limit:
            photos = set(people.image_id[first_photos(people, settings.limit)].tolist())
        diagnose(
            storage.absolute(args.diagnose),
            Scored(people, truth, predictions, scores, photos, args.boxes),
            model=model,
            shards=shards,
            codec=codec,
            batch=settings.batch,
            loaders=args.loaders,
            device=args.device,
            about={"checkpoint": metadata["checkpoint"], "step": metadata["step"], "conditions": what},
        )


if __name__ == "__main__":
    run_cli(main)
