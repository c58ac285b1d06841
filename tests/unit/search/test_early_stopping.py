"""Which trials ASHA stops after a driver has died: by hand, best third at rungs 2 and 6."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from icon_dist.search import early_stopping
from icon_dist.search.journal import Journal
from tests.support.studies import SPACE, study_of


def report(asha: TrialScheduler, trial: str, epoch: int, score: float) -> str:
    decision: str = asha.on_trial_result(None, SimpleNamespace(trial_id=trial), {"rung": epoch, "score": score})
    return decision


def test_a_trial_that_goes_on_is_not_judged_by_its_later_scores(tmp_path: Path) -> None:
    """It scored 10 at epoch 2: its 40 at epoch 10 must not stop another that has 35 at epoch 2."""
    with Journal(str(tmp_path / "study")) as journal:
        study = study_of(journal)
        study.ask(SPACE).report(10.0, 2)
        asha = early_stopping.scheduler(study, first_rung=2, epochs=12)
        early_stopping.tell(asha, "again", study.get_trials(deepcopy=False)[0].intermediate_values)
        asha.on_trial_add(None, SimpleNamespace(trial_id="again"))
        asha.on_trial_add(None, SimpleNamespace(trial_id="new"))
        assert report(asha, "again", 8, 30.0) == TrialScheduler.CONTINUE
        assert report(asha, "again", 10, 40.0) == TrialScheduler.CONTINUE
        assert report(asha, "new", 2, 35.0) == TrialScheduler.CONTINUE
        assert report(asha, "new", 6, 29.0) == TrialScheduler.STOP
