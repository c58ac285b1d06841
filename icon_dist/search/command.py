"""The command line of a sweep: ``icon-dist sweep SEARCH --cfg NAME|PATH --trials N [a.b=c ...]``.

What it does is in :mod:`icon_dist.search.study`.
"""

from __future__ import annotations

from pathlib import Path

from icon_dist.cli import Parser, at_least
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError


def main(argv: list[str]) -> None:
    """Run ``icon-dist sweep`` with these words: search for better config values, or go on with a search.

    Raises ConfigError for a mistake in the words, the search or the config.
    """
    about = "Optuna proposes values, Ray Tune trains with them, ASHA stops the weak; the same command again goes on."
    parser = Parser("icon-dist sweep", about)
    add = parser.add_argument
    shipped = ", ".join(sorted(path.stem for path in (Path(__file__).parent / "spaces").glob("*.yaml")))
    add("search", metavar="SEARCH", help=f"what to search: {shipped}, or a YAML file of your own")
    parser.add_config(overrides="config values of every trial")
    add("--trials", type=at_least(1), default=24, metavar="N", help="finished trials to have in the end (%(default)s)")
    add("--study", metavar="URI", help="the study's folder, path or s3:// (run.dir/run.name-SEARCH)")
    add("--workers-per-trial", type=at_least(1), default=1, metavar="N", help="2 or more: a worker group (%(default)s)")
    add("--gpus-per-worker", type=int, choices=(0, 1), help="default: run.gpus_per_worker")
    add("--max-concurrent", type=at_least(0), default=0, metavar="N", help="trials at a time; default: as many as fit")
    add("--confirm", type=at_least(0), default=0, metavar="SEEDS", help="repeat the best, the first and no contrast")
    add("--cost", action="store_true", help="search for high scores and short steps at once")
    if "--dry-run" in argv:
        raise ConfigError("--dry-run: a sweep has none; icon-dist train --cfg ... --dry-run shows the plan of a trial")
    args = parser.parse_intermixed_args(argv)

    from icon_dist import config as configuration
    from icon_dist import storage
    from icon_dist.search.spaces import read_search

    search = read_search(args.search)
    cfg, own = configuration.load_own(args.cfg, args.overrides)

    from icon_dist.search.study import Goal, run_search

    goal = Goal(
        args.trials,
        confirm=args.confirm,
        cost=args.cost,
        workers=args.workers_per_trial,
        gpus=args.gpus_per_worker,
        max_concurrent=args.max_concurrent,
    )
    study = args.study or storage.join(storage.absolute(cfg.run.dir), f"{cfg.run.name}-{search.name}")
    run_search(search, cfg, goal, study=study, own=own)


if __name__ == "__main__":
    run_cli(main)
