"""Ray Tune runs the trials that Optuna proposes. Tune's own state is deleted: the journal has all of it.

Tune brings actors that serve one trial after another, places them, starts lost ones again, and ASHA. Its searcher
here is Optuna's ask and tell, so that a trial's number, state and values are those of the journal, in the order in
which things happen: asked, mirrored, run, told. Its sampler (TPE) is set
in ``journal.py``, where the study is opened.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from icon_dist import errors
from icon_dist.config import Config
from icon_dist.search import capacity, early_stopping, optuna_compat
from icon_dist.search.capacity import Need
from icon_dist.search.journal import Journal
from icon_dist.search.progress import Screen
from icon_dist.search.trial import run_trial
from icon_dist.storage import lock, tempdirs

PATIENCE_S = 60.0  # that a trial may wait for its workers in silence


class KilledError(Exception):
    """A trial took the last memory of its machine."""


@dataclass
class Live:
    """What is known of a trial under way."""

    trial: optuna.Trial
    began: float
    begun: bool = False
    warned: float = 0.0
    epoch: float = 0.0  # of the score
    score: float | None = None
    step_ms: float | None = None
    ended: str = ""  # complete | diverged | failed | halt; empty = still running, or stopped by ASHA
    text: str = ""


@dataclass(frozen=True)
class Setup:
    """What all trials share."""

    journal: Journal
    base: Config
    metric: str  # that trials are compared by
    need: Need
    at_once: int
    publish: Callable[[], object]  # after every trial


@dataclass(frozen=True)
class Series:
    """The trials of one study."""

    study: optuna.Study
    space: Mapping[str, BaseDistribution]
    first_rung: int  # the epoch from which on weak ones are stopped
    prefix: str  # of the names of their runs
    screen: Screen


def tune_trials(series: Series, setup: Setup, *, count: int) -> None:
    """Run ``count`` more trials of a study. Raises what no other trial could do better, leaving the rest waiting.

    KilledError when Ray has killed a trial's process for memory: Tune's controller does not survive that.
    """
    base, metric, need = setup.base, setup.metric, setup.need
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what goes wrong is said once, by the screen
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends this process, and not only with code 0
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # not every report is a score
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    study_uri, locks = setup.journal.uri, lock.tokens()  # the journal itself stays in this process
    asha = early_stopping.scheduler(series.study, first_rung=series.first_rung, epochs=base.optim.epochs)
    searcher = _Searcher(series, setup, asha)

    def trainable(point: Mapping[str, Any]) -> None:
        run_trial(point, base=base, metric=metric, study=study_uri, inline=need.inline, locks=locks)

    # A supervisor that held a CPU would wait for itself, and one that holds nothing is refused.
    resources = {"CPU": need.cpus, "GPU": need.gpus} if need.inline else {"memory": 64 * 2**20}
    with tempdirs.Folder("tune") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=asha,
                num_samples=count,
                max_concurrent_trials=setup.at_once,
                reuse_actors=need.inline and base.run.zero < 3,  # DeepSpeed's stage 3 never lets go of its model
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                stop=_Halt(searcher),
                callbacks=[_Watch(searcher, need=need, screen=series.screen)],
                failure_config=tune.FailureConfig(max_failures=base.run.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except RuntimeError as error:
            if isinstance(error.__cause__, OutOfMemoryError):
                raise KilledError from None
            raise
        finally:
            if searcher.failure is not None:
                raise searcher.failure
    lock.check()
    if searcher.halted:
        kind, text = searcher.halted
        raise getattr(errors, kind)(text) if kind else RuntimeError(text)


class _Here:
    """Tune pickles what it is given, to restore it one day. These stay in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_Here, Searcher):  # type: ignore[misc]  # Ray has no types
    """Optuna's ask and tell."""

    def __init__(self, series: Series, setup: Setup, asha: TrialScheduler) -> None:
        super().__init__(metric="score", mode="max")
        self._asha = asha
        self._study, self._space, self._setup = series.study, dict(series.space), setup
        self._prefix, self._screen = series.prefix, series.screen
        self.live: dict[str, Live] = {}  # by Tune's id
        self.halted: tuple[str, str] | None = None
        self.failure: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        """Return the next point for Tune: the name of its run, its changes to the config, and ``whole``.

        A ``whole`` trial is never stopped early. Returns Searcher.FINISHED once a trial has found what would end
        every other.
        """
        if self.halted:
            return Searcher.FINISHED
        trial = self._study.ask(self._space)
        self._push()
        scores = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        early_stopping.tell(self._asha, trial_id, scores)
        self.live[trial_id] = Live(trial, time.monotonic())
        attributes = trial.user_attrs
        changes = attributes.get("set", {}) | trial.params
        self._screen.began(trial.number, changes, label=attributes.get("of") or attributes.get("label", ""))
        return {"name": f"{self._prefix}{trial.number:04d}", "changes": changes, "whole": "label" in attributes}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in what trial ``trial_id`` reports: how far it is, a score, or how it ended.

        Where the score is the only objective it goes into the journal, as the value at that epoch.
        """
        live = self.live[trial_id]
        live.begun = True
        kind = result.get("kind")
        if kind == "end":
            live.ended, live.text = result["ended"], result.get("text", "")
            if live.ended == "halt":
                self.halted = (result["error"], live.text)
        elif kind == "eval":
            live.epoch, live.score = result["epoch"], result["score"]
            live.step_ms = result.get("step_ms", live.step_ms)
            if len(self._study.directions) == 1:
                # Not Trial.report, which warns of what a trial that goes on says again.
                journal = self._setup.journal.storage
                journal.set_trial_intermediate_value(optuna_compat.trial_id(live.trial), int(live.epoch), live.score)
                self._push()
        if kind in ("train", "eval"):
            self._screen.at(live.trial.number, epoch=result["epoch"], score=result.get("score"))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the result of a trial that is over, and publish what the study has found.

        One that was stopped early or diverged is pruned; one that failed, or whose process Tune gave up (``error``), is
        failed. What the end of the whole sweep cuts short is left as it is, for the next driver.
        """
        if result is not None and result.get("kind") == "eval" and result["epoch"] > self.live[trial_id].epoch:
            self.on_trial_result(trial_id, result)  # the score that made ASHA stop it comes here only
        live = self.live.pop(trial_id)
        if self.halted and live.ended in ("", "halt"):
            return  # it goes back into the queue
        if error:
            live.ended, live.text = "failed", f"its process was lost too often: {live.text or 'no reason given'}"
        state, values = TrialState.COMPLETE, None
        if live.ended == "complete" and live.score is not None:
            values = [live.score, live.step_ms or 0.0][: len(self._study.directions)]
        else:  # of the diverged, TPE should learn; of the failed, nothing is to be learnt
            state = TrialState.FAIL if live.ended == "failed" else TrialState.PRUNED
        live.trial.set_user_attr("ended", live.ended or "stopped")
        live.trial.set_user_attr("epoch", live.epoch)
        for name, value in (("step_ms", live.step_ms), ("score", live.score), ("why", live.text)):
            if value:
                live.trial.set_user_attr(name, value)
        self._study.tell(live.trial, values, state=state)
        self._push()
        self._screen.ended(live.trial.number, live.ended or "stopped", score=live.score, text=live.text)
        self._setup.publish()

    def _push(self) -> None:
        try:
            self._setup.journal.push()
        except errors.IconError as error:
            self.failure = error
            raise

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: Tune's experiments are not restored."""


class _Halt(_Here, tune.Stopper):  # type: ignore[misc]
    """Ends everything when one trial has found what would end every other."""

    def __init__(self, searcher: _Searcher) -> None:
        self._searcher = searcher

    def __call__(self, *_: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether Tune must end all trials.

        So it is when one has found what would end every other, or when the study's lock is lost.
        """
        return self._searcher.halted is not None or lock.lost()


class _Watch(_Here, tune.Callback):  # type: ignore[misc]
    """Says who waits for the cluster, and who was lost."""

    def __init__(self, searcher: _Searcher, *, need: Need, screen: Screen) -> None:
        self._searcher, self._need, self._screen = searcher, need, screen

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Say which trials have waited for the cluster for more than PATIENCE_S s, and what is missing there.

        Each is named again only after as long a wait.
        """
        now = time.monotonic()
        self._screen.refresh()
        for live in self._searcher.live.values():
            waited = now - max(live.began, live.warned)
            if not live.begun and waited > PATIENCE_S:
                live.warned = now
                self._screen.say(
                    f"trial {live.trial.number} has not begun after {now - live.began:.0f} s: "
                    f"{capacity.shortage(self._need)}"
                )

    def on_trial_recover(self, *_: Any, trial: Any, **__: Any) -> None:
        """Say that the process of a trial was lost, why, and that the trial goes on from its newest checkpoint."""
        live = self._searcher.live[trial.trial_id]
        error = Path(trial.local_path, "error.txt")
        lines = error.read_text().split("\n") if error.is_file() else []
        last = next((line for line in reversed(lines) if line.strip()), "no reason given")
        live.text = errors.shorten(last.split(". ")[0])  # Ray goes on for half a page
        self._screen.say(
            f"trial {live.trial.number}: process lost ({live.text}); it goes on from its newest checkpoint"
        )
