"""What an evaluation says beside its scores: whether they are probabilities, and whose labels look wrong."""

from __future__ import annotations

import argparse
import dataclasses
from contextlib import closing
from dataclasses import dataclass

from icon_dist.checkpoints.weights import Weights
from icon_dist.config import EvalConfig
from icon_dist.errors import tell
from icon_dist.inference import calibration_file
from icon_dist.inference.calibration_file import FLIPS, Calibration
from icon_dist.inference.predictor import eval_stream, evaluate
from icon_dist.inference.trained import Trained, restored
from icon_dist.loggers.progress_line import ProgressLine
from icon_dist.metrics.calibration import outcomes
from icon_dist.metrics.ground_truth import GroundTruth
from icon_dist.reports import label_suspects
from icon_dist.reports.calibration import Fitted, calibrated
from icon_dist.reports.label_suspects import Opinion, Suspects, opinion_of
from icon_dist.shards.reader import People
from icon_dist.shards.shard_set import ShardSet
from icon_dist.types import Json, Predictions


@dataclass(frozen=True)
class Asked:
    """The people of an evaluation, whose poses any model can be asked for."""

    people: People
    truth: GroundTruth | None  # of the photos that count
    settings: EvalConfig
    loaders: int
    device: str

    def predicted(self, by: Trained, settings: EvalConfig | None = None) -> tuple[dict[str, float], Predictions]:
        """Scores and poses by a model, under these or other settings."""
        settings = settings or self.settings
        with closing(eval_stream(self.people, by.codec, settings, loaders=self.loaders, device=self.device)) as stream:
            return evaluate(
                by.model,
                stream,
                self.truth,
                codec=by.codec,
                settings=settings,
                device=self.device,
                skeleton=by.weights.skeleton,
                show=ProgressLine("evaluated", "boxes"),
            )


@dataclass(frozen=True)
class Judged:
    """What can be said of the scores, and with ``--diagnose`` of the labels."""

    calibration: Json
    suspects: Suspects | None


def judge(
    args: argparse.Namespace,
    asked: Asked,
    shards: ShardSet,
    first: Trained,
    poses: Predictions,
    second: Weights | None,
) -> Judged | None:
    """Of people in their own boxes; None where nothing is asked, or none of their joints says what is right.

    ``poses`` are what the model of the evaluation, the ``first``, has said. With ``--calibrate`` the functions are
    written beside it. ``second`` judges whom it has learnt.
    """
    truth = asked.truth
    assert truth is not None
    known = None if args.calibrate else calibration_file.read(args.checkpoint, first.weights)
    if known is None and not (args.calibrate or args.diagnose):
        return None
    found = outcomes(truth, poses, shards.skeleton)
    if not len(found.peak):
        return None
    curves = None if known is None else known.of(flip=asked.settings.flip)
    fitted = calibrated(found, shards.skeleton, first.weights.skeleton, known=curves)
    if args.calibrate:
        tell("predicting once more, for the scores of the other setting of --no-flip")
        flip = asked.settings.flip
        mirrored = asked.predicted(first, dataclasses.replace(asked.settings, flip=not flip))[1]
        other = outcomes(truth, mirrored, shards.skeleton)
        again = calibrated(other, shards.skeleton, first.weights.skeleton)
        keep(args.checkpoint, first.weights, {flip: fitted, not flip: again})
    if not args.diagnose:
        return Judged(fitted.numbers, None)
    own, other_run = opinion_of(first.weights, poses, fitted.curves, shards), None
    if second is not None:
        tell(f"predicting by {args.second}, for the people whom {args.checkpoint} has learnt")
        other_run = _opinion_of_second(asked, shards, second)
    return Judged(fitted.numbers, label_suspects.suspects_of(truth, shards, own, other_run))


def _opinion_of_second(asked: Asked, shards: ShardSet, second: Weights) -> Opinion:
    assert asked.truth is not None
    poses = asked.predicted(restored(second, device=asked.device))[1]
    found = outcomes(asked.truth, poses, shards.skeleton)
    return opinion_of(second, poses, calibrated(found, shards.skeleton, second.skeleton).curves, shards)


def keep(model: str, weights: Weights, fitted: dict[bool, Fitted]) -> None:
    """Write the functions beside the model; ``fitted`` with flip averages and without."""
    said = ("right_means", "joints", "error_before", "error_after")
    about = {name: {key: fitted[how].numbers[key] for key in said} for how, name in FLIPS.items()}
    curves = {name: fitted[how].curves for how, name in FLIPS.items()}
    found = Calibration(weights.manifest_sha256, weights.net, weights.skeleton.joints, curves, {"fitted": about})
    calibration_file.write(calibration_file.place_of(model), found)
