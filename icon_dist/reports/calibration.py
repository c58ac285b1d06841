"""How far scores are from probabilities, before and after calibration: ``icon-dist evaluate --calibrate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from icon_dist.datasets.merged_skeleton import columns
from icon_dist.metrics.calibration import (
    FOLDS,
    RIGHT,
    Curve,
    Outcomes,
    calibration_error,
    fit,
    held_out,
    probability_of,
    reliability,
)
from icon_dist.types import Json, Skeleton

BY_FILE = "by the file beside the model"
HELD_OUT = f"held out: {FOLDS} parts of the images"


@dataclass(frozen=True)
class Fitted:
    """What one evaluation says of the scores of a model."""

    curves: list[Curve]  # by joint of the model
    numbers: Json


def calibrated(found: Outcomes, skeleton: Skeleton, model: Skeleton, *, known: Sequence[Curve] | None = None) -> Fitted:
    """Functions for all joints of the ``model``, of outcomes of the joints of ``skeleton``, and how well they do.

    ``known`` are those of a file, by joint of the model: they are judged by what they say here. Without them, each
    outcome is judged by functions that were fitted without its image.
    """
    place = columns(model, skeleton)
    whole = Outcomes(found.peak, found.right, place[found.joint], found.image)
    after = held_out(whole, joints=model.num_joints) if known is None else probability_of(whole, known)
    numbers: Json = {
        "joints": len(whole.peak),
        "right_means": RIGHT[skeleton.metric],
        "how": HELD_OUT if known is None else BY_FILE,
        "error_before": calibration_error(whole.peak, whole.right),
        "error_after": None if after is None else calibration_error(after, whole.right),
        "before": [b._asdict() for b in reliability(whole.peak, whole.right)],
        "after": [] if after is None else [b._asdict() for b in reliability(after, whole.right)],
        "per_joint": {},
    }
    for k, joint in zip(place.tolist(), skeleton.joints, strict=True):
        rows = whole.joint == k
        if rows.any():
            numbers["per_joint"][joint] = {
                "joints": int(rows.sum()),
                "right": float(np.mean(whole.right[rows])),
                "error_before": calibration_error(whole.peak[rows], whole.right[rows]),
                "error_after": None if after is None else calibration_error(after[rows], whole.right[rows]),
            }
    return Fitted(list(known) if known is not None else fit(whole, joints=model.num_joints), numbers)


def lines(numbers: Json) -> Iterator[str]:
    """What the command prints."""
    before, after, how = (numbers[key] for key in ("error_before", "error_after", "how"))
    then = (
        "not measured once calibrated, of one image alone" if after is None else f"{after:.4f} once calibrated ({how})"
    )
    yield f"calibration error {before:.4f} of heatmap peaks, {then}"
