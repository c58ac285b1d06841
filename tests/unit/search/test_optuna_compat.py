"""What is relied on of Optuna's members without a public name."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from icon_dist.search.optuna_compat import JournalOperation, Replay, contains, set_user_attr, trial_id

SPACE = {"a": FloatDistribution(0.0, 1.0), "b": CategoricalDistribution(("x", "y"))}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    return optuna.create_study(storage=storage, directions=["maximize", "minimize"], study_name="s")


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [(FloatDistribution(0, 1), 0.5, 1.5), (IntDistribution(1, 4), 4, 5), (CategoricalDistribution(("x", "y")), 1, 2)],
)
def test_a_distribution_knows_its_values(
    distribution: optuna.distributions.BaseDistribution, inside: float, outside: float
) -> None:
    assert contains(distribution, inside)
    assert not contains(distribution, outside)


def test_an_id_names_a_trial_in_its_storage_and_attributes_draw_nothing(study: optuna.Study) -> None:
    live = study.ask(SPACE)
    running = study.get_trials(states=(TrialState.RUNNING,))[0]
    assert trial_id(live) == trial_id(running)
    before = (running.params, running.system_attrs)
    set_user_attr(study, running, "why", "lost")
    after = study.get_trials()[0]
    assert after.user_attrs == {"why": "lost"}
    assert (after.params, after.system_attrs) == before


def test_a_journal_is_replayed_line_by_line(study: optuna.Study, tmp_path: Path) -> None:
    study.ask(SPACE)
    study.tell(0, [1.0, 2.0])
    entries = [json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines()]
    assert JournalOperation(entries[0]["op_code"]) is JournalOperation.CREATE_STUDY
    replay = Replay()
    for entry in entries:
        replay.apply(entry)
    (number,), (trial,) = replay.studies, replay.trials
    assert len(replay.studies[number].directions) == 2
    assert replay.study_of(trial) == number
    assert replay.trials[trial].values == [1.0, 2.0]
    with pytest.raises(KeyError):
        replay.apply({})
