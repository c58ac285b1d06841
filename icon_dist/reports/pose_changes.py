"""The instances whose pose differs most between two models, for better and for worse (paper Fig. 4 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from icon_dist.drawing import skeletons
from icon_dist.drawing.skeletons import Tile
from icon_dist.metrics.oks import oks
from icon_dist.reports.measured_runs import Measured, Poses
from icon_dist.reports.pictures import Subject, tiles
from icon_dist.shards.reader import rows_of

MOST = 6  # instances for better, and as many for worse
WRONG_BELOW = 0.5  # similarity of a joint that is drawn as wrong


@dataclass(frozen=True)
class Change:
    """One instance and how similar its pose by either model is to the truth (OKS)."""

    instance: int
    before: float
    after: float


def changes(before: Measured, after: Measured) -> tuple[list[Change], list[Change]]:
    """The instances whose OKS has risen most, and those whose OKS has fallen most, among those of both models."""
    _, first, second = np.intersect1d(before.poses.instance, after.poses.instance, return_indices=True)
    quality = _quality(before.poses, first, before), _quality(after.poses, second, after)
    gain = quality[1] - quality[0]
    found = [Change(int(i), float(a), float(b)) for i, a, b in zip(before.poses.instance[first], *quality, strict=True)]
    rising = [found[k] for k in np.argsort(-gain, kind="stable")[:MOST] if gain[k] > 0]
    falling = [found[k] for k in np.argsort(gain, kind="stable")[:MOST] if gain[k] < 0]
    return rising, falling


def _quality(poses: Poses, rows: Int64[np.ndarray, " n"], of: Measured) -> Float[np.ndarray, " n"]:
    return oks(
        poses.xy[rows],
        poses.truth[rows],
        area=poses.area[rows],
        sigmas=np.array(of.skeleton.sigmas),
        labelled=poses.labelled[rows],
    )


def pictures(found: Sequence[Change], before: Measured, after: Measured) -> dict[int, bytes]:
    """For each instance a JPEG of both poses over the thin truth, side by side, wrong joints ringed."""
    if not found:
        return {}
    drawn = [_tiles(found, measured, aspect=before.aspect) for measured in (before, after)]
    return {
        change.instance: skeletons.encode(skeletons.sheet(pair, before.skeleton, columns=2, captions=False), ".jpg")
        for change, *pair in zip(found, *drawn, strict=True)
    }


def _tiles(found: Sequence[Change], measured: Measured, *, aspect: float) -> list[Tile]:
    poses = measured.poses
    row = {instance: k for k, instance in enumerate(poses.instance.tolist())}
    people = rows_of(measured.scored.people, np.array([change.instance for change in found], np.int64))
    subjects = []
    for person, k in zip(people.tolist(), [row[change.instance] for change in found], strict=True):
        truth = np.concatenate([poses.truth[k], 2.0 * poses.labelled[k][:, None]], -1)
        wrong = poses.labelled[k] & (poses.similarity[k] < WRONG_BELOW)
        subjects.append(Subject(row=person, pose=poses.xy[k], truth=truth, title="", wrong=wrong))
    return tiles(measured.scored.people, subjects, aspect=aspect)
