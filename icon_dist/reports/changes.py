"""The instances whose pose differs most between two models, for better and for worse (paper Fig. 4 and 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from icon_dist.drawing import skeletons
from icon_dist.metrics.oks import oks
from icon_dist.reports.measure import Measured, Poses
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


def changes(before: Measured, after: Measured, *, most: int = MOST) -> tuple[list[Change], list[Change]]:
    """The instances whose OKS has risen most, and those whose OKS has fallen most, among those of both models."""
    _, first, second = np.intersect1d(before.poses.instance, after.poses.instance, return_indices=True)
    quality = _quality(before.poses, first, before), _quality(after.poses, second, after)
    gain = quality[1] - quality[0]
    found = [Change(int(i), float(a), float(b)) for i, a, b in zip(before.poses.instance[first], *quality, strict=True)]
    rising = [found[k] for k in np.argsort(-gain, kind="stable")[:most] if gain[k] > 0]
    falling = [found[k] for k in np.argsort(gain, kind="stable")[:most] if gain[k] < 0]
    return rising, falling


def _quality(poses: Poses, rows: Int64[np.ndarray, " n"], of: Measured) -> Float[np.ndarray, " n"]:
    return oks(
        poses.xy[rows],
        poses.truth[rows],
        area=poses.area[rows],
        sigmas=np.array(of.skeleton.sigmas),
        labelled=poses.labelled[rows],
    )


def pictures(found: list[Change], before: Measured, after: Measured, *, names: tuple[str, str]) -> dict[int, bytes]:
    """For each instance a JPEG of both poses over the thin truth, side by side, wrong joints ringed."""
    if not found:
        return {}
    instances = np.array([change.instance for change in found], np.int64)
    drawn = []
    for measured, name, values in zip(
        (before, after), names, ([c.before for c in found], [c.after for c in found]), strict=True
    ):
        row = {int(i): k for k, i in enumerate(measured.poses.instance)}
        at = [row[i] for i in instances.tolist()]
        poses = measured.poses
        subjects = [
            Subject(
                row=int(person),
                pose=poses.xy[k],
                truth=np.concatenate([poses.truth[k], 2.0 * poses.labelled[k][:, None]], -1),
                title=f"{name}: {value:.2f}",
                wrong=poses.labelled[k] & (poses.similarity[k] < WRONG_BELOW),
            )
            for person, k, value in zip(rows_of(measured.scored.people, instances), at, values, strict=True)
        ]
        drawn.append(tiles(measured.scored.people, subjects, aspect=before.aspect))
    return {
        change.instance: skeletons.encode(
            skeletons.sheet([left, right], before.skeleton, columns=2, legend=False), ".jpg"
        )
        for change, left, right in zip(found, *drawn, strict=True)
    }
