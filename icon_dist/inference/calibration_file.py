"""What turns the scores of one model into probabilities, in a file beside its weights.

``best.calibration.json`` lies beside ``best.safetensors``, ``calibration.json`` in the folder of a run. It names the
weights that it was fitted to by hash, and is left alone where these are others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icon_dist import storage
from icon_dist.checkpoints.weights import Weights
from icon_dist.errors import CheckpointError, TooLargeError, note
from icon_dist.metrics.calibration import Curve

FORMAT = 1
MOST = 16 << 20  # bytes
FLIPS = {True: "flip", False: "plain"}  # which heatmaps the peaks are of: their heights differ


@dataclass(frozen=True)
class Calibration:
    """The functions of one model, by joint."""

    manifest_sha256: str  # of the weights
    net: int  # which student, of a run with two
    joints: tuple[str, ...]
    curves: dict[str, list[Curve]]  # flip: of means with the mirrored image; plain: without
    about: Mapping[str, Any]  # split, people, what counts as right, errors

    def of(self, *, flip: bool) -> list[Curve]:
        """The functions for heatmaps that were averaged with the mirrored image, or not."""
        return self.curves[FLIPS[flip]]


def place_of(model: str) -> str:
    """Where the calibration of a run, or of a fetched file, is."""
    model = storage.absolute(model)
    if model.endswith(".safetensors"):
        return f"{model.removesuffix('.safetensors')}.calibration.json"
    return storage.join(model, "calibration.json")


def write(place: str, found: Calibration) -> None:
    """Write it, all of it or nothing."""
    own = {"manifest_sha256": found.manifest_sha256, "net": found.net, "joints": list(found.joints)}
    said = {"format": FORMAT, **own, **found.about}
    curves = {name: [curve._asdict() for curve in of_joints] for name, of_joints in found.curves.items()}
    storage.write(place, (json.dumps({**said, "curves": curves}) + "\n").encode())


def read(model: str, weights: Weights) -> Calibration | None:
    """The calibration beside a model; None where there is none, or with a note, where it is of other weights."""
    place = place_of(model)
    if not storage.exists(place):
        return None
    try:
        raw = storage.read(place, most=MOST)
    except TooLargeError as error:
        raise CheckpointError(f"{error}; or delete it") from None
    try:
        found = _parsed(json.loads(raw))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{place}: no calibration, or damaged; write it again with icon-dist evaluate --calibrate, or delete it"
        ) from None
    theirs = (weights.manifest_sha256, weights.net, weights.skeleton.joints)
    if (found.manifest_sha256, found.net, found.joints) != theirs:
        what = "network" if found.net != weights.net else "checkpoint"
        note(f"{place}: is of another {what} and not applied; evaluate --calibrate writes it again")
        return None
    return found


def _parsed(said: Any) -> Calibration:
    """ValueError, KeyError or TypeError for what :func:`write` does not write."""
    if said["format"] != FORMAT:
        raise ValueError
    joints = tuple(said["joints"])
    curves = {name: [_curve(one) for one in said["curves"][name]] for name in FLIPS.values()}
    sound = all(type(joint) is str for joint in joints) and type(said["manifest_sha256"]) is str
    if not sound or any(len(of_joints) != len(joints) for of_joints in curves.values()):
        raise ValueError
    own = ("format", "manifest_sha256", "net", "joints", "curves")
    about = {k: v for k, v in said.items() if k not in own}
    return Calibration(said["manifest_sha256"], said.get("net", 1), joints, curves, about)


def _curve(said: Any) -> Curve:
    peak, probability = said["peak"], said["probability"]
    rises = _rising(peak) and _rising(probability)
    if not rises or len(peak) != len(probability) or not all(0 <= value <= 1 for value in probability):
        raise ValueError
    return Curve(peak, probability)


def _rising(values: Sequence[Any]) -> bool:
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return type(values) is list and numbers and bool(values) and sorted(values) == values
