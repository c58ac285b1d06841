"""The same as ``icon-dist shards view``."""

from icon_dist.errors import run_cli
from icon_dist.shards.view import main

if __name__ == "__main__":
    run_cli(main)
