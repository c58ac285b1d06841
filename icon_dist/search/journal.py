"""The one file that a sweep is: an Optuna journal, written by one driver, beside its runs or mirrored to ``s3://``.

Everything a restart needs is in it. A trial that was under way when its driver died is handed out again: same number,
same values, same run directory, so that it goes on from its own newest checkpoint. Nothing is ever unpickled.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from icon_dist import storage
from icon_dist.engine import scratch
from icon_dist.errors import ConfigError, DataError
from icon_dist.storage import lock

NAME = "journal.log"
LOCK_GRACE_S = 3  # after which a lock that a killed process left is taken over; a write takes milliseconds


class Journal:
    """The journal of the study folder ``uri``, open for this process alone."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self._lock = lock.take(self.uri, fix="give another --study")
        try:
            self._open()
            lock.tidy(self.uri)
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        self._scratch = scratch.Folder("study") if storage.is_remote(self.uri) else None
        folder = Path(self._scratch.name if self._scratch else self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / NAME
        if self._scratch and storage.exists(self.at(NAME)):
            storage.copy_to(self.at(NAME), self._path)
        _mend(self._path)
        link = JournalFileSymlinkLock(str(self._path), grace_period=LOCK_GRACE_S)
        try:
            self.storage = JournalStorage(JournalFileBackend(str(self._path), link))
        except (ValueError, KeyError) as error:
            raise DataError(f"{self.at(NAME)}: not an Optuna journal ({error}); give another --study") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._scratch:
            self._scratch.cleanup()

    def at(self, *names: str) -> str:
        """Where something of the study lies."""
        return storage.join(self.uri, *names)

    def studies(self) -> list[str]:
        """Names of those in it."""
        return [summary.study_name for summary in optuna.get_all_study_summaries(self.storage)]

    def push(self) -> None:
        """Before anybody acts on what was written: nothing to do on a disk, the whole file to ``s3://``."""
        self.require()
        if self._scratch is not None:
            storage.write(self.at(NAME), self._path)

    def require(self) -> None:
        """TakenError if another driver runs the study by now."""
        lock.require(self.uri)


def _mend(path: Path) -> None:
    """A killed driver may leave half a line, which would spoil the next one."""
    data = path.read_bytes() if path.exists() else b""
    if not data.endswith(b"\n") and data:
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def open_study(journal: Journal, name: str, *, directions: list[str], seed: int, about: dict[str, str]) -> optuna.Study:
    """The study, new or as it was left; ``about`` is what must not change between its drivers."""
    if name not in journal.studies():
        study = optuna.create_study(storage=journal.storage, study_name=name, directions=directions)
        for key, value in about.items():
            study.set_user_attr(key, value)
    study = optuna.load_study(study_name=name, storage=journal.storage, sampler=None)
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
    requeue(study, journal)
    return study


def requeue(study: optuna.Study, journal: Journal) -> None:
    """No trial stays RUNNING without a driver: they wait, and are the next to be asked for."""
    journal.require()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        journal.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    journal.push()


def fail_running(study: optuna.Study, why: str) -> None:
    """Trials that must not be tried again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        for name, value in (("ended", "failed"), ("why", why)):
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
