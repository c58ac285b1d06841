"""Check a shard directory byte by byte and its labels by statistics. Exit code 3 if anything is wrong.

What it does is in ``verification.py``: files in ``bytes_check.py``, labels in ``label_checks.py``.
"""

from __future__ import annotations

from icon_dist.cli import Parser
from icon_dist.command_exit import run_cli


def main(argv: list[str]) -> None:
    """Run ``icon-dist shards verify`` with these words: print what is wrong with a set.

    Raises DataError, with the number of findings, if there are any.
    """
    parser = Parser("icon-dist shards verify", __doc__.splitlines()[0])
    parser.add_argument("shards", metavar="DIR|s3://...")
    text = "another split: photos that are in both are findings, also if they were cut, scaled or encoded again"
    parser.add_argument("--against", metavar="DIR|s3://...", help=text)
    options = parser.parse_args(argv)

    from icon_dist.shards import verification

    verification.run(options.shards, against=options.against)


if __name__ == "__main__":
    run_cli(main)
