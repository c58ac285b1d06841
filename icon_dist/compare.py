"""One page about runs: ``icon-dist compare RUN... [-o compare.html]``. Curves, scores, errors, and how sure they are.

Of one run it is the report. Runs that differ in nothing but their seed are one arm, whose scores get intervals; the
first arm is the one that others are compared with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch

from icon_dist import storage
from icon_dist.arguments import Parser, at_least
from icon_dist.drawing.page import require_pages
from icon_dist.errors import CheckpointError, ConfigError, DivergedError, IconError, note, plural, run_cli, say, tell
from icon_dist.evaluate import device, require_same_joints
from icon_dist.reports.changes import Change, changes, pictures
from icon_dist.reports.comparison import Arm, arms_of, numbers_of
from icon_dist.reports.comparison_page import Pictures, page, worst_of
from icon_dist.reports.measure import Measured, Shards, measure, open_measured
from icon_dist.reports.runs import Run, read_runs

WITHOUT = "kinds of errors, recall, features and pictures"  # what only an evaluation gives


def arguments(argv: list[str]) -> argparse.Namespace:
    """What was asked; an output that cannot be written is an error before the work."""
    assert __doc__ is not None
    parser = Parser("icon-dist compare", __doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder of a run (run.dir/run.name), path or s3://; the first leads")
    add(
        "-o",
        "--out",
        default="compare.html",
        metavar="FILE.html",
        help="default %(default)s; FILE.json has the numbers",
    )
    add("--force", action="store_true", help="replace FILE.html and FILE.json where they exist")
    add("--shards", metavar="URI", help="score and diagnose the best checkpoints on this set; default: their data.val")
    add("--no-evaluation", action="store_true", help="only what the runs have recorded: no checkpoint is read")
    add("--limit", type=at_least(0), default=0, metavar="N", help="only the first N boxes of the set")
    add("--batch", type=at_least(1), default=32, help="default %(default)s")
    cores = max(1, (os.cpu_count() or 1) - 1)
    add("--loaders", type=at_least(0), default=cores, help="decoding processes; default %(default)s")
    add("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    args = parser.parse_args(argv)
    if args.no_evaluation and (args.shards or args.limit):
        raise ConfigError("--no-evaluation: does not go with --shards or --limit, which are of the evaluation")
    if PurePosixPath(args.out).suffix != ".html":
        raise ConfigError(f"-o {args.out}: is written as HTML; name it FILE.html")
    require_pages()
    for place in outputs(args.out):
        if storage.exists(place) and not args.force:
            raise ConfigError(f"-o {args.out}: {place} exists; give another FILE.html, or --force to replace it")
        storage.require_place(place)
    return args


def outputs(out: str) -> tuple[str, str]:
    """The page, and the file of its numbers beside it."""
    return storage.absolute(out), storage.absolute(f"{out.removesuffix('.html')}.json")


def main(argv: list[str]) -> None:
    args = arguments(argv)
    runs = read_runs(args.runs)
    require_one_skeleton(runs)
    arms = arms_of(runs)
    tell(f"{plural(len(runs), 'run')} in {plural(len(arms), 'arm')}: {', '.join(arm.name for arm in arms)}")
    missing: list[str] = []
    shards = None if args.no_evaluation else shards_of(runs, args.shards, missing)
    if args.no_evaluation:
        missing.append(f"{WITHOUT}: leave out --no-evaluation")
    measured = {} if shards is None else measure_all(runs, shards, args, missing)
    missing += unrecorded(runs)
    changed, drawn = changed_instances(arms, measured)
    uri = None if shards is None else shards.uri
    numbers = numbers_of(arms, measured, shards=uri if measured else None, changed=changed, missing=missing)
    worst = worst_of(measured[runs[0]]) if len(runs) == 1 and measured else {}
    tell("writing the page")
    html = page(numbers, arms, measured, Pictures(drawn, worst))
    place, beside = outputs(args.out)
    storage.write(beside, (json.dumps(numbers, indent=1) + "\n").encode())
    storage.write(place, html.encode())
    say(f"{args.out}: {plural(len(runs), 'run')}, {plural(len(arms), 'arm')}; numbers in {beside}")


def require_one_skeleton(runs: Sequence[Run]) -> None:
    """ConfigError where runs have other joints than the first whose joints are known."""
    known = [run for run in runs if run.skeleton is not None]
    for run in known[1:]:
        first, other = known[0].skeleton, run.skeleton
        assert first is not None
        assert other is not None
        if first.joints != other.joints:
            raise ConfigError(
                f"{run.name}: predicts {plural(other.num_joints, 'joint')} of {other.name}, {known[0].name} "
                f"{plural(first.num_joints, 'joint')} of {first.name}; compare runs of one skeleton"
            )


def shards_of(runs: Sequence[Run], given: str | None, missing: list[str]) -> Shards | None:
    """The set to score on: the one given, or that of the runs, if they have one and it can be read."""
    own = dict.fromkeys(run.config.data.val for run in runs)
    if given is None and len(own) > 1:
        note(f"the runs were scored on different sets ({', '.join(name or 'none' for name in own)}); give --shards")
        missing.append(f"{WITHOUT}: the runs have different data.val; give one set for all with --shards URI")
        return None
    uri = given or next(iter(own))
    if not uri:
        missing.append(f"{WITHOUT}: the runs have no data.val; give a set with --shards URI")
        return None
    if not any(run.checkpoints for run in runs):
        missing.append(f"{WITHOUT}: no run has a checkpoint yet; run this again later")
        return None
    try:
        return open_measured(uri, [run.config.input_hw for run in runs if run.checkpoints])
    except IconError as error:
        if given is not None:
            raise
        note(f"data.val={uri}: {error}")
        missing.append(f"{WITHOUT}: data.val={uri} of the runs cannot be read here; give its place with --shards URI")
        return None


def measure_all(
    runs: Sequence[Run], shards: Shards, args: argparse.Namespace, missing: list[str]
) -> dict[Run, Measured]:
    """The best checkpoint of each run on the set; all under the conditions of the first run's own evaluations."""
    for run in runs:
        if run.skeleton is not None:
            require_same_joints(run.skeleton, shards.skeleton, checkpoint=run.uri, shards=shards.uri)
    first = runs[0].config.eval
    settings = dataclasses.replace(first, batch=args.batch, limit=args.limit)
    measured: dict[Run, Measured] = {}
    for number, run in enumerate(runs, start=1):
        if run.skeleton is None:
            missing.append(f"{run.name}: has no checkpoint yet, so nothing was measured of it; run this again later")
            continue
        tell(f"{run.name} ({number} of {len(runs)}): evaluating its best checkpoint on {shards.uri}")
        try:
            measured[run] = measure(run, shards, settings=settings, loaders=args.loaders, device=args.device)
        except (CheckpointError, DivergedError) as error:
            note(f"{run.uri}: {error}")
            missing.append(f"{run.name}: {error}")
    return measured


def unrecorded(runs: Sequence[Run]) -> list[str]:
    """What runs have not written into their records."""
    lines = []
    if names := [run.name for run in runs if not run.evals]:
        lines.append(
            f"score over epochs of {', '.join(names)}: not evaluated while training; set data.val and eval.every"
        )
    if names := [run.name for run in runs if not run.train]:
        lines.append(f"curves of {', '.join(names)}: no step is recorded; run.log_every is larger than the run is long")
    return lines


def changed_instances(
    arms: Sequence[Arm], measured: dict[Run, Measured]
) -> tuple[dict[str, list[Change]], dict[str, dict[int, bytes]]]:
    """Whose pose changed most from the first arm to the last, and their pictures; nothing of one arm."""
    ends = [next((measured[run] for run in arm.runs if run in measured), None) for arm in (arms[0], arms[-1])]
    before, after = ends
    if len(arms) == 1 or before is None or after is None:
        return {}, {}
    better, worse = changes(before, after)
    found = {"better": better, "worse": worse}
    return found, {name: pictures(some, before, after) for name, some in found.items()}


if __name__ == "__main__":
    run_cli(main)
