"""Score a checkpoint on a shard set: ``python -m icon_dist.evaluate CKPT --shards URI [--boxes gt|FILE]``.

Or predict what only a test server scores: ``--photos image_info_test-dev2017.json --boxes FILE --images DIR --results
FILE``.

The same two functions serve the training loop, where every rank predicts its share of the people.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from icon_dist import distributed, storage
from icon_dist.config import Config, EvalConfig
from icon_dist.data import decode as decoding
from icon_dist.data import geometry, heatmap
from icon_dist.data import subjects as who
from icon_dist.data.reading import People
from icon_dist.data.shard import open_shards
from icon_dist.data.stream import EvalStream
from icon_dist.data.subjects import first_photos
from icon_dist.diagnose import Scored, diagnose
from icon_dist.engine.checkpoint import require_same_tensors
from icon_dist.errors import CheckpointError, ConfigError, DivergedError, at_least, run_cli, shorten
from icon_dist.evaluation import draw, embedding, export
from icon_dist.evaluation.score import ENGINES, evaluator, score
from icon_dist.fetch import described, load_weights
from icon_dist.models import PoseNet, build_model
from icon_dist.models.opecnet import OPECNet
from icon_dist.pictures import Subject, tiles
from icon_dist.types import Batch, Outputs, Predictions, Skeleton

Forward = Callable[[UInt8[Tensor, "N H W 3"]], Outputs]
UNSURE = 0.2  # peaks below it: the joint comes from a model's refinement, if it has one (OPEC-Net's core/eval.py)


@torch.no_grad()
def predict(
    forward: Forward,
    batches: Iterable[Batch],
    people: People,
    *,
    input_hw: tuple[int, int],
    stride: int,
    codec: str,
    sigma: float,
    flip: bool,
    decode: str,
    device: str,
) -> Predictions:
    """Poses of the people in ``batches``, in photo px (METHOD 6). ``forward`` must be in evaluation mode.

    ``codec`` and ``sigma`` are those of the targets that the model was trained with.
    """
    flips = people.skeleton.flips
    rows, poses = [], []
    for batch in batches:
        image = batch.image.to(device, non_blocking=True)
        out = forward(image)
        maps = out.heatmaps.float()
        refined = None if out.joints is None else out.joints[-1].float()
        if flip:
            mirrored = forward(image.flip(2))
            maps = (maps + heatmap.flip_back(mirrored.heatmaps.float(), flips=flips, codec=codec)) / 2
            if refined is not None and mirrored.joints is not None:  # the public code does not average these
                back = heatmap.joints_back(mirrored.joints[-1].float(), flips=flips, width=image.shape[2])
                refined = (refined + back) / 2
        xy, peak = decoding.decode(maps, method=decode, sigma=sigma, codec=codec)
        xy = heatmap.to_input(xy, hw=(maps.shape[2], maps.shape[3]), stride=stride, codec=codec)
        matrix = batch.to_photo.to(device)
        xy = heatmap.to_photo(xy, matrix=matrix)
        if refined is not None:
            xy = torch.where(peak[..., None] < UNSURE, heatmap.to_photo(refined, matrix=matrix), xy)
        real = batch.row >= 0
        rows.append(batch.row[real].numpy())
        poses.append(torch.cat([xy, peak[..., None]], -1).cpu()[real].numpy())
    row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    _, scale = geometry.center_scale(people.box[row], aspect=input_hw[1] / input_hw[0])
    return Predictions(
        instance=people.instance[row],
        image_id=people.image_id[row],
        keypoints=np.concatenate(poses) if poses else np.zeros((0, people.skeleton.num_joints, 3), np.float32),
        box_score=people.score[row].astype(np.float32),
        area=(scale * 200).prod(-1).astype(np.float32),
    )


def evaluate(
    forward: Forward,
    people: People,
    truth: dict[str, Any] | None,
    *,
    input_hw: tuple[int, int],
    stride: int,
    codec: str,
    sigma: float,
    settings: EvalConfig,
    loaders: int,
    device: str,
) -> tuple[dict[str, float], Predictions]:
    """Scores (none without ``truth``) and predictions, the same on every rank; each rank runs its share of people.

    DivergedError where the model's answer is no number.
    """
    rows = first_photos(people, settings.limit) if settings.limit else None
    stream = EvalStream(
        people,
        rank=distributed.rank(),
        world=distributed.world_size(),
        batch=settings.batch,
        input_hw=input_hw,
        codec=codec,
        loaders=loaders,
        rows=rows,
        pin=device != "cpu",
    )
    with closing(stream):
        mine = predict(
            forward,
            stream,
            people,
            input_hw=input_hw,
            stride=stride,
            codec=codec,
            sigma=sigma,
            flip=settings.flip,
            decode=settings.decode,
            device=device,
        )
    predictions = join(distributed.gather_objects(mine))
    if broken := int((~np.isfinite(predictions.keypoints).all((1, 2))).sum()):  # on every rank alike
        raise DivergedError(
            f"the poses of {broken} of {len(predictions.instance)} people are not finite: the model has diverged; "
            "lower optim.lr, or take an earlier checkpoint"
        )
    scores: dict[str, float] = {}
    if truth is not None and distributed.rank() == 0:
        photos = None if rows is None else set(people.image_id[rows].tolist())
        scores = score(truth, predictions, people.skeleton, image_ids=photos, engine=settings.engine)
    return distributed.gather_objects(scores)[0], predictions


def join(parts: list[Predictions]) -> Predictions:
    """All ranks' predictions, in order of image and person: the same however many ranks there were."""
    whole = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Predictions)}
    order = np.lexsort((whole["instance"], whole["image_id"]))
    return Predictions(**{name: values[order] for name, values in whole.items()})


def conditions(settings: EvalConfig, skeleton: Skeleton, *, codec: str, split: str, boxes: str) -> str:
    """What every reported number must name."""
    flip = "yes" if settings.flip else "no"
    text = f"split={split} boxes={boxes} flip={flip} decode={settings.decode}"
    text += "" if codec == "msra" else f" codec={codec}"
    text += f" evaluator={evaluator(skeleton, engine=settings.engine)}"
    return text + (f" limit={settings.limit}" if settings.limit else "")


def picture(people: People, predictions: Predictions, *, aspect: float, count: int = 24) -> NDArray[np.uint8]:
    """Predicted poses of the first people, drawn on their crops over the thin ground truth."""
    rows = np.flatnonzero(np.isin(people.instance, predictions.instance))[:count]
    chosen = {int(p): k for k, p in enumerate(predictions.instance)}
    subjects = []
    for row, instance in zip(rows.tolist(), people.instance[rows].tolist(), strict=True):
        pose = predictions.keypoints[chosen[instance], :, :2].astype(np.float64)
        subjects.append(Subject(row, pose, people.keypoints[row].astype(np.float64), title=str(instance)))
    return draw.sheet(tiles(people, subjects, aspect=aspect), people.skeleton, columns=6)


def device(text: str) -> str:
    """An argparse type: where torch can compute here."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"--device {text}: {shorten(str(error))}; cpu is always there") from None
    return text


def main(argv: list[str]) -> None:
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
    add("--base", action="store_true", help="of an OPEC-Net: its base alone, without the refinement of unsure joints")
    add("--decode", choices=("quarter", "argmax", "dark"), default="quarter", help="default %(default)s")
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
    settings = EvalConfig(
        batch=args.batch, flip=not args.no_flip, decode=args.decode, engine=args.engine, limit=args.limit
    )
    tensors, metadata = load_weights(args.checkpoint, net=args.net)
    config, skeleton = described(metadata, name=args.checkpoint)
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
        chosen = who.annotated(shards, boxes=args.boxes, images=args.images)
    people, truth = chosen.people, chosen.truth
    model = load_model(config, skeleton, tensors, colour=metadata.get("colour") or "rgb").to(args.device).eval()
    if args.base and not isinstance(model, OPECNet):
        raise ConfigError(f"--base: {args.checkpoint} is {config.model.backbone}, which has no refinement to leave out")
    scores, predictions = evaluate(
        base_of(model) if args.base else model,
        people,
        truth,
        input_hw=config.input_hw,
        stride=model.stride,
        codec=config.data.codec,
        sigma=config.data.sigma,
        settings=settings,
        loaders=args.loaders,
        device=args.device,
    )
    what = conditions(settings, skeleton, codec=config.data.codec, split=chosen.split, boxes=chosen.boxes)
    what += " base" if args.base else ""
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
            input_hw=config.input_hw,
            codec=config.data.codec,
            batch=settings.batch,
            loaders=args.loaders,
            device=args.device,
            about={"checkpoint": metadata["checkpoint"], "step": metadata["step"], "conditions": what},
        )


def base_of(model: PoseNet) -> Forward:
    """The model without its refinement."""
    return lambda image: dataclasses.replace(model(image), joints=None)


def load_model(config: Config, skeleton: Skeleton, tensors: dict[str, Tensor], *, colour: str) -> PoseNet:
    """The model of a checkpoint without its projection head, which only training uses."""
    try:
        model = build_model(
            config.model.backbone,
            joints=skeleton.num_joints,
            projection=None,
            feature=config.model.feature,
            bones=skeleton.bones + skeleton.limbs,
            input_hw=config.input_hw,
        )
    except ConfigError as error:
        raise CheckpointError(f"checkpoint: {error}") from None
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("projection.")}
    require_same_tensors(weights, model.state_dict())
    model.load_state_dict(weights)
    model.colour = colour
    return model


if __name__ == "__main__":
    run_cli(main)
