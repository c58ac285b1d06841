"""Poses of photos and videos, drawn and as json: what ``icon-dist predict`` does."""

from __future__ import annotations

import argparse
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from icon_dist import __version__, storage
from icon_dist.cpu import keep_freed_memory
from icon_dist.errors import ConfigError, DataError, note, plural, say
from icon_dist.images.photo import depth
from icon_dist.inference import inputs, video
from icon_dist.inference.box_files import MIN_SCORE, FileBoxes, read_boxes
from icon_dist.inference.detector import OnnxDetector
from icon_dist.inference.device import chosen_device
from icon_dist.inference.estimator import RGB, Detector, PoseEstimator, box_fault, load, read_photo
from icon_dist.inference.inputs import Source
from icon_dist.inference.poses import Poses
from icon_dist.inference.results import FILE, results
from icon_dist.inference.tracking import Tracker
from icon_dist.loggers.progress_line import ProgressLine

Image = tuple[Source, int | None, RGB]  # of a photo, or a frame of a video with its number from 0
BoxesOf = Callable[[Source, int | None], ArrayLike | Detector | None]


def run(args: argparse.Namespace) -> None:
    """Predict, draw and write what the options of ``icon-dist predict`` ask for. Raises IconErrors."""
    out = storage.absolute(args.out)
    places = inputs.find(args.inputs)
    keep_freed_memory()
    pose = load(args.model, device=chosen_device(args.device), flip=args.flip, batch=args.batch)
    least = MIN_SCORE if args.min_score is None else args.min_score
    detector = OnnxDetector(args.boxes, least_score=least) if args.kind == "detector" else None
    sources = inputs.survey(places, skip_bad=args.skip_bad, progress=ProgressLine("looking at", "files"))
    inputs.require_outputs(sources, args.inputs, args.out, result=FILE, force=args.force)
    file = FileBoxes({}, {})
    if args.kind == "file":
        file = read_boxes(args.boxes, sources, pose.skeleton, min_score=args.min_score)
    boxes_of = boxes_by_source(args, sources, file=file, detector=detector)
    for text in unusual(sources, boxes=args.boxes):
        note(text)
    images = images_of(sources, skip_bad=args.skip_bad)
    line, every = ProgressLine("predicting", "images"), sum(source.images for source in sources)
    line(0, every)
    conditions = {"icon_dist": __version__, **pose.conditions, "boxes": args.boxes or "whole"}
    with results(out, pose.skeleton, conditions, given=file) as written:
        for done, (source, frame, poses) in enumerate(predicted(pose, images, boxes_of, track=args.track), 1):
            written.add(source, poses, frame=frame)
            line(done, every)
    count, total = plural(written.instances, "instance"), plural(len(written.images), "image")
    said = f"step={conditions['step']} flip={'yes' if args.flip else 'no'} "
    said += " ".join(f"{key}={conditions[key]}" for key in ("decode", "codec", "boxes", "scores") if key in conditions)
    say(f"{args.out}: {count} in {total}, drawn and in {FILE}  {said}")
    if written.empty and detector is not None:
        note(f"{args.boxes}: found nothing in {written.empty} of {total}")


def predicted(
    pose: PoseEstimator, images: Iterable[Image], boxes_of: BoxesOf, *, track: bool
) -> Iterator[tuple[Source, int | None, Poses]]:
    """The poses of image after image; with ``track``, those of a video, or of the photos of a folder, have tracks."""
    under_way: deque[tuple[Source, int | None]] = deque()
    trackers: dict[str, Tracker] = {}

    def pairs() -> Iterator[tuple[RGB, ArrayLike | Detector | None]]:
        """Yield each image with what its boxes come from, and remember which source and frame it is of."""
        for source, frame, image in images:
            under_way.append((source, frame))
            yield image, boxes_of(source, frame)

    for poses in pose.stream(pairs()):
        source, frame = under_way.popleft()
        if track:
            frames = source.place if source.video else source.place.rpartition("/")[0]
            tracker = trackers.setdefault(frames, Tracker(np.array(pose.skeleton.sigmas)))
            poses = dataclasses.replace(poses, track_ids=tracker.update(poses.xy, poses.scores, poses.boxes))
        yield source, frame, poses


def images_of(sources: Sequence[Source], *, skip_bad: bool) -> Iterator[Image]:
    """Photos and frames, one after the other; those that cannot be decoded are an error, or named and passed over."""
    bits = depth(max(source.highest for source in sources))  # one rule for all, so that a dark photo stays dark
    for source in sources:
        if source.video:
            count = 0
            for count, frame in enumerate(video.frames(source.place), 1):
                yield source, count - 1, frame
            if count < 0.9 * source.video.frames:
                note(f"{source.place}: only {count} of {source.video.frames} frames could be decoded")
            continue
        try:
            image = read_photo(source.place, bits=bits)
        except DataError as error:
            if not skip_bad:
                raise
            note(f"passed over: {error}")
            continue
        yield source, None, image


def unusual(sources: Sequence[Source], *, boxes: str | None) -> Iterator[str]:
    """What is done without being asked for."""
    if boxes is None:
        yield "each whole image is taken for one instance; --boxes says where instances are, or what finds them"
    if turned := sum(source.turned for source in sources):
        photos = plural(turned, "photo is", "photos are")
        yield f"{photos} turned by EXIF; boxes and poses are in px of the upright photo"
    if deep := [source.highest for source in sources if source.highest]:
        bits = depth(max(deep))
        photos = plural(len(deep), "photo has", "photos have")
        yield f"{photos} 16 bits a channel with values of {bits} bits; the upper 8 of these are used"


def boxes_by_source(
    args: argparse.Namespace, sources: Sequence[Source], *, file: FileBoxes, detector: OnnxDetector | None
) -> BoxesOf:
    """The boxes of a photo or video, or the function that finds them."""
    if args.kind == "file":
        return lambda source, frame: file.of_place.get((source.place, frame), np.zeros((0, 4)))
    if args.kind == "box":
        box: list[float] = args.box
        for source in sources:
            if fault := box_fault(box, wh=source.wh):
                raise ConfigError(f"--boxes {args.boxes}: {fault} ({source.place}); give x,y,w,h in px of every image")
        return lambda *_: [box]
    return lambda *_: detector
