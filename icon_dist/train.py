"""Train a pose model with inter-image contrast: ``python -m icon_dist.train --cfg NAME|PATH [a.b=c ...]``.

``main`` runs on the driver and launches; ``train`` is the run itself, on every worker, read from top to bottom.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch

from icon_dist import config as configuration
from icon_dist import distributed, pretrained, storage
from icon_dist.config import Config, OptimConfig
from icon_dist.data.generate import generate_shards, missing_sets
from icon_dist.data.shard import open_shards, read_truth
from icon_dist.data.stream import TrainStream
from icon_dist.datasets import skeleton_to_dict
from icon_dist.engine import checkpoint, deepspeed
from icon_dist.engine.average import Average
from icon_dist.engine.progress import Progress, Report, counter
from icon_dist.errors import DivergedError, run_cli
from icon_dist.evaluate import conditions, evaluate
from icon_dist.evaluation.score import check_truth, main_metric
from icon_dist.losses.diagnostics import collapsed
from icon_dist.plan import model_of, plan_run, students_of
from icon_dist.semi.building import method_of
from icon_dist.semi.pair import Pair
from icon_dist.teacher import load_teacher
from icon_dist.types import Skeleton

COLLAPSED = (
    "warning: the embeddings have collapsed (all alike, loss at chance): contrast started before the features tell "
    "joints apart; raise loss.start_epoch, start from pretrained weights or lower loss.lambda_p"
)


def train(cfg: Config, *, report: Report, device: str) -> None:
    """One worker's part of the run. Every rank calls the same collectives in the same order."""
    rank, world = distributed.rank(), distributed.world_size()
    torch.set_num_threads(cfg.run.cpus_per_worker)  # another number of threads gives other bits
    if device != "cpu":
        torch.cuda.set_device(device)  # before the first collective, which would else use GPU 0
    torch.manual_seed(cfg.run.seed)
    run_uri, hw = run_directory(cfg), cfg.input_hw

    shards = open_shards(cfg.data.train, input_hw=hw, max_zoom=1 + cfg.data.augment.scale)
    val = open_shards(cfg.data.val, input_hw=hw) if cfg.data.val else None
    skeleton = shards.skeleton
    truth = read_truth(cfg.data.val) if val is not None and rank == 0 else {}
    if truth:
        check_truth(truth, skeleton)
    plan = plan_run(cfg, shards, val=val)
    model = students_of(cfg, skeleton).to(device)
    bf16 = cfg.run.precision == "bf16" or (cfg.run.precision == "auto" and device != "cpu")
    teacher = load_teacher(cfg, shards, plan.split, device=device, bf16=bf16) if cfg.semi.method == "pseudo" else None
    if teacher is not None:
        report({"kind": "note", "text": teacher.note})
    guess = None if teacher is None else teacher.forward
    method = method_of(cfg, skeleton, model, micro_batch=plan.micro_batch, teacher=guess)
    same = {"split": plan.split.record(), "teacher": teacher and teacher.origin}  # whenever this run is resumed

    # What outlives a step is restored here and saved below: weights, Adam's moments, banks, averaged weights, position
    # and best score. Randomness needs no state: it is a function of (seed, epoch, step, person).
    found = checkpoint.newest_for_all(run_uri, warn=lambda text: report({"kind": "note", "text": text}))
    step, best = 0, -math.inf
    origin: dict[str, str] | None = None  # of the weights that training started from
    if found is not None:
        step, weights, scored = found.step, found.tensors("model"), found.state()["best"]
        at = step / plan.steps_per_epoch
        checkpoint.require(found.manifest, backbone=cfg.model.backbone, joints=skeleton.joints, epoch=at)
        checkpoint.require_same(found.manifest, same)
        checkpoint.require_same_tensors(weights, model.state_dict())
        model.load_state_dict(weights)
        best = best if scored is None else scored
        model.colour, origin = found.manifest.get("colour", "rgb"), found.manifest.get("pretrained")
    elif cfg.model.pretrained:
        for net in (model.net1, model.net2) if isinstance(model, Pair) else (model,):
            origin, note = pretrained.start(net, cfg.model.pretrained, joints=skeleton.joints)
        report({"kind": "note", "text": note})
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
    if found is not None:
        engine.load_optimizer_state(found.tensors("optimizer"))
        method.load_state_dict(found.tensors("bank"))
        if average is not None:
            average.load_state_dict(found.tensors("ema"))
        report({"kind": "note", "text": f"resumed at step {step} from {found.uri}"})
        if changed := configuration.changes(found.manifest["config"], cfg):
            report({"kind": "note", "text": f"with another config from here on: {', '.join(changed)}"})
    if rank == 0:  # only now: a run that its checkpoint refuses keeps its config
        storage.write(storage.join(run_uri, "config.yaml"), configuration.to_yaml(cfg).encode())
    attempt = checkpoint.new_attempt()

    finite = torch.ones((), device=device)  # 0 from the first loss that is not

    def require_finite() -> None:
        if distributed.mean_over_ranks(finite) < 1:
            raise DivergedError(f"step {step}: the loss is not finite; lower optim.lr or loss.lambda_p")

    def save(scores: dict[str, float]) -> None:
        require_finite()
        tensors = {"model": engine.weights(), "optimizer": engine.optimizer_state(), "bank": method.state_dict()}
        if not all(t.isfinite().all() for name in ("model", "optimizer") for t in tensors[name].values()):
            raise DivergedError(f"step {step}: the weights or their gradients are not finite; lower optim.lr")
        if average is not None:
            tensors["ema"] = average.state_dict()
        if rank == 0:
            about = _about(cfg, skeleton, epoch=step / plan.steps_per_epoch, world=world, scores=scores)
            about |= {"colour": model.colour, "pretrained": origin, "index": shards.index_sha256, **same}
            state = {"best": best if math.isfinite(best) else None}
            checkpoint.save(
                run_uri, step=step, attempt=attempt, tensors=tensors, state=state, manifest=about, keep=cfg.run.keep
            )

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
    )
    save_every = max(1, round(cfg.run.checkpoint_every * plan.steps_per_epoch))
    warned = False
    report({"kind": "start", "step": step, "total": plan.total_steps, "batch": plan.batch})

    last = min(cfg.optim.epochs, cfg.run.stop_after_epoch or cfg.optim.epochs)
    for epoch in range(step // plan.steps_per_epoch, last):
        model.train()
        for micro, host_batch in enumerate(stream.epoch(epoch, start_step=step % plan.steps_per_epoch), start=1):
            when = step / plan.steps_per_epoch  # in epochs
            lr = learning_rate(cfg.optim, step, when)
            moves = micro % plan.accumulation == 0  # the micro-batch that completes a step
            log = moves and (step + 1) % cfg.run.log_every == 0
            batch = host_batch.to(device, non_blocking=True)
            losses = method(engine, batch, step=step, epoch=when, diagnose=log)
            finite *= losses.total.detach().isfinite()
            engine.backward(losses.total)
            engine.step(lr=lr)
            method.commit()
            if not moves:
                continue
            distributed.mean_buffers(model)  # equal bits on every rank: rank 0's checkpoint speaks for all
            step += 1
            if average is not None:
                average.update(step)
            if log:
                require_finite()
                values = losses.scalars()
                report({"kind": "train", "step": step, "epoch": step / plan.steps_per_epoch, "lr": lr, **values})
                if collapsed(values) and not warned:
                    warned = True
                    report({"kind": "note", "text": COLLAPSED})
            if step % save_every == 0 and step % plan.steps_per_epoch:
                save({})

        done = epoch + 1
        scores: dict[str, float] = {}
        if val is not None and (done == last or done % cfg.eval.every == 0):
            require_finite()
            model.eval()
            with average.in_place() if average is not None else nullcontext():
                for student, forward in method.students(engine).items():
                    measured, _ = evaluate(
                        forward,
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
            best = max(best, scores[main_metric(skeleton)])
            headline = main_metric(skeleton)
            report({"kind": "eval", "step": step, "epoch": done, "what": what, "headline": headline, "scores": scores})
        if done == last or scores or step % save_every == 0:  # a score without its weights is of no use
            save(scores)
    stream.close()
    end = "complete" if step == plan.total_steps else "stopped early"
    headline = f", best {main_metric(skeleton)} {best:.4g} ({what})" if math.isfinite(best) else ""
    report({"kind": "done", "text": f"{end}: step {step} of {plan.total_steps}{headline}; {run_uri}"})


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


def main(argv: list[str]) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m icon_dist.train", description=__doc__.splitlines()[0])
    presets = ", ".join(configuration.presets())
    parser.add_argument("--cfg", required=True, metavar="NAME|PATH", help=f"a YAML file, or a preset: {presets}")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="such as loss.tau=0.1 run.name=mine")
    parser.add_argument("--print-config", action="store_true", help="print the whole config and leave")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and leave; touches nothing")
    args = parser.parse_intermixed_args(argv)
    cfg = configuration.load(args.cfg, args.overrides)
    if args.print_config:
        print(configuration.to_yaml(cfg), end="")
        return
    cfg = _anchored(cfg)
    if cfg.data.dataset == "fake":
        for uri, split, people, seed in missing_sets(cfg.data):
            if args.dry_run:
                print(f"data        {people} people would be rendered to {uri}; the plan follows from them")
                return
            jobs = os.cpu_count() or 1
            generate_shards(
                uri,
                people=people,
                seed=seed,
                difficulty=cfg.data.difficulty,
                split=split,
                jobs=jobs,
                progress=counter("people"),
            )
    shards = open_shards(cfg.data.train, input_hw=cfg.input_hw, max_zoom=1 + cfg.data.augment.scale)
    val = open_shards(cfg.data.val, input_hw=cfg.input_hw) if cfg.data.val else None
    plan = plan_run(cfg, shards, val=val)
    print(plan, flush=True)
    if args.dry_run:
        if cfg.model.pretrained:
            joints = shards.skeleton.joints
            print(pretrained.start(model_of(cfg, shards.skeleton), cfg.model.pretrained, joints=joints).note)
        if cfg.semi.method == "pseudo":
            print(load_teacher(cfg, shards, plan.split, device="cpu", bf16=False).note)
        return
    if cfg.run.launcher == "local":
        from icon_dist.engine.local import launch
    else:
        from icon_dist.engine.ray import launch
    launch(cfg, "icon_dist.train:train", Progress(run_directory(cfg)))


def _anchored(cfg: Config) -> Config:
    """Paths made absolute, because workers run in another directory."""
    train, val = storage.absolute(cfg.data.train), cfg.data.val and storage.absolute(cfg.data.val)
    run = dataclasses.replace(cfg.run, dir=storage.absolute(cfg.run.dir))
    model = dataclasses.replace(cfg.model, pretrained=pretrained.anchored(cfg.model.pretrained))
    semi = dataclasses.replace(cfg.semi, teacher=cfg.semi.teacher and storage.absolute(cfg.semi.teacher))
    data = dataclasses.replace(cfg.data, train=train, val=val)
    return dataclasses.replace(cfg, data=data, model=model, semi=semi, run=run)


if __name__ == "__main__":
    run_cli(main)
