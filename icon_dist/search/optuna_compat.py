"""Members of Optuna without a public name, in one place: ``tests/unit/search/test_optuna_compat.py`` says what is
relied on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

__all__ = ["JournalOperation", "Replay", "contains", "set_user_attr", "trial_id"]


def contains(distribution: BaseDistribution, internal: float) -> bool:
    """Whether a value, as the journal has it (``distribution.to_internal_repr``), lies in ``distribution``."""
    return bool(distribution._contains(internal))


def trial_id(trial: Trial | FrozenTrial) -> int:
    """The id by which storages know a trial, unlike its number within a study."""
    number: int = trial._trial_id
    return number


def set_user_attr(study: Study, trial: FrozenTrial, name: str, value: object) -> None:
    """Write an attribute of a trial that another process has begun: making a ``Trial`` of it would draw parameters."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


class Replay:
    """What the entries of a journal make, by Optuna's own rules."""

    def __init__(self) -> None:
        self._result = JournalStorageReplayResult("nobody")

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Read one entry more. Raises whatever Optuna's parsers raise."""
        self._result.apply_logs([entry])

    @property
    def studies(self) -> Mapping[int, Any]:
        """Studies by id, with their ``directions``."""
        studies: Mapping[int, Any] = self._result._studies
        return studies

    @property
    def trials(self) -> Mapping[int, FrozenTrial]:
        """Trials by id."""
        trials: Mapping[int, FrozenTrial] = self._result._trials
        return trials

    def study_of(self, trial: int) -> int:
        """The id of the study that a trial belongs to."""
        return int(self._result._trial_id_to_study_id[trial])
