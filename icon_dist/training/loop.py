"""The run itself, on every worker, read from top to bottom.

Signals and preemption reach it from ``launch/signals.py``; what it reports is recorded by ``loggers/logger.py``.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from icon_dist import __version__, cpu, distributed, storage
from icon_dist import config as configuration
from icon_dist.checkpoints.background_saver import Saver
from icon_dist.codec import codec_of
from icon_dist.config import Config
from icon_dist.data.prefetch import feed
from icon_dist.datasets import skeleton_to_dict
from icon_dist.errors import DivergedError
from icon_dist.inference.predictor import Forward
from icon_dist.launch.signals import LeavingError, unless
from icon_dist.loggers.events import Done, Eval, Evaluating, Note, Report, Saving, Skip, Start, Stopped, Train
from icon_dist.losses.health import collapsed
from icon_dist.methods.supervised import unsure
from icon_dist.training.cuda_graph import GraphedStep
from icon_dist.training.lr_schedule import learning_rate
from icon_dist.training.meter import TICK_EVERY_S, Meter
from icon_dist.training.plan import Plan, at_workers
from icon_dist.training.precision import use_precision
from icon_dist.training.sample_record import Samples
from icon_dist.training.setup import begin, last_epoch, open_data, stream_of
from icon_dist.training.step import Position, one_step
from icon_dist.training.step_flags import Flags
from icon_dist.training.validation import Validation, conditions_of, headlines
from icon_dist.types import Batch, score_text

LOOP = f"{__name__}:train"  # the name by which launchers import it
COLLAPSED = (
    "warning: the embeddings have collapsed (all alike, loss at chance): contrast started before the features tell "
    "joints apart; raise loss.start_epoch, start from pretrained weights or lower loss.lambda_p"
)
UNSURE = (
    "warning: no joint of people without labels is above semi.gamma (pass_JOINT is 0 for all), so they teach nothing; "
    "lower it, or give a better teacher"
)
MAX_SKIPPED = 5  # steps in a row that are not finite end the run
SKIPPED = (
    "step {step}: the loss or its gradients are not finite, {row} steps in a row; lower optim.lr or loss.lambda_p. "
    "No such step has moved a weight: the newest checkpoint is sound"
)


def train(cfg: Config, *, report: Report, device: str, stop: Callable[[], bool] = lambda: False) -> None:
    """One worker's part of the run. Every rank calls the same collectives in the same order.

    Once ``stop`` is true on any rank, all leave after the step with a checkpoint and a report that it has stopped. On a
    GPU, where the host is a step ahead, they leave one step later, and a skipped step is reported one step later.
    """
    torch.set_num_threads(cfg.run.cpus_per_worker)  # another number of threads gives other bits
    if device != "cpu":
        torch.cuda.set_device(device)  # before the first collective, which would else use GPU 0
        use_precision(cfg.run.precision)
    torch.manual_seed(cfg.run.seed)
    run = Run(cfg, report=report, device=device, stop=stop)
    cpu.keep_freed_memory()
    state, plan = run.state, run.plan
    last, left = last_epoch(cfg), False
    if state.epochs < last:  # a run that is over changes nothing, not even its records
        report(Start(state.step, plan.total_steps))
    with run.saver, closing(run):
        try:
            while state.epochs < last:
                run.train_epoch()
                run.end_epoch(last=state.epochs + 1 == last)
        except LeavingError:
            left = True
            run.save({})
    if left:
        report(Stopped(state.step))
        return
    report(Done(last_words(cfg, plan, run.about({}), step=state.step, best=state.best)))


def last_words(cfg: Config, plan: Plan, about: Mapping[str, Any], *, step: int, best: float) -> str:
    """The last line of a run; ``about`` is what a checkpoint says of itself, such as how it is scored."""
    total = plan.total_steps
    end = "stopped early" if step < total else "complete"
    asked_for_less = f", of which this config asks for {total}"  # of a run that is over
    of = f" of {total}" if step <= total else asked_for_less
    scored = ""
    if math.isfinite(best):
        scored = f", best {about['headline']} {score_text(about['headline'], best)} ({about['conditions']})"
    return f"{end}: step {step}{of}{scored}; {run_directory(cfg)}"


class Run:
    """What happens in an epoch, and all that it needs. Whatever outlives a step is in ``state``."""

    def __init__(self, cfg: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
        self.cfg, self.report, self.device, self.stop = cfg, report, device, stop
        self.uri = run_directory(cfg)
        self.data = data = open_data(at_workers(cfg, distributed.world_size()))
        self.shards, _, self.plan = data
        # streams fork: before there is anything on a GPU
        self.validation = Validation(cfg, data, codec=codec_of(cfg), device=device)
        stream = None if cfg.semi.cache else stream_of(cfg, data, device=device)
        self.learner = begin(cfg, data, self.uri, device=device, note=self.note)
        self.state = self.learner.state
        self.samples = Samples(self.uri, step=self.state.step) if cfg.run.record_samples else None
        self.stream = stream or stream_of(cfg, data, device=device, guesses=self.learner.guesses)
        self.saver = Saver(self.uri, keep=cfg.run.keep, warn=self.note)
        self.save_every = max(1, round(cfg.run.checkpoint_every * self.plan.steps_per_epoch))
        self.headlines = headlines(data)
        plan = self.plan
        per_epoch, accumulation = plan.steps_per_epoch, plan.accumulation
        self.meter = Meter(
            report, batch=plan.batch, accumulation=accumulation, steps_per_epoch=per_epoch, device=device
        )
        self.report = self.meter.report
        self.flags, self.leaving = Flags(late=device != "cpu"), False
        self.graphed: GraphedStep | None = None
        if cfg.run.graph:
            self.graphed = GraphedStep(cfg, self.learner, accumulation=accumulation, device=device)
        self.warned: set[str] = set()

    def close(self) -> None:
        """End the loader processes and let go of the model."""
        self.stream.close()
        self.validation.close()
        self.learner.engine.close()

    def note(self, text: str) -> None:
        """Report a line for people."""
        self.report(Note(text))

    def train_epoch(self) -> None:
        """The steps from where the run stands to the end of its epoch."""
        epoch, per_epoch = self.state.epochs, self.plan.steps_per_epoch
        self.learner.model.train()
        here = self.stream.epoch(epoch, start_step=self.state.step - epoch * per_epoch)
        with nullcontext(here) if self.device == "cpu" else closing(feed(here, device=self.device)) as batches:
            micros = self.meter.watched(batches, step=self.state.step)
            for first in micros:
                self.step(chain([first], islice(micros, self.plan.accumulation - 1)))
                self.saver.check()
                if self.state.step % per_epoch == 0:
                    self.heed(wait=True)
                if self.leaving:
                    raise LeavingError
                if self.state.step % self.save_every == 0 and self.state.step % per_epoch:
                    self.save({})

    def step(self, micros: Iterator[Batch]) -> None:
        """One optimizer step on these micro-batches."""
        cfg, state = self.cfg, self.state
        epoch = state.step / self.plan.steps_per_epoch
        lr = learning_rate(cfg.optim, state.step, epoch)
        log = (state.step + 1) % cfg.run.log_every == 0 or state.step + 1 == self.plan.total_steps
        at = Position(state.step, state.step + 1, epoch, lr, self.stop)
        values = self.make(micros, at, log=log)
        state.advance()
        self.heed(wait=log or self.samples is not None)
        if self.samples is not None:
            skipped = state.skipped_in_a_row > 0
            self.samples.end_step(step=state.step, epoch=state.epochs, skipped=skipped)
        if log and not state.skipped_in_a_row:
            self.log(values, lr=lr)

    def make(self, micros: Iterator[Batch], at: Position, *, log: bool) -> dict[str, float]:
        """The step on the device, launched or replayed; with ``log`` all there is to log."""
        if self.graphed is not None and not log:
            self.flags.send(self.state.step + 1, self.graphed(list(self.noted(micros)), at))
            return {}
        batches = (batch.to(self.device, non_blocking=True) for batch in self.noted(micros))
        step = one_step(self.learner, batches, at, accumulation=self.plan.accumulation, diagnose=log)
        self.flags.send(self.state.step + 1, step.flags)
        return step.losses.scalars() if log else {}

    def noted(self, micros: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, each recorded first where ``run.record_samples`` asks for it."""
        for batch in micros:
            if self.samples is not None:
                self.samples.add(batch.instance)
            yield batch

    def heed(self, *, wait: bool) -> None:
        """Act on the flags of steps that have arrived; with ``wait``, on those of all steps."""
        state = self.state
        for step, (skipped, leave) in self.flags.arrived(wait=wait):
            state.count(skipped=skipped)
            self.leaving |= leave
            if skipped:
                self.report(Skip(step, state.skipped))
                if state.skipped_in_a_row >= MAX_SKIPPED:
                    raise DivergedError(SKIPPED.format(step=step, row=state.skipped_in_a_row))

    def log(self, values: dict[str, float], *, lr: float) -> None:
        """Report the step that was just made, and warn once of what goes wrong."""
        step = self.state.step
        self.report(Train(step, step / self.plan.steps_per_epoch, lr, values))
        wrong = {COLLAPSED: collapsed(values), UNSURE: unsure(values)}
        for text in {text for text, holds in wrong.items() if holds} - self.warned:
            self.warned.add(text)
            self.note(text)

    def end_epoch(self, *, last: bool) -> None:
        """Score it if it is its turn, and save it."""
        cfg, state, done = self.cfg, self.state, self.state.epochs + 1
        if cfg.data.max_bad_fraction:
            for text in (text for part in distributed.gather_objects(self.stream.skipped()) for text in part):
                self.note(f"epoch {done} left out {text}")
        scores = self.evaluate() if self.validation.sets and (last or done % cfg.eval.every == 0) else {}
        if scores:
            state.best = max(state.best, scores[self.headlines[0]])
            self.report(Eval(state.step, done, conditions_of(cfg, self.data), tuple(self.headlines), scores))
        state.epochs = done
        if last or scores or state.step % self.save_every == 0:  # a score without its weights is of no use
            self.save(scores)

    def evaluate(self) -> dict[str, float]:
        """Scores of every student. If the run is left meanwhile, the epoch stays open until it goes on."""
        learner, told = self.learner, [time.monotonic()]

        def show(done: int, total: int) -> None:
            """Tell every two seconds how far it is."""
            if time.monotonic() - told[0] > TICK_EVERY_S:
                told[0] = time.monotonic()
                self.report(Evaluating(done, total))

        learner.model.eval()
        with nullcontext() if learner.average is None else learner.average.in_place():
            students: dict[str, Forward] = {
                name: unless(self.stop, forward, device=self.device)
                for name, forward in learner.method.students(learner.engine).items()
            }
            return self.validation(students, show)

    def save(self, scores: dict[str, float]) -> None:
        """A checkpoint of where the run stands; what is copied is on its way when this returns."""
        self.heed(wait=True)
        step, tensors = self.state.step, self.state.tensors()
        if distributed.rank() == 0:
            files = {} if self.samples is None else self.samples.flush(step=step, attempt=self.saver.attempt)
            about = self.about(scores)
            self.report(Saving())
            self.saver.save(step=step, tensors=tensors, state=self.state.numbers(), manifest=about, files=files)

    def about(self, scores: dict[str, float]) -> dict[str, object]:
        """The facts that a checkpoint records in its manifest."""
        return {
            "config": dataclasses.asdict(self.cfg),
            "config_hash": configuration.config_hash(self.cfg),
            "skeleton": skeleton_to_dict(self.shards.skeleton),
            "epoch": self.state.step / self.plan.steps_per_epoch,
            "metrics": scores,
            "score": scores.get(self.headlines[0]),
            "headline": self.headlines[0],
            "conditions": conditions_of(self.cfg, self.data),
            "data": self.shards.origin,
            "evaluated": "ema" if self.cfg.optim.ema else "model",
            "world_size": distributed.world_size(),
            "versions": {"icon_dist": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
            **self.learner.facts,
        }


def run_directory(cfg: Config) -> str:
    """The absolute path, or URI, of a run: ``run.dir`` and ``run.name``."""
    return storage.join(storage.absolute(cfg.run.dir), cfg.run.name)
