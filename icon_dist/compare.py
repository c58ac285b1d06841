"""One page about runs: ``icon-dist compare RUN... [-o compare.html]``. Curves, scores, errors, and how sure they are.

Of one run it is the report. Runs that differ in nothing but their seed are one arm, whose scores get intervals; the
first arm is the one that others are compared with. What it does is in :mod:`icon_dist.reports.comparison`.
"""

from __future__ import annotations

import argparse

from icon_dist.cli import Parser, loading
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked, as far as the words themselves can be wrong."""
    parser = Parser("icon-dist compare", __doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder of a run, path or s3://; the first is the baseline")
    numbers = "default %(default)s; numbers in FILE.json"
    add("-o", "--out", default="compare.html", metavar="FILE.html", help=numbers)
    parser.add_force()
    text = "score and diagnose the best checkpoints on this set; default: their data.val, of several the first"
    add("--shards", metavar="URI", help=text)
    add("--no-evaluation", action="store_true", help="only what the runs have recorded: no checkpoint is loaded")
    parser.add_evaluation()
    args = parser.parse_args(argv)
    if args.no_evaluation and (args.shards or args.limit):
        raise ConfigError("--no-evaluation: does not go with --shards or --limit, which are of the evaluation")
    if not args.out.endswith(".html"):
        raise ConfigError(f"-o {args.out}: is written as HTML; name it FILE.html")
    return args


def main(argv: list[str]) -> None:
    """Run ``icon-dist compare`` with these words: write one page about the runs; mistakes raise a ConfigError."""
    args = arguments(argv)

    with loading():
        from icon_dist.reports import comparison

    comparison.run(args)


if __name__ == "__main__":
    run_cli(main)
