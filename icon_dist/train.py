"""Train a pose model with inter-image contrast: ``icon-dist train --cfg NAME|PATH [a.b=c ...]``.

This is the command line. What it does is :func:`icon_dist.training.driver.run`, on the driver, which launches
:func:`icon_dist.training.loop.train` on every worker.
"""

from __future__ import annotations

from icon_dist.cli import Parser, loading
from icon_dist.command_exit import run_cli


def main(argv: list[str]) -> None:
    """Run ``icon-dist train`` with these words: train a model, resume its run, or only print what would be done."""
    parser = Parser("icon-dist train", __doc__.splitlines()[0])
    parser.add_config()
    parser.add_argument("--print-config", action="store_true", help="print the whole config and leave")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and leave; touches nothing")
    args = parser.parse_intermixed_args(argv)

    with loading():
        from icon_dist import config as configuration

    cfg, own = configuration.load_own(args.cfg, args.overrides)
    if args.print_config:
        print(configuration.to_commented_yaml(cfg), end="")
        return

    with loading("" if args.dry_run else "torch and what trains"):
        from icon_dist.training import driver

    driver.run(cfg, own, dry_run=args.dry_run)


if __name__ == "__main__":
    run_cli(main)
