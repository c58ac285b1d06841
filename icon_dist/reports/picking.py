"""What ``icon-dist pick`` does: predict, choose, and write tasks for Label Studio with a picture of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from icon_dist import storage
from icon_dist.codec import Codec
from icon_dist.codec.heatmap import to_photo
from icon_dist.cpu import keep_freed_memory
from icon_dist.data.stream import crops_of
from icon_dist.drawing import skeletons
from icon_dist.errors import ConfigError, DataError, note, plural, say
from icon_dist.images.photo import Conversion, depth
from icon_dist.inference import active_learning, calibration_file, inputs, trained
from icon_dist.inference.box_files import FileBoxes, read_boxes
from icon_dist.inference.detector import OnnxDetector
from icon_dist.inference.device import chosen_device
from icon_dist.inference.estimator import boxes_of, read_photo
from icon_dist.inference.predict_files import boxes_by_source, unusual
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.losses.tokens import read_points
from icon_dist.metrics.calibration import Curve, probabilities
from icon_dist.metrics.oks import oks
from icon_dist.models import PoseNet
from icon_dist.reports import label_studio_tasks
from icon_dist.reports.label_studio_tasks import Predicted
from icon_dist.reports.pictures import Subject, sheet
from icon_dist.shards.manifest import MANIFEST, read_truth
from icon_dist.shards.reader import People, photo_source
from icon_dist.shards.shard_set import open_shards
from icon_dist.types import Instance, Json, Skeleton

DRAWN = 48  # images on the picture
PhotoFacts = tuple[str, tuple[int, int]]  # name or place, and width and height in px


@dataclass(frozen=True)
class Pool:
    """Instances to choose from."""

    people: People
    photos: dict[int, PhotoFacts]  # by image id
    folder: str = ""  # of all photos: what names follow a prefix without


@dataclass(frozen=True)
class Looked:
    """What a model says of the instances of a pool, one row each, in their order."""

    joints: Float[np.ndarray, "n K 3"]  # x, y in px of the photo, score
    doubt: Float[np.ndarray, " n"]  # 0 to 1
    embedding: Float[np.ndarray, "n m"]  # unit length


def run(args: argparse.Namespace) -> None:
    """Choose and write what the options of ``icon-dist pick`` ask for. Raises IconErrors, before the work."""
    out = args.out.removesuffix(".json")
    places = {kind: storage.absolute(f"{out}.{kind}") for kind in ("json", "xml", "jpg")}
    storage.require_new(f"-o {args.out}", *places.values(), force=args.force)
    device = chosen_device(args.device)
    keep_freed_memory()
    model, weights, codec = trained.load(args.model, device=device)
    calibration = calibration_file.read(args.model, weights)
    curves = None if calibration is None else calibration.of(flip=False)
    pool = pool_of(args, weights.skeleton, input_hw=weights.config.input_hw)
    if args.count > len(pool.photos):
        note(f"-n {args.count}: there are {plural(len(pool.photos), 'image')}; all are chosen, most doubtful first")
    looked = look(model, pool.people, weights.skeleton, codec, curves=curves, batch=args.batch, device=device)
    chosen = active_learning.choose(looked.doubt, looked.embedding, pool.people.image_id, count=args.count)
    tasks = tasks_of(
        pool,
        looked,
        chosen,
        weights.skeleton,
        prefix=args.prefix,
        version=f"{PurePosixPath(args.model).stem} step {weights.step}",
    )
    drawn = [Subject(r, looked.joints[r, :, :2], None, f"doubt {looked.doubt[r]:.2f}") for r in chosen[:DRAWN].tolist()]
    picture = sheet(pool.people, drawn, weights.skeleton, aspect=codec.frame.aspect)
    storage.write(places["json"], (json.dumps(tasks, indent=1) + "\n").encode())
    storage.write(places["xml"], label_studio_tasks.interface(weights.skeleton).encode())
    storage.write(places["jpg"], skeletons.encode(picture, ".jpg"))
    how = "1 - probability of its joints" if curves is not None else "how far its pose moves in the mirrored image"
    say(f"doubt of an instance: {how}" + ("" if curves else "; evaluate --calibrate would make it a probability"))
    say(f"{plural(len(tasks), 'image')} of {len(pool.photos)} chosen; wrote {', '.join(places.values())}")


def pool_of(args: argparse.Namespace, skeleton: Skeleton, *, input_hw: tuple[int, int]) -> Pool:
    """The instances of one set of shards, or of photos."""
    sets = [one for one in args.inputs if storage.exists(storage.join(storage.absolute(one), MANIFEST))]
    if not sets:
        return _photos(args, skeleton)
    if len(args.inputs) > 1:
        raise ConfigError(f"{sets[0]}: is a set of shards, which is chosen from by itself; leave the other inputs out")
    if args.boxes:
        raise ConfigError(f"--boxes {args.boxes}: shards have boxes of their own; leave it out")
    shards = open_shards(sets[0], input_hw=input_hw)
    images = {image["id"]: image for image in read_truth(shards.uri)["images"]}
    wanted = np.unique(shards.image_id).tolist()
    photos = {n: (images[n]["file_name"], (images[n]["width"], images[n]["height"])) for n in wanted}
    return Pool(shards, photos)


def _photos(args: argparse.Namespace, skeleton: Skeleton) -> Pool:
    """The instances that ``--boxes`` says or finds in photos, which are numbered in order."""
    places = inputs.find(args.inputs)
    sources = inputs.survey(places, skip_bad=args.skip_bad, progress=ProgressLine("looking at", "files"))
    if video := next((source for source in sources if source.video), None):
        raise ConfigError(f"{video.place}: is a video; give photos")
    remote = [storage.is_remote(source.place) for source in sources]
    if any(remote) and not all(remote):
        place = sources[remote.index(True)].place
        raise ConfigError(f"{place}: photos on s3:// and on a disk are not chosen from together; leave one kind out")
    root = "/" if not remote[0] else "/".join(sources[0].place.split("/")[:3])
    detector = OnnxDetector(args.boxes) if args.kind == "detector" else None
    file = read_boxes(args.boxes, sources, skeleton) if args.kind == "file" else FileBoxes({}, {})
    given = boxes_by_source(args, sources, file=file, detector=detector)
    bits = depth(max(source.highest for source in sources))
    people: list[Instance] = []
    nothing = np.zeros((skeleton.num_joints, 3), np.float32)
    for number, source in enumerate(sources):
        boxes = given(source, None)
        if callable(boxes):
            boxes = boxes(read_photo(source.place, bits=bits))
        name = source.place.removeprefix(root).lstrip("/")
        for x, y, w, h, score in boxes_of(boxes, wh=source.wh, name=source.place).tolist():
            people.append(Instance(len(people), number, name, source.wh, (x, y, w, h), w * h, nothing, score))
    if not people:
        raise DataError(f"--boxes {args.boxes}: no instance in {plural(len(sources), 'photo')}; give others")
    if without := len(sources) - len({one.image_id for one in people}):
        note(f"{plural(without, 'photo has', 'photos have')} no instance by --boxes {args.boxes}; left out")
    for text in unusual(sources, boxes=args.boxes):
        note(text)
    photos = photo_source(root, people, skeleton=skeleton, conversion=Conversion("apply", bits=bits))
    used = {one.image_id for one in people}
    facts = {n: (source.place, source.wh) for n, source in enumerate(sources) if n in used}
    folders = [source.place.split("/")[:-1] for source in sources]
    common = takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False))
    return Pool(photos, facts, "/".join(parts[0] for parts in common))


@torch.no_grad()
def look(
    model: PoseNet,
    people: People,
    skeleton: Skeleton,
    codec: Codec,
    *,
    curves: list[Curve] | None,
    batch: int,
    device: str,
) -> Looked:
    """Poses, doubts and embeddings of everybody, by a ``model`` in evaluation mode.

    ``curves`` make probabilities of its scores.
    """
    line = ProgressLine("predicting", "instances")
    line(0, len(people))
    joints, mirrored, embedding = [], [], []
    with crops_of(people, np.arange(len(people)), codec.frame, batch=batch) as stream:
        for images in stream:
            real = images.row >= 0
            image, matrix = images.image.to(device), images.to_photo.to(device)
            maps = model(image).heatmaps.float()
            place, peak = codec.decode(maps, method="quarter")
            joints.append(torch.cat([to_photo(place, matrix=matrix), peak[..., None]], -1).cpu()[real].numpy())
            embedding.append(pooled(model, image, place, peak).cpu()[real].numpy())
            if curves is None:
                back = codec.flip_back(model(image.flip(2)).heatmaps.float(), flips=skeleton.flips)
                other, _ = codec.decode(back, method="quarter")
                mirrored.append(to_photo(other, matrix=matrix).cpu()[real].numpy())
            line(sum(map(len, joints)), len(people))
    found = np.concatenate(joints).astype(np.float64)
    if curves is not None:
        found[..., 2] = np.where(found[..., 2] > 0, probabilities(found[..., 2], curves), 0)
        doubt = 1 - found[..., 2].mean(axis=1)
    else:
        area, sigmas = people.box[:, 2:].prod(axis=1), np.array(skeleton.sigmas)
        doubt = 1 - oks(found[..., :2], np.concatenate(mirrored).astype(np.float64), area=area, sigmas=sigmas)
    return Looked(found, np.clip(doubt, 0.0, 1.0), np.concatenate(embedding).astype(np.float64))


def pooled(
    model: PoseNet, image: Tensor, place: Float[Tensor, "N K 2"], peak: Float[Tensor, "N K"]
) -> Float[Tensor, "N m"]:
    """One unit vector for each instance: the mean of the embeddings at its joints, by the height of their peaks.

    Embeddings are those that contrast learns, or the encoder's features, where there is no projection head.
    """
    feature = model.features(image).float()
    if model.projection is not None:
        feature = F.normalize(model.projection(feature).float(), dim=1)
    read, inside = read_points(feature, place[:, :, None] - model.embedding_origin, stride=model.embedding_stride)
    weight = peak.clamp(min=1e-6) * inside[..., 0]
    return F.normalize((read[:, :, 0] * weight[..., None]).sum(dim=1), dim=-1)


def tasks_of(
    pool: Pool, looked: Looked, chosen: Int64[np.ndarray, " n"], skeleton: Skeleton, *, prefix: str | None, version: str
) -> list[Json]:
    """The images of the chosen instances, with everybody in them."""
    tasks = []
    for row in chosen.tolist():
        number = int(pool.people.image_id[row])
        name, wh = pool.photos[number]
        rows = np.flatnonzero(pool.people.image_id == number).tolist()
        people = [Predicted(tuple(pool.people.box[r].tolist()), looked.joints[r]) for r in rows]
        url = label_studio_tasks.url_of(name if prefix is None else name.removeprefix(f"{pool.folder}/"), prefix)
        one = label_studio_tasks.task(url, wh, people, skeleton.joints, version=version)
        tasks.append({**one, "meta": {"file": name, "doubt": round(float(looked.doubt[row]), 4)}})
    return tasks
