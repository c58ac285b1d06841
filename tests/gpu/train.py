"""Does contrast help? From one checkpoint of every seed, some more epochs with it and as many without.

As a program it is one seed: a run without contrast, and the two that begin with its weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from icon_dist.metrics.score import main_metric
from icon_dist.shards.shard_set import open_shards
from icon_dist.train import main as train_main
from tests.gpu.setting import Row, Rows, Setting, background, without_deepspeed

SEEDS, BASE, TAIL = 3, 14, 8  # epochs
RATE = 1500.0  # img/s of all seeds together: a guess, before the first of them has measured it
EVALUATION = 0.2  # of an epoch
CONTRAST = 0.1  # lambda_p
RUNS = ("base", "without", "with")
LOGGED = ("gradient_ratio", "skcc_purity", "prcc_purity", "skcc_cosine", "prcc_cosine", "skcc_over_chance")


def train(setting: Setting) -> Rows:
    shards = open_shards(str(setting.data / "train"))
    seeds = 1 if setting.tiny else SEEDS
    whole = seeds * len(shards) * (BASE + 2 * TAIL) / RATE
    share = 1 / BASE if setting.tiny else min(1.0, 0.85 * setting.left / whole)
    base = max(1, round(BASE * share))
    yield Row("epochs without contrast", base, note=f"{seeds} seeds in parallel, {len(shards)} people")
    began = time.monotonic()
    children = [start(setting, seed, base) for seed in range(seeds)]
    beside = [run_with_graphs(setting)] if setting.cuda else []
    try:
        with suppress(subprocess.TimeoutExpired):  # what is there by then counts
            for child in children + beside:
                child.wait(max(1.0, setting.left - 3))
    finally:
        for child in children + beside:
            child.kill()
            child.wait()
    yield Row("all seeds", time.monotonic() - began, "s", note=f"exit codes {[child.returncode for child in children]}")
    for child in beside:
        yield Row("a run with graphs", child.returncode, "exit", ok=child.returncode == 0, note="train-graphs.log")
    metric = main_metric(shards.skeleton)
    found = [{run: record(setting, seed, run) for run in RUNS} for seed in range(seeds)]
    gains = []
    for seed, runs in enumerate(found):
        for run, (scores, _) in runs.items():
            yield Row(f"seed {seed} {run}", scores.get(metric, "none"), metric, ok=metric in scores)
        if all(metric in runs[run][0] for run in RUNS):
            gains.append(runs["with"][0][metric] - runs["without"][0][metric])
        for name in LOGGED:
            if name in runs["with"][1]:
                yield Row(f"seed {seed} {name}", runs["with"][1][name])
    if gains:
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        yield Row("gain by contrast", statistics.mean(gains), metric, note=f"± {spread:.2f} over {len(gains)} seeds")


def start(setting: Setting, seed: int, base: int) -> subprocess.Popen[bytes]:
    options: dict[str, object] = {
        "device": setting.device,
        "data": setting.data,
        "runs": setting.scratch / f"seed-{seed}",
        "seed": seed,
        "base": base,
        "ends": setting.ends - 6,  # of a clock that all processes share
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += ["--tiny"] if setting.tiny else []
    return background("tests.gpu.train", *words, log=setting.out / f"train-{seed}.log")


def run_with_graphs(setting: Setting) -> subprocess.Popen[bytes]:
    return background("icon_dist.train", *with_graphs(setting), log=setting.out / "train-graphs.log")


def with_graphs(setting: Setting) -> list[str]:
    """A short run of all that only a GPU has: steps recorded while a thread feeds them with crops from its memory."""
    args = argparse.Namespace(**vars(setting), runs=setting.scratch, seed=0)
    less = ["model.backbone=hrnet_small", "model.embedding=64", "loss.start_epoch=0.5"]
    return [*words(args, "graphs", 1, CONTRAST), *less, "run.zero=0", "run.graph=true", "data.resident=always"]


def record(setting: Setting, seed: int, run: str) -> tuple[dict[str, float], dict[str, float]]:
    """The last scores of a run and the last of its logged steps; its metrics are kept in one file of all runs."""
    file = setting.scratch / f"seed-{seed}" / run / "metrics.jsonl"
    if not file.is_file():
        return {}, {}
    events = [json.loads(line) for line in file.read_text().splitlines()]
    with (setting.out / "train.jsonl").open("a") as kept:
        kept.writelines(json.dumps({"seed": seed, "run": run, **event}) + "\n" for event in events)
    scores = [event["scores"] for event in events if event["kind"] == "eval"]
    steps = [event for event in events if event["kind"] == "train"]
    return (scores or [{}])[-1], (steps or [{}])[-1]


def one_seed(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    kinds = {"device": str, "data": Path, "runs": str, "seed": int, "base": int, "ends": float}
    for name, kind in kinds.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    without_deepspeed()
    began = time.monotonic()
    train_main(words(args, "base", args.base, 0))
    epoch = (time.monotonic() - began) / (args.base + EVALUATION)
    left = (args.ends - time.monotonic()) / (2.4 * epoch) - EVALUATION  # contrast costs more
    tail = 1 if args.tiny else max(1, min(TAIL, int(left)))
    print(f"an epoch takes {epoch:.1f} s; {tail} more, with and without contrast")
    for run, weight in (("without", 0), ("with", CONTRAST)):
        train_main([*words(args, run, tail, weight), f"model.pretrained={args.runs}/base"])


def words(args: argparse.Namespace, run: str, epochs: int, weight: float) -> list[str]:
    """The command line of a run."""
    shards = open_shards(str(args.data / "train"))
    batch = 16 if args.tiny else 64
    values = {
        "run.dir": args.runs,
        "run.name": run,
        "run.seed": args.seed,
        "run.launcher": "local",
        "run.workers": 1,
        "run.cpus_per_worker": 1 if args.tiny else 4,
        "run.gpus_per_worker": int(args.device != "cpu"),
        "run.checkpoint_every": epochs,
        "run.log_every": 1 if args.tiny else 20,
        "data.dataset": shards.manifest["dataset"],
        "data.train": args.data / "train",
        "data.val": args.data / "val",
        "data.input": "32x32" if args.tiny else "256x192",
        "data.sigma": 1 if args.tiny else 2,
        "data.loaders": 1 if args.tiny else 4,
        "data.cache_mb": 500,
        "model.backbone": "hrnet_small" if args.tiny else "hrnet_w32",
        "model.embedding": 16 if args.tiny else 256,
        "loss.lambda_p": weight,
        "loss.start_epoch": 0,
        "loss.ramp_epochs": 1,
        "loss.points": 16,
        "loss.bank.warmup": 2 if args.tiny else 50,
        "optim.epochs": epochs,
        "optim.batch": batch,
        "optim.micro_batch": batch,
        "optim.lr": 1e-3,
        "optim.milestones": [m for m in [round(0.75 * epochs)] if 0 < m < epochs],
        "eval.every": epochs,
        "eval.batch": batch,
        "eval.engine": "fast",
    }
    return ["--cfg", "lsp", *(f"{key}={value}" for key, value in values.items())]


if __name__ == "__main__":
    one_seed(sys.argv[1:])
