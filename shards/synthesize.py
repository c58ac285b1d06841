"""The same as ``icon-dist shards synthesize``."""

from __future__ import annotations

from icon_dist.__main__ import dispatch
from icon_dist.command_exit import run_cli


def main(argv: list[str]) -> int | None:
    return dispatch(["shards", "synthesize", *argv])


if __name__ == "__main__":
    run_cli(main)
