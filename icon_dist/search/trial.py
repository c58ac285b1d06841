"""One trial, in a Tune actor: the same run as ``icon_dist.train``, which tells Tune how it goes.

Inline, the loop runs in the actor's own process, which serves the next trial too. As a worker group, the actor only
supervises Ray Train workers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
import traceback
from pathlib import Path

from ray import tune

from icon_dist import storage
from icon_dist.checkpoints import manifest as manifests
from icon_dist.config import Changes, Config, DataConfig, sets_of
from icon_dist.data.crop_cache import SharedCache, sharing
from icon_dist.errors import ClusterError, ConfigError, DivergedError, IconError, shorten
from icon_dist.launch import local
from icon_dist.launch.ray import supervise
from icon_dist.loggers.events import Eval, Event, Start, Train
from icon_dist.loggers.logger import Logger
from icon_dist.reports.runs import finite, read_runs
from icon_dist.search import shared_epochs
from icon_dist.search.space import at_point
from icon_dist.shards import local_copies
from icon_dist.shards.manifest import MANIFEST, read_manifest
from icon_dist.storage import lock, tempdirs
from icon_dist.training.loop import LOOP, run_directory
from icon_dist.types import percent

TELL_EVERY = 2.0  # s, how far training is
_crops = SharedCache()  # of the trials that run in this process


def run_trial(point: Changes, *, base: Config, metric: str, study: str, inline: bool, locks: dict[str, str]) -> None:
    """Train one point to its end and tell Tune its scores by ``metric``, in percent.

    What goes wrong is reported, not raised, because Tune would try it again.
    ``locks``: the driver's tokens, by which what the trial writes is the driver's.
    """
    lock.adopt(locks)
    try:
        place = {"run.dir": storage.join(study, "trials"), "run.name": point["name"]}
        cfg = at_point(base, {**point["changes"], **place, "run.keep": 1, "run.stop_after_epoch": 0})

        def train(last: int) -> Teller:
            """Train up to epoch ``last`` (0: to the end) and return the reporter with the scores it has told."""
            teller = Teller(cfg, metric=metric, whole=point["whole"])
            part = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, stop_after_epoch=last))
            if inline:
                copy_here(cfg.data)
                with sharing(_crops):
                    local.launch(part, LOOP, teller)
            else:
                with teller:
                    supervise(part, LOOP, teller)
            return teller

        if epoch := shared_epochs.same_until(cfg, point["changes"]):
            home = storage.join(study, "shared", f"seed-{cfg.run.seed}")
            shared_epochs.begin(run_directory(cfg), shared=home, epoch=epoch, train=lambda: train(epoch))
        teller = train(0)
        if not teller.scored:  # an attempt before this one finished training and was not heard
            teller.retell(since=epoch)
        tune.report({"kind": "end", "ended": "complete"})
    except DivergedError as error:
        tune.report({"kind": "end", "ended": "diverged", "text": str(error)})
    except (ConfigError, ClusterError) as error:
        tune.report({"kind": "end", "ended": "failed", "text": str(error)})
    except IconError as error:  # data, checkpoint or storage: no other trial would fare better
        tune.report({"kind": "end", "ended": "halt", "error": type(error).__name__, "text": str(error)})
    except Exception as error:
        if why := out_of_memory(error):
            tune.report({"kind": "end", "ended": "failed", "text": why})
        else:
            tune.report({"kind": "end", "ended": "halt", "error": "", "text": traceback.format_exc()})


def out_of_memory(error: Exception) -> str:
    """Say that memory ran out, and how much was asked for, or nothing.

    Torch has a class for it on a GPU only, and a worker group sends its traceback.
    """
    for line in f"{type(error).__name__}: {error}".splitlines():
        if "MemoryError" in line or "can't allocate memory" in line:
            return "out of memory: " + shorten(line.split("DefaultCPUAllocator: ")[-1], 200)
    return ""


class Teller(Logger):
    """The run's progress, written as always, with its scores and speed told to Tune."""

    def __init__(self, cfg: Config, *, metric: str, whole: bool) -> None:
        """``metric``: that trials are compared by; ``whole``: not to be stopped early, since others are held to it."""
        super().__init__(run_directory(cfg))
        self._metric, self._epochs, self._whole = metric, cfg.optim.epochs, whole
        self._last_told = 0.0
        self._step = 0  # of the last numbers, or where training began
        self._times: list[tuple[int, float]] = []  # steps, and ms of each of them: as many as numbers came
        self.scored = False

    def __call__(self, event: Event) -> None:
        """Show and write down one event of the trial; tell the sweep its scores."""
        super().__call__(event)
        now = time.monotonic()
        if isinstance(event, Train):
            if event.speed is not None and event.speed.step_ms is not None:
                self._times.append((event.step - self._step, event.speed.step_ms))
            self._step = event.step
            if now - self._last_told > TELL_EVERY:
                self._last_told = now
                tune.report({"kind": "train", "epoch": event.epoch})
        elif isinstance(event, Start):
            self._step = event.step
            tune.report({"kind": "train", "epoch": 0.0})
        elif isinstance(event, Eval):
            self._tell(event.epoch, event.scores[self._metric])

    def retell(self, *, since: int) -> None:
        """The last score of an earlier attempt, from what it saved with its weights, and the time of its steps.

        ``since``: the epoch up to which other trials have trained it.
        """
        last = manifests.read(max(entry for entry in manifests.entries(self._run_uri) if entry.committed))
        before = 0
        for event in read_runs([self._run_uri])[0].train:
            if event["epoch"] > since and finite(event.get("step_ms")) is not None:
                self._times.append((event["step"] - before, event["step_ms"]))
            before = event["step"]
        self._tell(last["epoch"], last["score"])

    def _tell(self, epoch: float, score: float) -> None:
        result = {"kind": "eval", "epoch": epoch, "score": percent(self._metric, score)}
        if epoch < self._epochs and not self._whole:
            result["rung"] = epoch  # the last score is the result: nobody is stopped by it
        if times := self._times[1:] or self._times:  # the first steps are slower
            result["step_ms"] = sum(steps * ms for steps, ms in times) / sum(steps for steps, _ in times)
        self.scored = epoch >= self._epochs
        tune.report(result)


def copy_here(data: DataConfig) -> None:
    """Shards on ``s3://`` are copied to this machine once, for all trials that will run on it, and read there.

    The copy is a folder below TMPDIR, named by what the manifest says; it goes with the last trial.
    """
    for uri in {*sets_of(data.train), *sets_of(data.val)}:
        if storage.is_remote(uri):
            local_copies.use_copy(uri, _copy_of(uri, read_manifest(uri)["sha256"]))


@functools.cache  # what this process has verified stays as it is: the folder is this user's alone
def _copy_of(uri: str, mark: str) -> Path:
    folder = tempdirs.shared("shards", mark[:16])
    for name, file in read_manifest(uri)["files"].items():
        path = folder / name
        if not _is(path, file["sha256"]):
            storage.copy_to(storage.join(uri, name), path, expect_sha256=file["sha256"])  # appears whole or not at all
    storage.copy_to(storage.join(uri, MANIFEST), folder / MANIFEST)
    return folder


def _is(path: Path, sha256: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
