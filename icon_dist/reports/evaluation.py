"""A checkpoint scored on a set: what ``icon-dist evaluate`` does, prints and writes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from contextlib import nullcontext

from icon_dist import storage
from icon_dist.checkpoints import weights as stored_weights
from icon_dist.checkpoints.weights import Weights
from icon_dist.config import Config, EvalConfig, sets_of
from icon_dist.cpu import keep_freed_memory
from icon_dist.datasets.merged_skeleton import columns, missing, other_mirrors
from icon_dist.drawing import skeletons
from icon_dist.errors import CheckpointError, ConfigError, DataError, naming, note, plural, say, shorten, shown, tell
from icon_dist.inference import boxes as who
from icon_dist.inference import calibration_file
from icon_dist.inference.boxes import photos_of
from icon_dist.inference.device import chosen_device
from icon_dist.inference.predictor import conditions
from icon_dist.inference.trained import restored
from icon_dist.metrics import embedding, result_files
from icon_dist.metrics.score import check_truth, main_metric, require_evaluator
from icon_dist.models.opecnet import OPECNet
from icon_dist.reports import calibration
from icon_dist.reports.calibration import HELD_OUT
from icon_dist.reports.diagnosis import Scored, diagnose, read_features
from icon_dist.reports.pictures import picture
from icon_dist.reports.score_checks import Asked, judge
from icon_dist.shards.shard_set import ShardSet, open_shards
from icon_dist.types import Predictions, Skeleton, score_text


def measured_by(metric: str | None, skeleton: Skeleton) -> Skeleton:
    """The skeleton with another metric than its own, if one was asked for."""
    if metric == "pck" and skeleton.torso[0] == skeleton.torso[1]:
        raise ConfigError(f"--metric {metric}: skeleton {skeleton.name} names no torso to measure by; give it one")
    return skeleton if metric is None else dataclasses.replace(skeleton, metric=metric)


def require_same_joints(skeleton: Skeleton, theirs: Skeleton, *, checkpoint: str, shards: str) -> None:
    """CheckpointError where the weights do not predict all joints of the shards; notes about what is unusual.

    Joints are the same by name: a model of more joints is scored on those that the shards have.
    """
    if missing(skeleton, theirs):
        raise CheckpointError(
            f"{checkpoint}: predicts {plural(skeleton.num_joints, 'joint')} of {skeleton.name}, {shards} has "
            f"{theirs.num_joints} of {theirs.name}{_first_other(skeleton.joints, theirs.joints)}; use shards of the "
            "same skeleton"
        )
    if other_mirrors(skeleton, theirs):
        raise CheckpointError(
            f"{checkpoint}: mirrors other joints (flips) than {shards}; use shards of the same skeleton"
        )
    if theirs.num_joints < skeleton.num_joints:
        note(f"{shards}: scored on its own joints, {theirs.num_joints} of {skeleton.num_joints} that are predicted")
    if theirs.sigmas != tuple(skeleton.sigmas[joint] for joint in columns(skeleton, theirs)):
        note(f"{shards}: other sigmas than {checkpoint} was trained with; these shards' count")


def _first_other(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """Of as many joints, the first that has another name; of fewer or more, those that are not predicted."""
    if len(mine) != len(theirs):
        lacking = [joint for joint in theirs if joint not in mine]
        return f" (not predicted: {shorten(', '.join(lacking))})"
    return next(
        f" (joint {i} is {shown(a)}, not {shown(b)})"
        for i, (a, b) in enumerate(zip(theirs, mine, strict=True))
        if a != b
    )


def table(scores: dict[str, float]) -> Iterator[str]:
    """A line a score in percent, aligned, the headline first as the metric gives them."""
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        yield f"{name:<{width}}  {score_text(name, value):>6}"


def doubts(scores: dict[str, float], skeleton: Skeleton, *, poses: int) -> Iterator[str]:
    """What to think of before these scores are believed."""
    main = main_metric(skeleton)
    if round(scores[main], 4) <= 0:
        near = f"none of {plural(poses, 'pose')} is near a person's"
        yield f"{main} is 0: {near}; is the checkpoint trained, and are photos and boxes like those it is trained on?"
    if main == "AP" and skeleton.num_joints == 1:
        yield "poses of one joint have no size, so AP (M) and AP (L) leave wrong ones out; AP and AP .5 count them all"


def require_outputs(args: argparse.Namespace) -> None:
    """An error now about a place that cannot be written, or a package that is missing, and not after the work."""
    if args.diagnose:
        embedding.require_tsne()
    written: dict[str, str] = {}
    if args.calibrate:
        written[calibration_file.place_of(args.checkpoint)] = "--calibrate"
        storage.require_place(calibration_file.place_of(args.checkpoint))
    options = {"--json": args.json, "--results": args.results, "--picture": args.picture}
    given = {f"{option} {place}": [place] for option, place in options.items() if place}
    if args.diagnose:
        given[f"--diagnose {args.diagnose}"] = [f"{args.diagnose}/diagnosis{kind}" for kind in (".html", ".json")]
    for option, places in given.items():
        for place in map(storage.absolute, places):
            if place in written:
                raise ConfigError(f"{option}: {written[place]} writes that file too; give another name")
            written[place] = option
        storage.require_new(option, *places, force=args.force)


def sets_to_score(args: argparse.Namespace, config: Config) -> tuple[str, ...]:
    """The sets that are asked for, by default those that the checkpoint's own run was scored on."""
    if args.shards is not None:
        return (args.shards,)
    uris = sets_of(config.data.val)
    if not uris:
        raise ConfigError(f"{args.checkpoint}: its run had no data.val; say what to score it on with --shards URI")
    of_one = {"--boxes": args.boxes != "gt", "--results": args.results, "--picture": args.picture}
    of_one |= {"--diagnose": args.diagnose, "--calibrate": args.calibrate}
    if len(uris) > 1 and (given := next((option for option, is_given in of_one.items() if is_given), None)):
        sets = shorten(", ".join(uris))
        raise ConfigError(f"{given}: is of one set, and its run has {len(uris)} ({sets}); choose one with --shards URI")
    return uris


def whom(
    args: argparse.Namespace, config: Config, skeleton: Skeleton, *, uri: str
) -> tuple[who.Subjects, ShardSet | None]:
    """Whose poses are asked for, and the shards that they are in (None: on the photos of a test set)."""
    if args.photos:
        return who.unlabelled(args.photos, skeleton=skeleton, boxes=args.boxes, images=args.images), None
    own = args.shards is None  # those that the checkpoint's run was scored on
    with naming(f"data.val of {args.checkpoint}", "; give --shards URI") if own else nullcontext():
        shards = open_shards(uri, input_hw=config.input_hw)
    require_same_joints(skeleton, shards.skeleton, checkpoint=args.checkpoint, shards=args.shards or shards.uri)
    shards = dataclasses.replace(shards, skeleton=measured_by(args.metric, shards.skeleton))
    return who.annotated(shards, boxes=args.boxes, images=args.images), shards


def run(args: argparse.Namespace) -> None:
    """Score, and write what the options of ``icon-dist evaluate`` ask for. Raises IconErrors, before the work."""
    device = chosen_device(args.device)
    keep_freed_memory()
    require_outputs(args)
    weights = stored_weights.load(args.checkpoint, net=args.net)
    uris = ("",) if args.photos else sets_to_score(args, weights.config)
    found = [score_set(args, weights, uri, device=device) for uri in uris]
    if args.json:
        result = found[0]
        if len(found) > 1:  # each set by itself
            result = {"checkpoint": weights.checkpoint, "step": weights.step}
            result["sets"] = [{"shards": uri, **one} for uri, one in zip(uris, found, strict=True)]
        storage.write(storage.absolute(args.json), (json.dumps(result, indent=1) + "\n").encode())
    files = [*filter(None, (args.json, args.results, args.picture))]
    files += [f"{args.diagnose}/diagnosis.html"] if args.diagnose else []
    files += [calibration_file.place_of(args.checkpoint)] if args.calibrate else []
    if files:
        say(f"wrote {', '.join(files)}")


def score_set(args: argparse.Namespace, weights: Weights, uri: str, *, device: str) -> dict[str, object]:
    """Score one set and write what is asked for of it; returns scores, checkpoint, step and conditions."""
    settings = settings_of(args)
    config, skeleton = weights.config, measured_by(args.metric, weights.skeleton)
    if args.results and args.photos:
        result_files.check_results(args.results, skeleton, boxes=args.boxes)
    chosen, shards = whom(args, config, skeleton, uri=uri)
    people, truth = chosen.people, chosen.truth
    if args.results:
        result_files.check_results(args.results, people.skeleton, boxes=args.boxes)
    if settings.limit > len(people.instance):
        note(f"--limit {settings.limit}: the set has {plural(len(people.instance), 'box')}; all of them count")
    photos = photos_of(people, settings.limit)
    if truth is not None:
        check_truth(truth, people.skeleton, boxes=chosen.boxes, image_ids=photos)
        require_evaluator(people.skeleton, engine=args.engine)
        truth = truth.among(photos)
    trained = restored(weights, device=device)
    model, codec = trained.model, trained.codec
    if settings.refine_below != EvalConfig().refine_below and not isinstance(model, OPECNet):
        raise ConfigError(f"--refine-below: {args.checkpoint} is {config.model.backbone}, which does not refine joints")
    what = conditions(settings, people.skeleton, codec=codec.name, split=chosen.split, boxes=chosen.boxes)
    say(f"conditions: {what}")
    asked = Asked(people, truth, settings, loaders=args.loaders, device=device)
    second = None if args.second is None else stored_weights.load(args.second)
    if second is not None:
        require_same_joints(second.skeleton, people.skeleton, checkpoint=args.second, shards=uri)
    scores, predictions = asked.predicted(trained)
    for line in table(scores):
        say(line)
    for text in doubts(scores, people.skeleton, poses=len(predictions.instance)) if scores else ():
        note(text)
    about: dict[str, object] = {"checkpoint": weights.checkpoint, "step": weights.step, "conditions": what}
    judged = None
    if shards is not None and chosen.boxes == "gt":
        judged = judge(args, asked, shards, trained, predictions, second)
    elif args.calibrate:
        raise DataError(f"--calibrate: the boxes of these shards are {chosen.boxes}; take shards of annotated people")
    if judged is None and args.calibrate:
        raise DataError("--calibrate: no labelled joint of these people says what is right; take others")
    if judged is not None and (args.calibrate or judged.calibration["how"] != HELD_OUT):
        about["calibration"] = judged.calibration
        for line in calibration.lines(judged.calibration):
            say(line)
    aspect = codec.frame.aspect
    write(args, chosen, predictions, skeleton=people.skeleton, aspect=aspect)
    if args.diagnose:
        assert truth is not None
        assert shards is not None
        page = f"{args.diagnose}/diagnosis.html"
        tell(f"diagnosing errors and features (their t-SNE may take a minute); the page will be {page}")
        diagnose(
            storage.absolute(args.diagnose),
            Scored(people, truth, predictions, scores, args.boxes),
            read_features(
                model, shards, truth.images, codec=codec, batch=settings.batch, loaders=args.loaders, device=device
            ),
            shards=shards,
            aspect=aspect,
            about={**about, "calibration": None if judged is None else judged.calibration},
            suspects=None if judged is None else judged.suspects,
        )
    main = main_metric(people.skeleton)
    score = f"{main} {score_text(main, scores[main])} on " if scores else "poses of "
    images = plural(len(set(predictions.image_id.tolist())), "image")
    whose = f"{plural(len(predictions.instance), 'box')} in {images} of {chosen.split}"
    say(f"{args.checkpoint}, step {weights.step}: {score}{whose}")
    return {"scores": scores, **about}


def settings_of(args: argparse.Namespace) -> EvalConfig:
    """How to evaluate, as the command line says it."""
    refine_below = EvalConfig().refine_below if args.refine_below is None else args.refine_below
    return EvalConfig(
        batch=args.batch,
        flip=not args.no_flip,
        decode=args.decode,
        refine_below=refine_below,
        engine=args.engine,
        limit=args.limit,
    )


def write(
    args: argparse.Namespace,
    chosen: who.Subjects,
    predictions: Predictions,
    *,
    skeleton: Skeleton,
    aspect: float,
) -> None:
    """Write the files that ``--results`` and ``--picture`` ask for."""
    if args.results:
        ids = (chosen.people.instance if chosen.truth is None else chosen.truth.id).tolist()
        file = result_files.results(predictions, skeleton, people=ids, category=chosen.category)
        storage.write(storage.absolute(args.results), file)
    if args.picture:
        skeletons.write_png(storage.absolute(args.picture), picture(chosen.people, predictions, aspect=aspect))
