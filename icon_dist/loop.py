"""The run itself, on every worker, read from top to bottom."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from importlib.metadata import version
from typing import Any

import torch

from icon_dist import config as configuration
from icon_dist import distributed, pretrained, storage
from icon_dist.config import Config, OptimConfig
from icon_dist.data.shard import open_shards, read_truth
from icon_dist.data.stream import TrainStream
from icon_dist.datasets import skeleton_to_dict
from icon_dist.engine import checkpoint, deepspeed
from icon_dist.engine.average import Average
from icon_dist.engine.progress import Report
from icon_dist.engine.samples import Samples
from icon_dist.engine.saver import Saver, send_unsent
from icon_dist.engine.state import State
from icon_dist.engine.stop import LeavingError, unless
from icon_dist.errors import DivergedError
from icon_dist.evaluate import conditions, evaluate
from icon_dist.evaluation.score import check_truth, main_metric
from icon_dist.losses.diagnostics import collapsed
from icon_dist.plan import at_workers, plan_run, students_of
from icon_dist.semi.building import method_of
from icon_dist.semi.pair import Pair
from icon_dist.teacher import load_teacher
from icon_dist.types import Skeleton

COLLAPSED = (
    "warning: the embeddings have collapsed (all alike, loss at chance): contrast started before the features tell "
    "joints apart; raise loss.start_epoch, start from pretrained weights or lower loss.lambda_p"
)
SKIPPED = (
    "step {step}: the loss or its gradients are not finite, {row} steps in a row; lower optim.lr or loss.lambda_p. "
    "No such step has moved a weight: the newest checkpoint is sound"
)


def train(cfg: Config, *, report: Report, device: str, stop: Callable[[], bool] = lambda: False) -> None:
    """One worker's part of the run. Every rank calls the same collectives in the same order.

    Once ``stop`` is true on any rank, all leave after the step with a checkpoint and a report of kind ``stopped``.
    """
    rank, world = distributed.rank(), distributed.world_size()
    torch.set_num_threads(cfg.run.cpus_per_worker)  # another number of threads gives other bits
    if device != "cpu":
        torch.cuda.set_device(device)  # before the first collective, which would else use GPU 0
    torch.manual_seed(cfg.run.seed)
    run_uri, hw = run_directory(cfg), cfg.input_hw

    def note(text: str) -> None:
        report({"kind": "note", "text": text})

    zoom = 1 + cfg.data.augment.scale
    shards = distributed.from_first(lambda: open_shards(cfg.data.train, input_hw=hw, max_zoom=zoom))
    val = distributed.from_first(lambda: open_shards(cfg.data.val, input_hw=hw)) if cfg.data.val else None
    skeleton = shards.skeleton
    truth = read_truth(cfg.data.val) if val is not None and rank == 0 else {}
    if truth:
        check_truth(truth, skeleton)
    plan = plan_run(at_workers(cfg, world), shards, val=val)
    model = students_of(cfg, skeleton).to(device)
    bf16 = cfg.run.precision == "bf16" or (cfg.run.precision == "auto" and device != "cpu")
    teacher = load_teacher(cfg, shards, plan.split, device=device, bf16=bf16) if cfg.semi.method == "pseudo" else None
    if teacher is not None:
        note(teacher.note)
    guess = None if teacher is None else teacher.forward
    method = method_of(cfg, skeleton, model, micro_batch=plan.micro_batch, teacher=guess)
    same = {"split": plan.split.record(), "teacher": teacher and teacher.origin}  # whenever this run is resumed

    if rank == 0:
        send_unsent(run_uri, warn=note)
    found = checkpoint.newest_for_all(run_uri, warn=note)
    if found is not None:
        at = found.step / plan.steps_per_epoch
        checkpoint.require(found.manifest, backbone=cfg.model.backbone, joints=skeleton.joints, epoch=at)
        checkpoint.require_same(found.manifest, same)
    state = State(model, found, steps_per_epoch=plan.steps_per_epoch)
    origin: dict[str, str] | None = None  # of the weights that training started from
    if found is not None:
        model.colour, origin = found.manifest.get("colour", "rgb"), found.manifest.get("pretrained")
    elif cfg.model.pretrained:
        for net in (model.net1, model.net2) if isinstance(model, Pair) else (model,):
            origin, said = pretrained.start(net, cfg.model.pretrained, joints=skeleton.joints)
        note(said)
    engine = deepspeed.wrap(
        model,
        zero=cfg.run.zero,
        micro_batch=plan.micro_batch,
        accumulation=plan.accumulation,
        world=world,
        bf16=bf16,
        compiled=cfg.run.compile,
        lr=cfg.optim.lr,
    )
    average = Average(model, decay=cfg.optim.ema) if cfg.optim.ema else None
    state.complete(engine, bank=method, ema=average)
    if found is not None:
        note(f"resumed at step {state.step} from {found.uri}")
        if changed := configuration.changes(found.manifest["config"], cfg):
            note(f"with another config from here on: {', '.join(changed)}")
    if rank == 0:  # only now: a run that its checkpoint refuses keeps its config
        storage.write(storage.join(run_uri, "config.yaml"), configuration.to_yaml(cfg).encode())
    samples = Samples(run_uri, step=state.step) if cfg.run.record_samples else None

    what = ""
    if val is not None:
        split, boxes = val.manifest["split"], val.manifest["boxes"]
        what = conditions(cfg.eval, skeleton, codec=cfg.data.codec, split=split, boxes=boxes)
    stream = TrainStream(
        shards,
        seed=cfg.run.seed,
        batch=plan.batch,
        streams=cfg.data.streams,
        rank=rank,
        world=world,
        micro_batch=plan.micro_batch,
        input_hw=hw,
        codec=cfg.data.codec,
        augment=cfg.data.augment,
        loaders=cfg.data.loaders,
        cache_mb=cfg.data.cache_mb,
        pin=device != "cpu",
        labelled=plan.split.labelled,
        unlabelled_share=plan.unlabelled_batch / plan.batch,
        max_bad_fraction=cfg.data.max_bad_fraction,
    )
    saver = Saver(run_uri, keep=cfg.run.keep, warn=note)

    def save(scores: dict[str, float]) -> None:
        tensors = state.tensors()
        if rank == 0:
            about = _about(cfg, skeleton, epoch=state.step / plan.steps_per_epoch, world=world, scores=scores)
            about |= {"colour": model.colour, "pretrained": origin, "index": shards.index_sha256, **same}
            files = samples.flush(step=state.step, attempt=saver.attempt) if samples is not None else {}
            saver.save(step=state.step, tensors=tensors, state=state.numbers(), manifest=about, files=files)

    save_every = max(1, round(cfg.run.checkpoint_every * plan.steps_per_epoch))
    warned = left = False
    report({"kind": "start", "step": state.step, "total": plan.total_steps, "batch": plan.batch})

    last = min(cfg.optim.epochs, cfg.run.stop_after_epoch or cfg.optim.epochs)
    with saver, closing(stream):
        while state.epochs < last and not left:
            epoch = state.epochs
            model.train()
            broken = torch.zeros((), dtype=torch.bool, device=device)  # whether a loss of this step is not finite
            begin = state.step - epoch * plan.steps_per_epoch
            for micro, host_batch in enumerate(stream.epoch(epoch, start_step=begin), start=1):
                when = state.step / plan.steps_per_epoch  # in epochs
                lr = learning_rate(cfg.optim, state.step, when)
                moves = micro % plan.accumulation == 0  # the micro-batch that completes a step
                log = moves and (state.step + 1) % cfg.run.log_every == 0
                batch = host_batch.to(device, non_blocking=True)
                losses = method(engine, batch, step=state.step, epoch=when, diagnose=log)
                broken |= ~losses.total.detach().isfinite()
                engine.backward(losses.total)
                if samples is not None:
                    samples.add(host_batch.instance)
                if not moves:
                    engine.step(lr=lr)
                    continue
                values = losses.scalars() if log else {}
                skip, left = state.agree(broken | ~engine.finite(), stop())
                engine.step(lr=lr, skip=skip)
                state.advance(skipped=skip)
                broken.zero_()
                if samples is not None:
                    samples.end_step(step=state.step, epoch=epoch, skipped=skip)
                if skip:
                    report({"kind": "skip", "step": state.step, "skipped": state.skipped})
                    if state.skipped_in_a_row >= cfg.run.max_skipped:
                        raise DivergedError(SKIPPED.format(step=state.step, row=state.skipped_in_a_row))
                else:
                    method.commit()
                    if average is not None:
                        average.update(state.step)
                if log and not skip:
                    at = state.step / plan.steps_per_epoch
                    report({"kind": "train", "step": state.step, "epoch": at, "lr": lr, **values})
                    if collapsed(values) and not warned:
                        warned = True
                        note(COLLAPSED)
                saver.check()
                if left or (state.step % save_every == 0 and state.step % plan.steps_per_epoch):
                    save({})
                if left:
                    break
            if left:
                break

            done = epoch + 1
            if cfg.data.max_bad_fraction:
                for text in (text for part in distributed.gather_objects(stream.skipped()) for text in part):
                    note(f"epoch {done} left out {text}")
            scores: dict[str, float] = {}
            if val is not None and (done == last or done % cfg.eval.every == 0):
                saver.wait()  # its thread may hold a lock at the moment in which loaders are forked
                model.eval()
                try:
                    with average.in_place() if average is not None else nullcontext():
                        for student, forward in method.students(engine).items():
                            measured, _ = evaluate(
                                unless(stop, forward, device=device),
                                val,
                                truth,
                                input_hw=hw,
                                stride=model.stride,
                                codec=cfg.data.codec,
                                sigma=cfg.data.sigma,
                                settings=cfg.eval,
                                loaders=cfg.data.loaders,
                                device=device,
                            )
                            scores |= {student + name: value for name, value in measured.items()}
                except LeavingError:
                    left = True
                    save({})  # the epoch stays open: it is evaluated when the run goes on
                    break
                headline = main_metric(skeleton)
                state.best = max(state.best, scores[headline])
                told = {"step": state.step, "epoch": done, "what": what, "headline": headline, "scores": scores}
                report({"kind": "eval", **told})
            state.epochs = done
            if done == last or scores or state.step % save_every == 0:  # a score without its weights is of no use
                save(scores)
    if left:
        report({"kind": "stopped", "step": state.step})
        return
    end = "complete" if state.step == plan.total_steps else "stopped early"
    headline = f", best {main_metric(skeleton)} {state.best:.4g} ({what})" if math.isfinite(state.best) else ""
    report({"kind": "done", "text": f"{end}: step {state.step} of {plan.total_steps}{headline}; {run_uri}"})


def learning_rate(optim: OptimConfig, step: int, epoch: float) -> float:
    """A pure function of the position: linear warm-up, then times gamma at every milestone."""
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    return optim.lr * warm * optim.gamma ** sum(epoch >= milestone for milestone in optim.milestones)


def run_directory(cfg: Config) -> str:
    return storage.join(storage.absolute(cfg.run.dir), cfg.run.name)


def _about(cfg: Config, skeleton: Skeleton, *, epoch: float, world: int, scores: dict[str, float]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "config": dataclasses.asdict(cfg),
        "config_hash": configuration.config_hash(cfg),
        "skeleton": skeleton_to_dict(skeleton),
        "epoch": epoch,
        "metrics": scores,
        "score": scores.get(main_metric(skeleton)),
        "evaluated": "ema" if cfg.optim.ema else "model",
        "world_size": world,
        "versions": {name: version(name) for name in ("icon_dist", "torch", "numpy")},
    }
