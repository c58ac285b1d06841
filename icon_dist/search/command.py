"""The command line of a sweep: ``python sweeps/NAME.py --cfg NAME|PATH --trials N [a.b=c ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from icon_dist import config as configuration
from icon_dist import storage
from icon_dist.search.run import run_search
from icon_dist.search.space import Space


def main(argv: list[str], *, name: str, about: str, space: Space, paper: Mapping[str, Any]) -> None:
    """``name`` is the end of the study's folder, ``about`` the first line of ``--help``."""
    parser = argparse.ArgumentParser(prog=f"python sweeps/tune_{name}.py", description=about)
    presets = ", ".join(configuration.presets())
    add = parser.add_argument
    add("--cfg", required=True, metavar="NAME|PATH", help=f"a YAML file, or a preset: {presets}")
    add("--trials", type=int, default=24, metavar="N", help="finished trials to have in the end (%(default)s)")
    add("--study", metavar="URI", help=f"folder of it all, path or s3:// (run.dir/run.name-{name})")
    add("--workers-per-trial", type=int, default=1, metavar="N", help="more than 1: a worker group (%(default)s)")
    add("--gpus-per-worker", type=int, metavar="N", help="0 or 1; default: run.gpus_per_worker")
    add("--max-concurrent", type=int, default=0, metavar="N", help="trials at a time; default: as many as fit")
    add("--confirm", type=int, default=0, metavar="SEEDS", help="repeat the best, the paper's and no contrast")
    add("--cost", action="store_true", help="search for high scores and short steps alike")
    add("overrides", nargs="*", metavar="a.b=c", help="config values of every trial")
    args = parser.parse_intermixed_args(argv)
    cfg, own = configuration.load_own(args.cfg, args.overrides)
    run_search(
        space,
        cfg,
        own=own,
        study=args.study or storage.join(storage.absolute(cfg.run.dir), f"{cfg.run.name}-{name}"),
        trials=args.trials,
        paper=paper,
        workers=args.workers_per_trial,
        gpus=args.gpus_per_worker,
        max_concurrent=args.max_concurrent,
        confirm=args.confirm,
        cost=args.cost,
    )
