"""A page of stored crops with their skeletons, to see what training will see."""

from __future__ import annotations

from icon_dist.cli import Parser, at_least
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError


def main(argv: list[str]) -> None:
    """Run ``icon-dist shards view`` with these words: draw a page of stored crops with their skeletons.

    Raises ConfigError unless the page is named .png or .jpg, or where it exists.
    """
    parser = Parser("icon-dist shards view", __doc__)
    add = parser.add_argument
    add("shards", metavar="DIR|s3://...")
    add("-o", "--out", required=True, metavar="PAGE.png")
    add("--count", type=at_least(1), default=24, metavar="N", help="people; default %(default)s")
    add("--columns", type=at_least(1), default=6, metavar="N", help="default %(default)s")
    parser.add_force()
    add("--seed", type=at_least(0), default=0, help="another seed, other people")
    options = parser.parse_args(argv)
    if not options.out.endswith((".png", ".jpg")):
        raise ConfigError(f"--out {options.out}: expected NAME.png or NAME.jpg")

    from icon_dist import storage
    from icon_dist.shards import contact_sheet

    storage.require_new(f"--out {options.out}", options.out, force=options.force)
    contact_sheet.run(options.shards, options.out, count=options.count, columns=options.columns, seed=options.seed)


if __name__ == "__main__":
    run_cli(main)
