"""The same as ``icon-dist sweep lambdas``."""

from icon_dist.__main__ import dispatch
from icon_dist.cli import run_cli

if __name__ == "__main__":
    run_cli(lambda argv: dispatch(["sweep", "lambdas", *argv]))
