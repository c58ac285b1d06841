"""What a model gets wrong, as numbers and as a page to read: ``icon-dist evaluate RUN ... --diagnose DIR``.

Kinds of errors and what each costs (paper Fig. 6), recall of joints (Table 6), the encoder's features (Fig. 5), the
worst people of every kind (Fig. 4, 7), joint by joint, for any skeleton.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.codec import Codec
from icon_dist.data.stream import crops_of
from icon_dist.drawing import skeletons
from icon_dist.errors import plural
from icon_dist.losses.tokens import read_points
from icon_dist.metrics import embedding, error_analysis
from icon_dist.metrics.coco import NMS, final_poses
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.metrics.recall import DEFINITIONS, THRESHOLDS, recall
from icon_dist.metrics.score import main_metric, score
from icon_dist.models import PoseNet
from icon_dist.reports import label_suspects
from icon_dist.reports.diagnosis_page import page
from icon_dist.reports.label_suspects import Suspects
from icon_dist.reports.pictures import Subject, sheet
from icon_dist.shards.reader import People, rows_of
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Json, Predictions, Skeleton

WORST = 12  # people on a sheet
EMBEDDED_PEOPLE = 800  # whose features are read
PER_JOINT = 150  # features kept of each joint


@dataclass(frozen=True)
class Scored:
    """An evaluation that is over: what was predicted, for whom, and how good it was."""

    people: People  # whose boxes were used
    truth: GroundTruth  # of the photos that count
    predictions: Predictions
    scores: dict[str, float]
    boxes: str  # gt, or the name of a detector's file


class Features(NamedTuple):
    """Unit encoder features at visible joints."""

    values: Float[np.ndarray, "n D"]
    joint: Int64[np.ndarray, " n"]
    person: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with the poses of an evaluation."""

    numbers: Json  # as in diagnosis.json: metric, scores, errors, recall, embedding, joints
    poses: Predictions  # those that count: final ones, after suppression, where the metric is AP
    found: error_analysis.Errors  # of these poses
    features: Float[np.ndarray, "n c"]  # principal components of features at visible joints, for a picture
    joint: Int64[np.ndarray, " n"]  # of which joint they are


def diagnose(
    folder: str,
    scored: Scored,
    features: Features,
    *,
    shards: ShardSet,
    aspect: float,
    about: Json,
    suspects: Suspects | None = None,
) -> None:
    """Write ``diagnosis.json``, ``diagnosis.html`` and ``worst-KIND.png`` into ``folder``, a path or s3://.

    ``features`` are of ``shards``; ``aspect`` is width / height of the input; ``about``: checkpoint, step and
    conditions. ``suspects`` are people whose labels look wrong, drawn as ``suspects.png``.
    """
    skeleton = shards.skeleton
    made = diagnosis_of(scored, features, skeleton)
    numbers = {**about, **made.numbers}
    drawn = worst_sheets(scored, made, skeleton, aspect=aspect)
    for kind, picture in drawn.items():
        skeletons.write_png(storage.join(folder, f"worst-{kind}.png"), picture)
    if suspects is not None:
        numbers["suspects"] = label_suspects.listed(suspects, scored.truth, skeleton.joints)
        people = label_suspects.sheet_of(suspects, scored.truth, shards, aspect=aspect)
        if people is not None:
            skeletons.write_png(storage.join(folder, "suspects.png"), people)
            drawn["suspects"] = people
    images = {kind: skeletons.encode(picture, ".jpg") for kind, picture in drawn.items()}
    plane = embedding.tsne(made.features) if numbers["embedding"] else made.features
    text = page(numbers, skeleton, plane=plane, joint=made.joint, sheets=images)
    storage.write(storage.join(folder, "diagnosis.html"), text.encode())
    storage.write(storage.join(folder, "diagnosis.json"), (json.dumps(numbers, indent=1) + "\n").encode())


def diagnosis_of(scored: Scored, read: Features, skeleton: Skeleton) -> Diagnosis:
    """Kinds of errors, recall and features of an evaluation that is over."""
    poses = scored.predictions
    by_oks = skeleton.metric in ("coco", "crowdpose")
    if by_oks:  # what AP sees; the other metrics take all poses as they are
        poses = final_poses(poses, sigmas=np.array(skeleton.sigmas), nms=NMS)
    found = error_analysis.find(scored.truth, poses, skeleton)
    seen, features = describe_features(read.values, read.joint, read.person, joints=skeleton.num_joints)
    found_share = describe_errors(scored, poses, found, skeleton, metric=None if by_oks else main_metric(skeleton))
    recalled = describe_recall(scored, skeleton) if scored.boxes == "gt" else None
    numbers = {
        "metric": main_metric(skeleton),
        "scores": {name: value for name, value in scored.scores.items() if name not in skeleton.joints},
        "errors": found_share,
        "recall": recalled,
        "embedding": seen,
        "joints": describe_joints(found, skeleton, recalled=recalled, seen=seen),
    }
    return Diagnosis(numbers, poses, found, features, read.joint)


def worst_sheets(scored: Scored, made: Diagnosis, skeleton: Skeleton, *, aspect: float) -> dict[str, NDArray[np.uint8]]:
    """A picture of the worst instances for each kind of error that occurs."""
    sheets = {
        kind: worst(scored, made.poses, made.found, skeleton, kind=kind, aspect=aspect) for kind in error_analysis.WRONG
    }
    return {kind: picture for kind, picture in sheets.items() if picture is not None}


def describe_errors(
    scored: Scored, poses: Predictions, found: error_analysis.Errors, skeleton: Skeleton, *, metric: str | None
) -> Json:
    """Kinds of errors of all joints and what correcting each gains: AP, and ``metric`` (all at the exact place)."""
    count = dict(zip(error_analysis.KINDS, found.count().sum(axis=1).tolist(), strict=True))
    total = sum(count.values())
    gains = [error_analysis.gains(scored.truth, poses, found, skeleton, to_truth=exact) for exact in (False, True)]
    in_metric = {}
    if metric is not None:
        for kind in error_analysis.WRONG:
            right = error_analysis.correct(scored.truth, poses, found, skeleton, kinds=[kind], to_truth=True)
            after = score(scored.truth, right, skeleton)[metric]
            in_metric[kind] = after - scored.scores[metric]
    return {
        "poses": len(found.pose),
        "joints": total,
        "count": count,
        "share": {kind: number / total if total else None for kind, number in count.items()},
        "ap": gains[0]["AP"],
        "ap_gained": {kind: gains[0][kind] for kind in error_analysis.WRONG},
        "ap_gained_exact": {kind: gains[1][kind] for kind in error_analysis.WRONG},
        "metric_gained": in_metric,
    }


def describe_recall(scored: Scored, skeleton: Skeleton) -> Json:
    """Percent at each threshold by definition, over all joints and for each."""
    table = recall(scored.truth, scored.predictions, skeleton)
    people = scored.truth.people(~scored.truth.crowd)
    return {
        "thresholds": THRESHOLDS,
        "joints": int((people.keypoints[..., 2] > 0).sum()),
        **{name: table[name][:, -1].tolist() for name in DEFINITIONS},
        "per_joint": {
            joint: {name: table[name][:, k].tolist() for name in DEFINITIONS} for k, joint in enumerate(skeleton.joints)
        },
    }


def describe_features(
    features: Float[np.ndarray, "n D"], joint: Int64[np.ndarray, " n"], person: Int64[np.ndarray, " n"], *, joints: int
) -> tuple[Json | None, Float[np.ndarray, "n c"]]:
    """How well the features tell joints apart, and their principal components; None where too few are visible."""
    if len(np.unique(joint)) < 2 or len(joint) < 2 * embedding.NEIGHBORS:
        return None, np.zeros((len(joint), 2))
    coordinates, variance = embedding.pca(features)
    silhouette = embedding.silhouette(features, joint)
    purity = embedding.purity(features, joint)
    others = embedding.purity(features, joint, person=person)
    of = [joint == k for k in range(joints)]
    share = np.bincount(joint, minlength=joints) / len(joint)
    seen = {
        "samples": len(joint),
        "people": len(np.unique(person)),
        "dimensions": features.shape[1],
        "components": coordinates.shape[1],
        "variance": variance,
        "silhouette": float(silhouette.mean()),
        "purity": float(purity.mean()),
        "purity_other_people": _mean(others),
        "chance": float((share**2).sum()),
        "per_joint": [{"purity": _mean(others[rows]), "silhouette": _mean(silhouette[rows])} for rows in of],
    }
    return seen, coordinates


def describe_joints(
    found: error_analysis.Errors, skeleton: Skeleton, *, recalled: Json | None, seen: Json | None
) -> list[Json]:
    """One row a joint."""
    count = found.count()
    rows = []
    for k, joint in enumerate(skeleton.joints):
        labelled = int(count[:, k].sum())
        similarity = found.own[found.kind[:, k] >= 0, k]
        share = {
            kind: int(n) / labelled if labelled else None
            for kind, n in zip(error_analysis.KINDS, count[:, k], strict=True)
        }
        rows.append(
            {
                "joint": joint,
                "labelled": labelled,
                "share": share,
                "similarity": _mean(similarity),
                "recall": recalled["per_joint"][joint]["peak"][THRESHOLDS.index(0.5)] if recalled else None,
                **(seen["per_joint"][k] if seen else {"purity": None, "silhouette": None}),
            }
        )
    return rows


@torch.no_grad()
def read_features(
    model: PoseNet,
    shards: ShardSet,
    photos: Int64[np.ndarray, " i"],
    *,
    codec: Codec,
    batch: int,
    loaders: int,
    device: str,
) -> Features:
    """Of random annotated people in ``photos``, whosever boxes the poses come from; the same in every call.

    ``model`` is in evaluation mode.
    """
    inside = np.flatnonzero(np.isin(shards.image_id, photos))
    chosen = np.sort(np.random.default_rng(0).permutation(inside)[:EMBEDDED_PEOPLE])
    features, joints, people = [], [], []
    with crops_of(shards, chosen, codec.frame, batch=batch, processes=loaders) as stream:
        for images in stream:
            encoded = model.features(images.image.to(device)).float()
            points = images.joints.to(device)[:, :, None] - model.embedding_origin
            read, on_map = read_points(encoded, points, stride=model.embedding_stride)
            wanted = images.visible & on_map[..., 0].cpu() & (images.row >= 0)[:, None]
            row, joint = wanted.nonzero(as_tuple=True)
            features.append(read[..., 0, :].cpu()[row, joint].numpy())
            joints.append(joint.numpy())
            people.append(images.instance[row].numpy())
    label = np.concatenate(joints)
    rows = embedding.sample(label, per_class=PER_JOINT)
    return Features(np.concatenate(features)[rows], label[rows], np.concatenate(people)[rows])


def worst(
    scored: Scored, poses: Predictions, found: error_analysis.Errors, skeleton: Skeleton, *, kind: str, aspect: float
) -> NDArray[np.uint8] | None:
    """The people who suffer most from ``kind``, worst first; None where nobody does."""
    chosen = error_analysis.worst(found, kind, count=WORST)
    if not len(chosen):
        return None
    rows = rows_of(scored.people, poses.instance[found.pose[chosen]])
    subjects = []
    for row, match in zip(rows.tolist(), chosen.tolist(), strict=True):
        person = found.person[match]
        wrong = found.kind[match] == error_analysis.KINDS.index(kind)
        labelled = int((found.kind[match] >= 0).sum())
        subjects.append(
            Subject(
                row=row,
                pose=poses.keypoints[found.pose[match], :, :2].astype(np.float64),
                truth=scored.truth.keypoints[person],
                title=f"#{scored.truth.id[person]}: {int(wrong.sum())} of {plural(labelled, 'joint')}",
                wrong=wrong,
            )
        )
    return sheet(scored.people, subjects, skeleton, aspect=aspect)


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    """None where there is nothing: JSON has no NaN."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
