"""Crops of people with poses on them, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from icon_dist.codec import affine
from icon_dist.codec.frame import InputFrame
from icon_dist.data.stream import crops_of
from icon_dist.drawing import skeletons
from icon_dist.drawing.skeletons import Tile
from icon_dist.shards.reader import People
from icon_dist.types import Predictions, Skeleton

HEIGHT = 256  # of a crop, px
FIRST = 24  # people of a picture
COLUMNS, WIDE_COLUMNS = 6, 4  # crops in a row, and where they are wide


@dataclass(frozen=True)
class Subject:
    """One pose to draw on the crop of one person."""

    row: int  # of the people
    pose: Float[np.ndarray, "K 2"]  # photo px
    truth: Float[np.ndarray, "K 3"] | None  # photo px, v
    title: str
    wrong: Bool[np.ndarray, " K"] | None = None


def tiles(people: People, subjects: Sequence[Subject], *, aspect: float) -> list[Tile]:
    """Each pose, and thinly the truth, on the crop of its person; ``aspect`` is width over height."""
    hw = (HEIGHT, round(HEIGHT * aspect))
    rows = np.array([subject.row for subject in subjects], np.int64)
    drawn: list[Tile] = []
    with crops_of(people, rows, InputFrame(hw), batch=8) as stream:
        for batch in stream:
            for i in np.flatnonzero(batch.row.numpy() >= 0):
                subject = subjects[len(drawn)]
                to_tile = affine.invert(batch.to_photo[i].double().numpy())
                pose = affine.transform(to_tile, subject.pose)
                drawn.append(
                    Tile(
                        batch.image[i].numpy(),
                        np.concatenate([pose, np.full_like(pose[:, :1], 2)], -1),
                        title=subject.title,
                        reference=None if subject.truth is None else _placed(subject.truth, to_tile),
                        wrong=subject.wrong,
                    )
                )
    return drawn


def sheet(people: People, subjects: Sequence[Subject], skeleton: Skeleton, *, aspect: float) -> NDArray[np.uint8]:
    """The :func:`tiles` in rows, with titles and a legend."""
    columns = COLUMNS if aspect < 0.9 else WIDE_COLUMNS
    return skeletons.sheet(tiles(people, subjects, aspect=aspect), skeleton, columns=columns)


def _placed(truth: Float[np.ndarray, "K 3"], to_tile: NDArray[np.float64]) -> NDArray[np.float64]:
    """The labels, v included, on a tile."""
    return np.concatenate([affine.transform(to_tile, truth[:, :2]), truth[:, 2:]], -1)


def picture(people: People, predictions: Predictions, *, aspect: float) -> NDArray[np.uint8]:
    """Predicted poses of the first people, drawn on their crops over the thin ground truth."""
    rows = np.flatnonzero(np.isin(people.instance, predictions.instance))[:FIRST]
    chosen = {int(p): k for k, p in enumerate(predictions.instance)}
    subjects = []
    for row, instance in zip(rows.tolist(), people.instance[rows].tolist(), strict=True):
        pose = predictions.keypoints[chosen[instance], :, :2].astype(np.float64)
        subjects.append(Subject(row, pose, people.keypoints[row].astype(np.float64), title=str(instance)))
    return skeletons.sheet(tiles(people, subjects, aspect=aspect), people.skeleton, columns=COLUMNS)
