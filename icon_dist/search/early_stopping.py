"""ASHA, the pruner of a sweep: weak trials are stopped early. It is Ray Tune's, told the scores in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from icon_dist.config import Config

REDUCTION = 3  # of the trials at a rung, so many times fewer go on


def first_rung(cfg: Config) -> int:
    """The first epoch whose score may stop a trial: contrast has its full weight by then."""
    start = int(cfg.loss.start_epoch + cfg.loss.ramp_epochs) + 1 if cfg.loss.start_epoch or cfg.loss.ramp_epochs else 1
    return -(-start // cfg.eval.every) * cfg.eval.every


def scheduler(study: optuna.Study, *, first_rung: int, epochs: int) -> TrialScheduler:
    """ASHA that knows the scores of earlier drivers; none where there is nothing to stop early."""
    if first_rung >= epochs:
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr="rung", metric="score", mode="max", max_t=epochs, grace_period=first_rung, reduction_factor=REDUCTION
    )
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            tell(asha, f"journal-{trial.number}", trial.intermediate_values)
    return asha


def tell(asha: TrialScheduler, trial_id: str, scores: Mapping[int, float]) -> None:
    """Tell ASHA what a trial scored, by epoch, under an earlier driver.

    Of a trial that goes on it would else take later scores for those of the rungs that it has passed.
    """
    known = SimpleNamespace(trial_id=trial_id)
    asha.on_trial_add(None, known)
    for epoch, score in sorted(scores.items()):
        asha.on_trial_result(None, known, {"rung": epoch, "score": score})
