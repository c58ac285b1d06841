"""Runs side by side on one page: what ``icon-dist compare`` reads, measures and writes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

from icon_dist import storage
from icon_dist.config import sets_of
from icon_dist.cpu import keep_freed_memory
from icon_dist.datasets.merged_skeleton import missing as lacking
from icon_dist.drawing.page import require_pages
from icon_dist.errors import CheckpointError, ConfigError, DivergedError, IconError, note, plural, say, tell
from icon_dist.inference.device import chosen_device
from icon_dist.reports.comparison_numbers import numbers_of
from icon_dist.reports.comparison_page import Pictures, page, worst_of
from icon_dist.reports.measured_runs import Measured, Shards, measure, open_measured
from icon_dist.reports.pose_changes import Change, changes, pictures
from icon_dist.reports.run_groups import Arm, arms_of
from icon_dist.reports.runs import Run, read_runs
from icon_dist.types import Skeleton

MEASURED = "kinds of errors, recall, features and pictures"  # what only an evaluation gives


def run(args: argparse.Namespace) -> None:
    """All of it; an output that cannot be written is an error before the work."""
    place, beside = outputs(args.out, force=args.force)
    device = chosen_device(args.device)
    keep_freed_memory()
    runs = read_runs(args.runs)
    require_one_skeleton({run.name: run.skeleton for run in runs})
    arms = arms_of(runs)
    for run in runs:
        for line in run.changed:
            note(f"{run.name}: is in the arm of its last values, and was trained with others; {line}")
    missing = [f"{MEASURED}: leave out --no-evaluation"] if args.no_evaluation else []
    shards = None if args.no_evaluation else shards_of(runs, args.shards, missing)
    tell(f"{plural(len(runs), 'run')} in {plural(len(arms), 'arm')}: {', '.join(arm.name for arm in arms)}")
    measured = {} if shards is None else measure_all(runs, shards, args, device=device, missing=missing)
    missing += unrecorded(runs)
    if not measured and (text := unlike(runs)):
        note(text)
        missing.append(text)
    changed, drawn = changed_instances(arms, measured)
    uri = shards.uri if shards is not None and measured else None
    numbers = numbers_of(arms, measured, shards=uri, changed=changed, missing=missing)
    worst = worst_of(measured[runs[0]]) if len(runs) == 1 and measured else {}
    tell("drawing the page")
    html = page(numbers, arms, measured, Pictures(drawn, worst))
    storage.write(beside, (json.dumps(numbers, indent=1) + "\n").encode())
    storage.write(place, html.encode())
    say(f"{args.out}: {plural(len(runs), 'run')}, {plural(len(arms), 'arm')}; numbers in {beside}")


def outputs(out: str, *, force: bool) -> tuple[str, str]:
    """The page, and the file of its numbers beside it; ConfigError where one exists that may not be replaced."""
    require_pages()
    places = storage.absolute(out), storage.absolute(f"{out.removesuffix('.html')}.json")
    storage.require_new(f"-o {out}", *places, force=force)
    return places


def require_one_skeleton(skeletons: dict[str, Skeleton | None]) -> None:
    """ConfigError where one of these has other joints than the first that is known."""
    known = {name: skeleton for name, skeleton in skeletons.items() if skeleton is not None}
    for name, other in known.items():
        first_name, first = next(iter(known.items()))
        if other.joints != first.joints:
            raise ConfigError(
                f"{name}: has {plural(other.num_joints, 'joint')} of {other.name}, {first_name} "
                f"{plural(first.num_joints, 'joint')} of {first.name}; compare runs of one skeleton, on shards of it"
            )


def shards_of(runs: Sequence[Run], given: str | None, missing: list[str]) -> Shards | None:
    """The set to score on: the one given, or that of the runs, if they have one and it can be read."""
    own = dict.fromkeys(next(iter(sets_of(run.config.data.val)), "") for run in runs)
    if given is None and len(own) > 1:
        note(f"the runs were scored on different sets ({', '.join(name or 'none' for name in own)}); give --shards")
        missing.append(f"{MEASURED}: the runs have different data.val; give one set for all with --shards URI")
        return None
    uri = given or next(iter(own))
    if not uri:
        missing.append(f"{MEASURED}: the runs have no data.val; give a set with --shards URI")
        return None
    trained = [run for run in runs if run.skeleton is not None]
    if not trained:
        missing.append(f"{MEASURED}: no run has a checkpoint yet; run this again later")
        return None
    try:
        shards = open_measured(uri, [run.config.input_hw for run in trained])
    except IconError as error:
        if given is not None:
            raise
        note(f"data.val={uri}: {error}")
        missing.append(f"{MEASURED}: data.val={uri} of the runs cannot be read here; give its place with --shards URI")
        return None
    require_one_skeleton({run.name: run.skeleton for run in trained})
    learned = trained[0].skeleton
    if learned is not None and lacking(learned, shards.index.skeleton):
        require_one_skeleton({trained[0].name: learned, uri: shards.index.skeleton})
    return shards


def measure_all(
    runs: Sequence[Run], shards: Shards, args: argparse.Namespace, *, device: str, missing: list[str]
) -> dict[Run, Measured]:
    """The best checkpoint of each run on the set; all under the conditions of the first run's own evaluations."""
    settings = dataclasses.replace(runs[0].config.eval, batch=args.batch, limit=args.limit)
    measured: dict[Run, Measured] = {}
    for number, run in enumerate(runs, start=1):
        if run.skeleton is None:
            missing.append(f"{run.name}: has no checkpoint yet, so nothing was measured of it; run this again later")
            continue
        tell(f"{run.name} ({number} of {len(runs)}): evaluating its best checkpoint on {shards.uri}")
        try:
            measured[run] = measure(run, shards, settings=settings, loaders=args.loaders, device=device)
        except (CheckpointError, DivergedError) as error:
            note(f"{run.uri}: {error}")
            missing.append(f"{run.name}: {error}")
    return measured


def unrecorded(runs: Sequence[Run]) -> list[str]:
    """What runs have not written into their records."""
    lines = []
    if names := ", ".join(run.name for run in runs if not run.evals):
        lines.append(f"score over epochs of {names}: not evaluated while training; set data.val and eval.every")
    if names := ", ".join(run.name for run in runs if not run.train):
        lines.append(f"curves of {names}: no step is recorded; set run.log_every below the number of steps")
    return lines


def unlike(runs: Sequence[Run]) -> str:
    """That recorded scores are of different sets or conditions, where they are; else ""."""
    under: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for run in runs:
        if run.best is not None:
            under.setdefault((run.best["what"], sets_of(run.config.data.val)), []).append(run.name)
    if len(under) < 2:
        return ""
    each = "; ".join(f"{', '.join(names)}: {what} on {', '.join(uris)}" for (what, uris), names in under.items())
    return f"scores that can be compared: the runs recorded theirs under different conditions ({each}); evaluate them"


def changed_instances(
    arms: Sequence[Arm], measured: dict[Run, Measured]
) -> tuple[dict[str, list[Change]], dict[str, dict[int, bytes]]]:
    """Whose pose changed most from the first arm to the last, and their pictures; nothing of one arm."""
    before, after = (next((measured[run] for run in arm.runs if run in measured), None) for arm in (arms[0], arms[-1]))
    if len(arms) == 1 or before is None or after is None:
        return {}, {}
    better, worse = changes(before, after)
    found = {"better": better, "worse": worse}
    return found, {name: pictures(some, before, after) for name, some in found.items()}
