"""Score a checkpoint on a shard set: ``icon-dist evaluate CKPT --shards URI [--boxes gt|FILE]``.

Or predict what only a test server scores: ``--photos image_info_test-dev2017.json --boxes FILE --images DIR --results
FILE``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator

from icon_dist import storage
from icon_dist.arguments import Parser, at_least, number
from icon_dist.checkpoints.weights import described, load_weights
from icon_dist.codec import codec_of
from icon_dist.config import EvalConfig
from icon_dist.drawing import skeletons
from icon_dist.errors import CheckpointError, ConfigError, note, plural, run_cli, say, shown
from icon_dist.inference import boxes as who
from icon_dist.inference.boxes import photos_of
from icon_dist.inference.device import available, default_device
from icon_dist.inference.predictor import conditions, evaluate, load_model
from icon_dist.metrics import embedding, result_files
from icon_dist.metrics.score import ENGINES, check_truth, main_metric, require_evaluator
from icon_dist.models.opecnet import OPECNet
from icon_dist.reports.diagnosis import Scored, diagnose
from icon_dist.reports.pictures import picture
from icon_dist.shards.shard_set import open_shards
from icon_dist.types import Skeleton


def level(text: str) -> float:
    """An argparse type: 0 or more."""
    if (value := number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number from 0 on")
    return value


def measured_by(metric: str | None, skeleton: Skeleton) -> Skeleton:
    """The skeleton with another metric than its own, if one was asked for."""
    if metric == "pck" and skeleton.torso[0] == skeleton.torso[1]:
        raise ConfigError(f"--metric {metric}: skeleton {skeleton.name} names no torso to measure by; give it one")
    return skeleton if metric is None else dataclasses.replace(skeleton, metric=metric)


def require_same_joints(skeleton: Skeleton, theirs: Skeleton, *, checkpoint: str, shards: str) -> None:
    """CheckpointError where the weights predict other joints than those of the shards; a note about other sigmas."""
    if theirs.joints != skeleton.joints:
        raise CheckpointError(
            f"{checkpoint}: predicts {plural(skeleton.num_joints, 'joint')} of {skeleton.name}, {shards} has "
            f"{theirs.num_joints} of {theirs.name}{_first_other(skeleton.joints, theirs.joints)}; use shards of the "
            "same skeleton"
        )
    if theirs.flips != skeleton.flips:
        raise CheckpointError(
            f"{checkpoint}: mirrors other joints (flips) than {shards}; use shards of the same skeleton"
        )
    if theirs.sigmas != skeleton.sigmas:
        note(f"{shards}: other sigmas than {checkpoint} was trained with; these shards' count")


def _first_other(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Of as many joints, the first that has another name."""
    if len(mine) != len(theirs):
        return ""
    return next(
        f" (joint {i} is {shown(a)}, not {shown(b)})"
        for i, (a, b) in enumerate(zip(theirs, mine, strict=True))
        if a != b
    )


def doubts(scores: dict[str, float], skeleton: Skeleton, *, poses: int) -> Iterator[str]:
    """What to think of before these scores are believed."""
    main = main_metric(skeleton)
    if round(scores[main], 4) <= 0:
        near = f"none of {plural(poses, 'pose')} is near a person's"
        yield f"{main} is 0: {near}; is the checkpoint trained, and are photos and boxes like those it is trained on?"
    if main == "AP" and skeleton.num_joints == 1:
        yield "poses of one joint have no size, so AP (M) and AP (L) leave wrong ones out; AP and AP .5 count them all"


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked, if it can be done: places that cannot be written are errors before the work."""
    assert __doc__ is not None
    parser = Parser("icon-dist evaluate", __doc__.splitlines()[0])
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
    add("--device", type=available, default=default_device(), help="default %(default)s")
    add("--json", metavar="FILE", help="also write conditions and scores here")
    add("--results", metavar="FILE", help="also write the poses for the test server: FILE.json, MPII's is FILE.mat")
    add("--picture", metavar="FILE.png", help="draw predictions beside the ground truth")
    add("--diagnose", metavar="DIR", help="write what goes wrong, and for whom: a page, its numbers and pictures")
    args = parser.parse_args(argv)
    if args.photos and (args.diagnose or not args.results):
        raise ConfigError(f"--photos {args.photos}: has no truth to score by; give --results FILE and no --diagnose")
    if args.images and args.boxes == "gt" and not args.photos:
        note(f"--images {args.images}: is not read, because shards hold their people; it goes with --boxes FILE")
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
        result_files.check_results(args.results, skeleton, boxes=args.boxes)
    if args.photos:
        chosen = who.unlabelled(args.photos, skeleton=skeleton, boxes=args.boxes, images=args.images)
    else:
        shards = open_shards(args.shards, input_hw=config.input_hw)
        require_same_joints(skeleton, shards.skeleton, checkpoint=args.checkpoint, shards=args.shards)
        shards = dataclasses.replace(shards, skeleton=measured_by(args.metric, shards.skeleton))
        chosen = who.annotated(shards, boxes=args.boxes, images=args.images)
    people, truth = chosen.people, chosen.truth
    if settings.limit > len(people.instance):
        boxes = plural(len(people.instance), "box", "boxes")
        note(f"--limit {settings.limit}: the set has {boxes}; all of them count")
    photos = photos_of(people, settings.limit)
    if truth is not None:
        check_truth(truth, people.skeleton, boxes=chosen.boxes, image_ids=photos)
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
        say(f"{name:<{width}}  {value:8.4f}  {what}")
    for text in doubts(scores, people.skeleton, poses=len(predictions.instance)) if scores else ():
        note(text)
    if args.json:
        result = {"scores": scores, "conditions": what, "checkpoint": metadata["checkpoint"], "step": metadata["step"]}
        storage.write(storage.absolute(args.json), (json.dumps(result, indent=1) + "\n").encode())
    if args.results:
        ids = people.instance.tolist() if truth is None else [one["id"] for one in truth["annotations"]]
        file = result_files.results(predictions, skeleton, people=ids, category=chosen.category)
        storage.write(storage.absolute(args.results), file)
        say(f"{args.results}: poses of {plural(len(predictions.instance), 'box', 'boxes')}  {what}")
    if args.picture:
        height, width = config.input_hw
        skeletons.write_png(storage.absolute(args.picture), picture(people, predictions, aspect=width / height))
    if args.diagnose:
        assert truth is not None
        every = {image["id"] for image in truth["images"]}
        diagnose(
            storage.absolute(args.diagnose),
            Scored(people, truth, predictions, scores, every if photos is None else photos, args.boxes),
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
