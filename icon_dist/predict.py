"""Draw and write the poses of your own photos and videos.

icon-dist predict MODEL PHOTO|DIR|VIDEO... [--boxes whole|x,y,w,h|FILE.json|DETECTOR.onnx] [-o out/]
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from icon_dist import __version__, storage
from icon_dist.arguments import Once, Parser, at_least, number
from icon_dist.errors import ConfigError, DataError, note, plural, run_cli, say, shown
from icon_dist.images.photo import depth
from icon_dist.inference import inputs, video
from icon_dist.inference.box_files import FileBoxes, read_boxes
from icon_dist.inference.detector import OnnxDetector
from icon_dist.inference.device import available, default_device
from icon_dist.inference.estimator import RGB, Detector, PoseEstimator, box_fault, load, read_photo
from icon_dist.inference.inputs import Source
from icon_dist.inference.poses import Poses
from icon_dist.inference.results import FILE, results
from icon_dist.inference.tracking import Tracker
from icon_dist.launch.progress_bar import progress_bar

Image = tuple[Source, int | None, RGB]  # of a photo, or a frame of a video with its number from 0
BoxesOf = Callable[[Source], ArrayLike | Detector | None]
WHOLE = "whole"


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the command line says, checked as far as it can be by itself."""
    assert __doc__ is not None
    parser = Parser("icon-dist predict", __doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run (its best checkpoint) or a fetched .safetensors file; path or s3://")
    add("inputs", metavar="PHOTO|DIR|VIDEO", nargs="+", help="photos, folders of photos, videos")
    text = "where the instances are: the whole photo, a box in px, a COCO file, or RTMDet or YOLOX; default whole"
    add("--boxes", action=Once, metavar="whole|x,y,w,h|FILE.json|DETECTOR.onnx", help=text)
    text = "folder for the drawn photos and poses.json; default %(default)s"
    add("-o", "--out", default="out", metavar="DIR", help=text)
    add("--track", action="store_true", help="follow the instances of a video: a number and a color for each")
    add("--skip-bad", action="store_true", help="name photos that cannot be read, and go on without them")
    add("--force", action="store_true", help="replace results that are there already")
    add("--flip", action="store_true", help="average with the mirrored photo: a little better, at twice the time")
    add("--device", type=available, default=default_device(), help="default %(default)s")
    add("--batch", type=at_least(1), default=32, help="instances at once; default %(default)s")
    args = parser.parse_intermixed_args(argv)
    args.kind = kind_of(args.boxes or WHOLE)
    return args


def kind_of(boxes: str) -> str:
    """``whole``, ``box``, ``file`` or ``detector``: what ``--boxes`` is."""
    if boxes == WHOLE:
        return "whole"
    if re.search(r"\.json(\.gz)?$", boxes, re.IGNORECASE):
        return "file"
    if boxes.lower().endswith(".onnx"):
        return "detector"
    if "," in boxes:
        _box(boxes)
        return "box"
    raise ConfigError(f"--boxes {shown(boxes)}: expected whole, x,y,w,h in px, a COCO FILE.json, or a DETECTOR.onnx")


def _box(text: str) -> list[float]:
    try:
        x, y, w, h = map(number, text.replace(" ", "").split(","))
    except (ValueError, argparse.ArgumentTypeError):
        w = h = 0
    if min(w, h) <= 0:
        raise ConfigError(f"--boxes {shown(text)}: expected four numbers x,y,w,h in px, width and height above 0")
    return [x, y, w, h]


def main(argv: list[str]) -> None:
    args = arguments(argv)
    out = storage.absolute(args.out)
    places = inputs.find(args.inputs)
    pose = load(args.model, device=args.device, flip=args.flip, batch=args.batch)
    detector = OnnxDetector(args.boxes) if args.kind == "detector" else None
    show = progress_bar("looking at", "files", len(places))
    sources = inputs.survey(places, skip_bad=args.skip_bad, progress=show)
    inputs.require_outputs(sources, args.inputs, args.out, result=FILE, force=args.force)
    if args.track and not any(source.video for source in sources):
        raise ConfigError("--track: follows instances through a video, and no input is one; leave it out")
    file = _file_boxes(args.boxes, sources, pose) if args.kind == "file" else FileBoxes({}, {})
    boxes_of = _boxes_of(args, sources, file=file, detector=detector)
    for text in unusual(sources, boxes=args.boxes):
        note(text)
    images = images_of(sources, skip_bad=args.skip_bad)
    show = progress_bar("predicting", "images", sum(source.images for source in sources))
    conditions = {"icon_dist": __version__, **pose.conditions, "boxes": args.boxes or WHOLE}
    with results(out, pose.skeleton, conditions, image_ids=file.image_ids) as written:
        for done, (source, frame, poses) in enumerate(predicted(pose, images, boxes_of, track=args.track), 1):
            written.add(source, poses, frame=frame)
            show(done)
    count, total = plural(written.instances, "instance"), plural(len(written.images), "image")
    said = f"step={conditions['step']} flip={'yes' if args.flip else 'no'} "
    said += " ".join(f"{key}={conditions[key]}" for key in ("decode", "codec", "boxes"))
    say(f"{args.out}: {count} in {total}, drawn and in {FILE}  {said}")
    if written.empty and detector is not None:
        note(f"{args.boxes}: found nothing in {written.empty} of {total}")


def predicted(
    pose: PoseEstimator, images: Iterable[Image], boxes_of: BoxesOf, *, track: bool
) -> Iterator[tuple[Source, int | None, Poses]]:
    """The poses of image after image; with ``track``, those of a video have the numbers of their tracks."""
    under_way: deque[tuple[Source, int | None]] = deque()
    trackers: dict[str, Tracker] = {}

    def pairs() -> Iterator[tuple[RGB, ArrayLike | Detector | None]]:
        for source, frame, image in images:
            under_way.append((source, frame))
            yield image, boxes_of(source)

    for poses in pose.stream(pairs()):
        source, frame = under_way.popleft()
        if track and source.video:
            tracker = trackers.setdefault(source.place, Tracker(np.array(pose.skeleton.sigmas)))
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


def _boxes_of(
    args: argparse.Namespace, sources: Sequence[Source], *, file: FileBoxes, detector: OnnxDetector | None
) -> BoxesOf:
    """The boxes of a photo or video, or the function that finds them."""
    if args.kind == "file":
        return lambda source: file.of_place.get(source.place, np.zeros((0, 4)))
    if args.kind == "box":
        box = _box(args.boxes)
        for source in sources:
            if fault := box_fault(box, wh=source.wh):
                raise ConfigError(f"--boxes {args.boxes}: {fault} ({source.place}); give x,y,w,h in px of every image")
        return lambda _: [box]
    return lambda _: detector


def _file_boxes(uri: str, sources: Sequence[Source], pose: PoseEstimator) -> FileBoxes:
    if source := next((source for source in sources if source.video), None):
        raise ConfigError(
            f"--boxes {uri}: has boxes of photos, and {source.place} is a video; give whole, x,y,w,h or a DETECTOR.onnx"
        )
    return read_boxes(uri, sources, pose.skeleton)


if __name__ == "__main__":
    run_cli(main)
