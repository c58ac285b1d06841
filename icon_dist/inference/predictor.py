"""Poses of people by a model, and their scores: what the command ``evaluate`` and the training loop do alike.

Every rank predicts its share of the people, with the flip test where ``eval.flip`` asks for it; scores and predictions
are then the same on all. Poses of images from anywhere are in ``estimator.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from icon_dist import distributed
from icon_dist.codec import Codec, heatmap
from icon_dist.codec.flip import joints_back
from icon_dist.config import EvalConfig
from icon_dist.data.loader import Loader
from icon_dist.data.sampler import EvalSampler
from icon_dist.data.stream import EvalStream
from icon_dist.datasets.merged_skeleton import columns
from icon_dist.errors import DivergedError
from icon_dist.inference.boxes import first_photos, photos_of
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.score import evaluator, score
from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Batch, Outputs, Predictions, Skeleton

Show = Callable[[int, int], None]  # boxes so far, boxes of the set
Forward = Callable[[UInt8[Tensor, "N H W 3"]], Outputs]


@torch.no_grad()
def predict(
    forward: Forward,
    batches: Iterable[Batch],
    people: People,
    *,
    codec: Codec,
    settings: EvalConfig,
    device: str,
    skeleton: Skeleton | None = None,
) -> Predictions:
    """Poses of the people in ``batches``, in photo px. ``forward`` must be in evaluation mode.

    ``skeleton`` is what the model predicts, where it has more joints than the people: theirs alone are returned.
    ``codec`` is the one that the model was trained with. A joint whose peak is below ``settings.refine_below`` comes
    from the model's refinement, if it has one (OPEC-Net's core/eval.py).
    """
    skeleton = skeleton or people.skeleton
    flips, own = skeleton.flips, columns(skeleton, people.skeleton)
    rows, poses = [], []
    for batch in batches:
        image = batch.image.to(device, non_blocking=True)
        out = forward(image)
        maps = out.heatmaps.float()
        refined = None if out.joints is None else out.joints[-1].float()
        if settings.flip:
            mirrored = forward(image.flip(2))
            maps = (maps + codec.flip_back(mirrored.heatmaps.float(), flips=flips)) / 2
            if refined is not None and mirrored.joints is not None:  # the public code does not average these
                back = joints_back(mirrored.joints[-1].float(), flips=flips, width=image.shape[2])
                refined = (refined + back) / 2
        xy, peak = codec.decode(maps, method=settings.decode)
        matrix = batch.to_photo.to(device)
        xy = heatmap.to_photo(xy, matrix=matrix)
        if refined is not None:
            xy = torch.where(peak[..., None] < settings.refine_below, heatmap.to_photo(refined, matrix=matrix), xy)
        real = batch.row >= 0
        rows.append(batch.row[real].numpy())
        poses.append(torch.cat([xy, peak[..., None]], -1).cpu()[real].numpy()[:, own])
    row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    _, scale = codec.frame.center_scale(people.box[row])
    return Predictions(
        instance=people.instance[row],
        image_id=people.image_id[row],
        keypoints=np.concatenate(poses) if poses else np.zeros((0, people.skeleton.num_joints, 3), np.float32),
        box_score=people.score[row].astype(np.float32),
        area=(scale * 200).prod(-1).astype(np.float32),
    )


def evaluate(
    forward: Forward,
    stream: EvalStream,
    truth: GroundTruth | None,
    *,
    codec: Codec,
    settings: EvalConfig,
    device: str,
    skeleton: Skeleton | None = None,
    show: Show | None = None,
) -> tuple[dict[str, float], Predictions]:
    """Scores (none without ``truth``) and predictions, the same on every rank; each rank runs its share of people.

    ``stream`` is what :func:`eval_stream` makes of them with the same codec and settings. ``skeleton`` is what the
    model predicts, where that has more joints than the people. ``show`` is told how many boxes all ranks have done,
    and of how many. DivergedError where the model's answer is no number.
    """
    people, batches = stream.people, stream if show is None else _shown(stream, show)
    share = predict(forward, batches, people, codec=codec, settings=settings, device=device, skeleton=skeleton)
    predictions = join(distributed.gather_objects(share))
    require_finite(predictions)  # on every rank alike
    scores: dict[str, float] = {}
    if truth is not None and distributed.rank() == 0:
        photos = photos_of(people, settings.limit)
        scores = score(truth, predictions, people.skeleton, image_ids=photos, engine=settings.engine)
    return distributed.gather_objects(scores)[0], predictions


def _shown(stream: EvalStream, show: Show) -> Iterator[Batch]:
    done = 0
    for batch in stream:
        yield batch
        done += len(batch.row) * distributed.world_size()
        show(min(done, stream.size), stream.size)  # the last batch is filled up


def require_finite(predictions: Predictions) -> None:
    """DivergedError where a coordinate or score of a pose is no number."""
    if broken := int((~np.isfinite(predictions.keypoints).all((1, 2))).sum()):
        raise DivergedError(
            f"the poses of {broken} of {len(predictions.instance)} people are not finite: the model has diverged; "
            "lower optim.lr, or take an earlier checkpoint"
        )


def eval_stream(
    people: People, codec: Codec, settings: EvalConfig, *, loaders: int, device: str, skip_bad: bool = False
) -> EvalStream:
    """This rank's share of the people, in batches; its loader processes stay until it is closed.

    ``skip_bad`` leaves out people whose image is bad.
    """
    rows = first_photos(people, settings.limit)
    rank, world = distributed.rank(), distributed.world_size()
    sampler = EvalSampler(rows, batch=settings.batch, rank=rank, world=world)
    pin = device != "cpu"
    loader = Loader(people, codec.frame, batch=settings.batch, processes=loaders, pin=pin, skip_bad=skip_bad)
    return EvalStream(sampler, loader)


def join(parts: list[Predictions]) -> Predictions:
    """All ranks' predictions, in order of image and person: the same however many ranks there were."""
    whole = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Predictions)}
    order = np.lexsort((whole["instance"], whole["image_id"]))
    return Predictions(**{name: values[order] for name, values in whole.items()})


def conditions_on(shards: ShardSet, settings: EvalConfig, *, codec: str) -> str:
    """The :func:`conditions` of a set that is scored by its own boxes and the metric of its skeleton."""
    split, boxes = str(shards.manifest["split"]), str(shards.manifest["boxes"])
    return conditions(settings, shards.skeleton, codec=codec, split=split, boxes=boxes)


def conditions(settings: EvalConfig, skeleton: Skeleton, *, codec: str, split: str, boxes: str) -> str:
    """What every reported number must name."""
    flip = "yes" if settings.flip else "no"
    text = f"split={split} boxes={boxes} flip={flip} decode={settings.decode}"
    text += "" if codec == "msra" else f" codec={codec}"
    text += "" if settings.refine_below == EvalConfig().refine_below else f" refine_below={settings.refine_below:g}"
    text += f" evaluator={evaluator(skeleton, engine=settings.engine)}"
    return text + (f" limit={settings.limit}" if settings.limit else "")
