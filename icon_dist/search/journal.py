"""The one file that a sweep is: an Optuna journal, written by one driver, beside its runs or mirrored to ``s3://``.

Everything a restart needs is in it. A trial that was under way when its driver died is handed out again: same number,
same values, same run directory, so that it goes on from its own newest checkpoint. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from icon_dist import storage
from icon_dist.config import Changes
from icon_dist.errors import ConfigError, DataError, StorageError, note, shown
from icon_dist.search.journal_lines import DRAWN, MAX_BYTES, RESTORE, believed
from icon_dist.search.optuna_compat import contains, set_user_attr, trial_id
from icon_dist.storage import lock, tempdirs

NAME = "journal.log"
TRIALS = "trials"  # folder of the runs of a study
LOCK_GRACE_S = 3  # after which a lock that a killed process left is taken over; a write takes milliseconds


class Journal:
    """The journal of the study folder ``uri``, open for this process alone."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self._scratch: tempdirs.Folder | None = None
        self._lock = lock.take(self.uri, fix="give another --study")
        try:
            self._open()
            lock.tidy(self.uri)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if storage.is_remote(self.uri):
            self._scratch = tempdirs.Folder("study")
        folder = Path(self._scratch.name if self._scratch else self.uri)
        self._path = folder / NAME
        _require_own(self._path)
        if storage.exists(self.at(NAME)):
            self._read()
        link = JournalFileSymlinkLock(str(self._path), grace_period=LOCK_GRACE_S)
        self.storage = JournalStorage(JournalFileBackend(str(self._path), link))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock on the study folder, and remove the local copy of a study that is on S3."""
        self._lock.release()
        if self._scratch:
            self._scratch.cleanup()

    def at(self, *names: str) -> str:
        """The place of a file or folder of the study."""
        return storage.join(self.uri, *names)

    def studies(self) -> list[str]:
        """The names of the studies in it."""
        return [summary.study_name for summary in optuna.get_all_study_summaries(self.storage)]

    def push(self) -> None:
        """Send the whole file to ``s3://`` before anybody acts on what was written; a disk has it already."""
        self.require()
        if self._scratch is not None:
            storage.write(self.at(NAME), self._path)

    def _read(self) -> None:
        """Leave out what a killed driver wrote by half, which would spoil the next line; the file as it was is kept."""
        if (size := storage.size(self.at(NAME))) > MAX_BYTES:
            raise DataError(f"{self.at(NAME)}: {size} bytes, more than a journal has ({MAX_BYTES}); {RESTORE}")
        if self._scratch:
            storage.copy_to(self.at(NAME), self._path)
        data = self._path.read_bytes()
        kept, left_out = believed(data, source=self.at(NAME))
        if not left_out:
            return
        aside, number = f"{NAME}.damaged", 1
        while not storage.write_new(self.at(aside), data):
            number += 1
            aside = f"{NAME}.damaged-{number}"
        storage.write(str(self._path), kept)
        what = left_out[-1] if len(left_out) == 1 else f"{len(left_out)} lines; {left_out[-1]}"
        note(f"{self.at(NAME)}: left out {what}; as it was: {aside}")

    def require(self) -> None:
        """TakenError if another driver runs the study by now."""
        lock.require(self.uri)


def _require_own(place: Path) -> None:
    """What is written again and again lies in this folder: a link could lead to anybody's file."""
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise StorageError(f"{place}: a link, or no plain file; remove it, or give another --study")


def open_study(
    journal: Journal,
    name: str,
    *,
    directions: list[str],
    seed: int,
    about: dict[str, str],
    space: Mapping[str, BaseDistribution],
    prefix: str = "",
) -> optuna.Study:
    """The study, new or as it was left; ``about`` is what must not change between its drivers.

    ``space`` is what its trials choose from, ``prefix`` begins the names of their runs.
    """
    if name not in journal.studies():
        optuna.create_study(storage=journal.storage, study_name=name, directions=directions)
    study = optuna.load_study(study_name=name, storage=journal.storage, sampler=None)
    if not study.get_trials(deepcopy=False):  # new, or its driver was killed while it said what it is about
        for key, value in about.items():
            if key not in study.user_attrs:
                study.set_user_attr(key, value)
    study.sampler = optuna.samplers.TPESampler(  # all that decides is written down: defaults change with versions
        n_startup_trials=10,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
        seed=seed + len(study.get_trials(deepcopy=False)),  # a restart must not draw the same points again
    )
    for key, value in about.items():
        if (was := study.user_attrs.get(key)) != value:
            raise ConfigError(f"{journal.uri}: a study with {key} {was}, not {value}; give another --study")
    if (found := [direction.name.lower() for direction in study.directions]) != directions:
        raise DataError(f"{journal.at(NAME)}: study {name} has directions {found}, expected {directions}; {RESTORE}")
    _require_fitting(study, space, journal, prefix=prefix)
    requeue(study, journal)
    return study


def _require_fitting(
    study: optuna.Study, space: Mapping[str, BaseDistribution], journal: Journal, *, prefix: str
) -> None:
    """Every trial could be of this sweep, and every run on disk belongs to one: else lines of the journal are lost.

    A run whose trial the journal has forgotten would be taken up by the next trial of that number, with other values.
    """
    runs = {name.partition("/")[0] for name in storage.listing(journal.at(TRIALS))}
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        where, run = f"{journal.at(NAME)}: trial {trial.number} of {study.study_name}", f"{prefix}{trial.number:04d}"
        for name, value in {**trial.params, **_proposed(trial)}.items():
            if name not in space or not _within(space[name], value):
                raise DataError(f"{where}: {name}={shown(value)}: not in this sweep's space; {RESTORE}")
        if wrong := [name for name, distribution in trial.distributions.items() if distribution != space[name]]:
            raise DataError(f"{where}: {wrong[0]} has another range than this sweep's; {RESTORE}")
        missing = [name for name in space if name not in trial.params]
        if missing and (trial.state.is_finished() or run in runs):
            raise DataError(f"{where}: it was run, and the journal has no {missing[0]} of it; {RESTORE}")
    known = {f"{prefix}{trial.number:04d}" for trial in trials}
    if lost := sorted(run for run in runs - known if re.fullmatch(re.escape(prefix) + r"\d{4,}", run)):
        place = journal.at(TRIALS, lost[0])
        fix = "restore the journal from a copy, or remove that folder"
        raise DataError(f"{journal.at(NAME)}: {place} was run, and the journal knows nothing of it; {fix}")


def _proposed(trial: FrozenTrial) -> Changes:
    """The values that a trial will get when it is asked for, and those that the sampler had drawn for it."""
    if trial.state.is_finished():
        return {}
    parts = [text for key, text in sorted(trial.system_attrs.items()) if key.startswith(DRAWN)]
    try:
        drawn = json.loads("".join(parts) or "{}")
    except ValueError:
        drawn = None
    return {**(drawn if type(drawn) is dict else {DRAWN: drawn}), **trial.system_attrs.get("fixed_params", {})}


def _within(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return contains(distribution, distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def requeue(study: optuna.Study, journal: Journal) -> None:
    """No trial stays RUNNING without a driver: they wait, and are the next to be asked for."""
    journal.require()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        journal.storage.set_trial_state_values(trial_id(trial), TrialState.WAITING)
    journal.push()


def fail_running(study: optuna.Study, why: str) -> None:
    """Trials that must not be tried again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        for name, value in (("ended", "failed"), ("why", why)):
            set_user_attr(study, trial, name, value)
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are over, in order of their numbers: complete, pruned or failed."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
