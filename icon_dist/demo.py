"""The whole system on generated people: ``make demo``.

People are rendered and packed into shards, two Ray workers train on them with DeepSpeed ZeRO-1, contrast and the
cross-worker bank; the run is stopped half-way and resumed by the same command, its best checkpoint is fetched,
verified and scored, and its predictions are drawn. Every step is a command a user would type. Exits 1 if the loss
does not fall, the score is one that a fixed pose could reach, or the resume starts anywhere but where it stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from statistics import fmean
from typing import Any

import yaml

from icon_dist import storage
from icon_dist.cli import Parser
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError
from icon_dist.storage import append_log, lock

MIN_PCK = 40.0  # the best fixed pose stays below 30 (CONSTANT_PCK in tests/unit/datasets/test_synthetic.py)
WINDOW = 30  # steps at the start and at the end, over which losses are averaged
STOP_AFTER = 4  # epochs before the interruption
PLACES = {"data.train": "train", "data.val": "val", "run.dir": "runs"}  # below --out


def main(argv: list[str]) -> int:
    """Run ``icon-dist demo`` with these words.

    Returns 0 if the three checks hold (falling loss, PCK@0.2, resume), else 1. A command that fails ends the process
    with its own exit code; raises ConfigError for overrides that the demo cannot use.
    """
    parser = Parser("icon-dist demo", __doc__.splitlines()[0])
    parser.add_argument("--out", default="out/demo", metavar="DIR|s3://", help="where everything goes (%(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="config values on top of --cfg demo")
    args = parser.parse_intermixed_args(argv)
    for item in args.overrides:
        if item.partition("=")[0] in PLACES:
            raise ConfigError(f"{item}: the demo puts everything into one place; give it with --out")

    from icon_dist.config import load

    out = storage.absolute(args.out)
    places = [*(f"{key}={out}/{name}" for key, name in PLACES.items()), *args.overrides]
    config = load("demo", places)
    if config.optim.epochs <= STOP_AFTER:
        raise ConfigError(
            f"optim.epochs={config.optim.epochs}: the demo stops after {STOP_AFTER} and resumes; give more"
        )
    run = storage.join(out, "runs", config.run.name)
    _forget(run, shards=f"{out}/train")
    started = time.monotonic()

    train = ["icon_dist.train", "--cfg", "demo", *places]
    _run([*train, f"run.stop_after_epoch={STOP_AFTER}"])
    first = _events(run)
    _run(train)
    events = _events(run)
    weights = f"{out}/best.safetensors"
    picture = f"{out}/predictions.png"
    _run(["icon_dist.fetch", run, "--best", "-o", weights, "--force"])
    result = f"{out}/result.json"
    files = ["--json", result, "--picture", picture, "--force"]
    _run(["icon_dist.evaluate", weights, "--shards", f"{out}/val", *files])

    losses = {e["step"]: e["heatmap"] for e in events if e["kind"] == "train"}
    pck = json.loads(storage.read(result))["scores"]["PCK@0.2"]
    early = fmean(loss for step, loss in losses.items() if step <= WINDOW)
    late = fmean(loss for step, loss in losses.items() if step > max(losses) - WINDOW)
    kept = events[: len(first)] == first and len(events) > len(first)
    gates = {
        f"heatmap loss falls: {early:.3f} -> {late:.3f}": late < 0.7 * early,
        f"PCK@0.2 {pck:.1f} is over {MIN_PCK:.0f}, out of reach for a fixed pose": pck > MIN_PCK,
        f"resumed at epoch {STOP_AFTER} of {config.optim.epochs}, nothing recorded twice": kept,
    }
    width = min(100, shutil.get_terminal_size().columns)
    print("\n" + "-" * width)
    for text, ok in gates.items():
        print(f"{'ok    ' if ok else 'FAILED'}  {text}")
    print(f"time    {time.monotonic() - started:.0f} s\npicture {picture}\nrun     {run}\nweights {weights}")
    return 0 if all(gates.values()) else 1


def _forget(run: str, *, shards: str) -> None:
    """A demo shows the whole way: its last run goes, its shards may stay. Nothing goes that is not a demo's."""
    if not storage.exists(run):
        return
    with lock.hold(run, fix="give another --out"):
        names = storage.listing(run)
        saved = yaml.safe_load(storage.read(storage.join(run, "config.yaml"))) if "config.yaml" in names else {}
        if names and saved.get("data", {}).get("train") != shards:
            raise ConfigError(f"{run}: holds what no demo has written; give another --out")
        for name in sorted({name.partition("/")[0] for name in names}):
            storage.delete(storage.join(run, name), tree=True)


def _run(module: list[str]) -> None:
    print("\n$ python -m " + shlex.join(module), flush=True)
    done = subprocess.run([sys.executable, "-m", *module], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _events(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in append_log.read(storage.join(run, "metrics.jsonl")).splitlines()]


if __name__ == "__main__":
    run_cli(main)
