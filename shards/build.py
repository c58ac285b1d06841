"""The same as ``icon-dist shards build``."""

from icon_dist.errors import run_cli
from icon_dist.shards.build import main

if __name__ == "__main__":
    run_cli(main)
