"""The driver of a run: what ``icon-dist train`` does around the loop that every worker runs."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Mapping

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints import manifest as manifests
from icon_dist.config import Config, as_sets, sets_of
from icon_dist.errors import CheckpointError, ConfigError, naming, note, plural, say, shown
from icon_dist.launch import local
from icon_dist.launch.signals import Stop
from icon_dist.loggers import reporters
from icon_dist.loggers.logger import Logger
from icon_dist.shards.synthetic import draw_missing, drawn_before, missing_sets
from icon_dist.storage import lock
from icon_dist.training import resume, start_weights
from icon_dist.training.loop import LOOP, last_words, run_directory
from icon_dist.training.plan import worker_counts
from icon_dist.training.precision import chosen
from icon_dist.training.setup import Data, open_data, starts
from icon_dist.training.state import numbers_of
from icon_dist.training.validation import headlines

WORKING_DIR = re.compile(r"/runtime_resources/working_dir_files/_ray_pkg_[0-9a-f]+/")


def run(cfg: Config, own: Mapping[str, str], *, dry_run: bool) -> None:
    """Plan the run, say what it will do, and unless this is a dry run, launch it and see it to its end.

    ``own`` are the values that the user set himself (:func:`icon_dist.config.load_own`). Raises an IconError, or
    StoppedError where a signal ends the run.
    """
    with Stop():  # a signal ends this part, too, in order; what launches has one of its own
        _run(anchored(cfg), own, dry_run=dry_run)


def _run(cfg: Config, own: Mapping[str, str], *, dry_run: bool) -> None:
    services = reporters.packages(cfg.run.report)
    notes = configuration.check_short_run(cfg, own)
    uri = run_directory(cfg)
    with naming("run.dir"):
        storage.require_place(storage.join(uri, "config.yaml"))
    if dry_run:
        for place, _, people, _ in missing_sets(cfg.data):
            say(f"data        {people} people would be rendered to {place}; the plan follows from them")
            for text in notes:
                note(text)
            return
    drawn = draw_missing(cfg.data)
    data = open_data(cfg, scorable=True)
    notes += configuration.check_short_run(cfg, own, steps=data.plan.total_steps)
    newest = resume.look(uri, cfg, data.shards, data.plan, note=note)
    if newest is None and not drawn:
        notes += drawn_before(cfg.data, own, people=len(data.shards))
    say(f"{data.plan}\n{setting(cfg, data, newest)}")
    for text in (*notes, *data.plan.notes):
        note(text)
    if dry_run:
        if cfg.run.launcher == "local":
            local.require_device(cfg)
        for text in starts(cfg, data):
            say(text)
        return
    if text := finished(cfg, data):
        say(text, file=sys.stderr)
        return
    with lock.hold(uri, fix="give another run.name"):
        lock.tidy(uri)
        started = reporters.start(services, run_uri=uri, config=dataclasses.asdict(cfg))
        logger = Logger(uri, reporters=started)
        if cfg.run.launcher == "local":
            local.launch(cfg, LOOP, logger)
        else:
            address = os.environ.get("RAY_ADDRESS")
            logger.say(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine")

            with logger.waiting("loading Ray"):
                from icon_dist.launch import ray  # which takes seconds

            ray.launch(cfg, LOOP, logger, counts=worker_counts(cfg))
        lock.tidy(uri, over=True)


def setting(cfg: Config, data: Data, newest: manifests.Manifest | None) -> str:
    """Where the run lives, what computes it, what it starts from, when it is scored, how to watch it."""
    uri, run = run_directory(cfg), cfg.run
    kind = "GPU" if run.gpus_per_worker else "CPU"
    precision = chosen(run.precision, on_gpu=run.gpus_per_worker > 0)
    launcher = f"{plural(run.workers, 'worker')} on Ray" if run.launcher == "ray" else "this process"
    start = cfg.model.pretrained or f"random weights, seed {run.seed}"
    if newest is not None:
        start = f"its checkpoint of step {newest['step']}"
    scored = "never: data.val is empty"
    if data.val:
        every = "every epoch" if cfg.eval.every == 1 else f"every {cfg.eval.every} epochs and the last"
        scored = f"{every}, on {plural(sum(map(len, data.val)), 'person')}"
        if len(data.val) > 1:
            joints = [plural(one.skeleton.num_joints, "joint") for one in data.val]
            own = ", ".join(f"{name} on {of}" for name, of in zip(headlines(data), joints, strict=True))
            scored += f": {own}; the best checkpoint is that of {headlines(data)[0]}"
    return "\n".join(
        [
            f"run         {uri}",
            f"device      {kind}, {precision}; {launcher}",
            f"start       {start}",
            f"scored      {scored}",
            f"watch       tensorboard --logdir {shlex.quote(storage.join(uri, 'tensorboard'))}",
        ]
    )


def finished(cfg: Config, data: Data) -> str:
    """What to say of a run that this config has brought to its end: nothing has to start for that. Else ""."""
    uri = run_directory(cfg)
    if manifests.newest_step(uri) < data.plan.total_steps:
        return ""
    skipped: list[str] = []  # the workers say so too
    try:
        found = checkpoint.find(uri, warn=skipped.append)
    except CheckpointError:
        say("\n".join(skipped), file=sys.stderr)
        raise
    if found is None or found.step < data.plan.total_steps:
        return ""  # the workers look into it
    changed = resume.changed_values(found.manifest, cfg, data.shards)
    if not all(one.startswith("eval.") or one == resume.OTHER_SHARDS for one in changed):
        return ""  # the workers know whether it fits
    numbers = numbers_of(found, steps_per_epoch=data.plan.steps_per_epoch)
    if numbers.epochs < cfg.optim.epochs:
        return ""  # the last evaluation was left
    lines = [*skipped, *resume.not_applied(changed)]
    return "\n".join([*lines, last_words(cfg, data.plan, found.manifest, step=found.step, best=numbers.best)])


def require_lasting(key: str, uri: str) -> None:
    """ConfigError for a place in Ray's copy of a working directory: another for each change in it, and not for long."""
    if WORKING_DIR.search(storage.absolute(uri)):
        text = "a relative path is in Ray's copy of the working directory; it does not last, the next job has another"
        raise ConfigError(f"{key}={shown(uri)}: {text}; give s3://... or an absolute path that all nodes see")


def anchored(cfg: Config) -> Config:
    """Paths made absolute, because workers run in another directory; ConfigError where results would not last."""
    require_lasting("run.dir", cfg.run.dir)
    train, val = (
        as_sets([storage.absolute(uri) for uri in sets_of(place)]) for place in (cfg.data.train, cfg.data.val)
    )
    run = dataclasses.replace(cfg.run, dir=storage.absolute(cfg.run.dir))
    model = dataclasses.replace(cfg.model, pretrained=start_weights.anchored(cfg.model.pretrained))
    semi = dataclasses.replace(cfg.semi, teacher=cfg.semi.teacher and storage.absolute(cfg.semi.teacher))
    data = dataclasses.replace(cfg.data, train=train, val=val)
    return dataclasses.replace(cfg, data=data, model=model, semi=semi, run=run)
