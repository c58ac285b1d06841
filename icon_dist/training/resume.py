"""Exact resume: the same command goes on from the run's newest intact checkpoint, bit for bit as if it had not stopped.

Here is which checkpoint that is, and whether this run may go on from it: of the same model, on the same data, at the
same position. ``checkpoints/checkpoint.py`` looks for it, ``state.py`` restores all that outlives a step, and
``data/sampler.py`` goes on at its (epoch, step).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icon_dist import config as configuration
from icon_dist import distributed
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints.background_saver import send_unsent
from icon_dist.checkpoints.checkpoint import Checkpoint
from icon_dist.checkpoints.manifest import NAME, OTHER, Manifest, newest_whole, scored_since
from icon_dist.config import Config
from icon_dist.errors import CheckpointError, ConfigError
from icon_dist.shards.shard_set import ShardSet
from icon_dist.training import precision
from icon_dist.training.plan import Plan
from icon_dist.types import Skeleton

Note = Callable[[str], None]  # takes a line for people
OTHER_SHARDS = "the shards of data.train are others (labels, photos or packing)"
DECIDED_BY = {"split": "data.train, data.labelled and data.split_seed", "teacher": "semi.teacher"}


def look(run_uri: str, cfg: Config, shards: ShardSet, plan: Plan, *, note: Note) -> Manifest | None:
    """The newest checkpoint by its manifest alone, before workers start and look at every byte; None in a new run.

    CheckpointError where the run cannot go on from it; ``note`` is told what it goes on with that is new.
    """
    _, newest = newest_whole(run_uri) or (None, None)
    if newest is not None:
        refuse_other(newest, cfg, shards.skeleton, plan, {"split": plan.split.record()})
        changed = ", ".join(changes(newest, cfg, shards))
        if changed and newest["step"] < plan.total_steps:
            note(f"the run goes on from step {newest['step']} with another config: {changed}")
    return newest


def newest_for_all(
    run_uri: str, cfg: Config, skeleton: Skeleton, plan: Plan, *, same: Mapping[str, Any], note: Note
) -> Checkpoint | None:
    """The newest intact checkpoint, the same on all ranks; None in a new run. Collective.

    What an earlier attempt could not send is sent first. CheckpointError where the run cannot go on from it.
    """
    if distributed.rank() == 0:
        send_unsent(run_uri, warn=note)
    found = checkpoint.newest_for_all(run_uri, warn=note)
    if found is not None:
        refuse_other(found.manifest, cfg, skeleton, plan, same)
    return found


def tell(found: Checkpoint, cfg: Config, shards: ShardSet, *, ended: bool, note: Note) -> None:
    """Say where the run goes on, and with which values that are new; a run that has ``ended`` applies none."""
    note(f"resumed at step {found.step} from {found.uri}")
    changed = changes(found.manifest, cfg, shards)
    if ended:
        for text in not_applied(changed):
            note(text)
    elif changed:
        note(f"with another config from here on: {', '.join(changed)}")


def not_applied(changed: Sequence[str]) -> list[str]:
    """What is said of values that were ``changed`` for a run that is over; nothing if there are none."""
    text = "not applied, because the run is over: {}; another run.name trains with other values"
    return [text.format(", ".join(changed))] if changed else []


def refuse_other(saved: Manifest, cfg: Config, skeleton: Skeleton, plan: Plan, same: Mapping[str, Any]) -> None:
    """CheckpointError where the run cannot go on from this checkpoint; ``same`` are facts that stay as they were."""
    at = saved["step"] / plan.steps_per_epoch
    require(saved, backbone=cfg.model.backbone, joints=skeleton.joints, epoch=at)
    require_average(saved, cfg)
    require_same(saved, same)


def require_average(saved: Manifest, cfg: Config) -> None:
    """Refuse a checkpoint without averaged weights where the run has them: they cannot begin in the middle."""
    if cfg.optim.ema and "ema.safetensors" not in saved["files"]:
        raise CheckpointError(
            f"checkpoint of step {saved['step']}: has no averaged weights, which optim.ema={cfg.optim.ema:g} goes on "
            "with; leave optim.ema at 0, or use another run.name"
        )


def require(manifest: Manifest, *, backbone: str, joints: Sequence[str], epoch: float) -> None:
    """Refuse a checkpoint of another model, or whose step is another position in this run's data, naming both."""
    where = f"checkpoint of step {manifest['step']}"
    if absent := [name for name in ("config", "skeleton", "epoch", "channel_order") if name not in manifest]:
        raise CheckpointError(f"{where}: {NAME} has no {absent[0]}; {OTHER}")
    theirs = _config_of(manifest).model.backbone
    if theirs != backbone:
        raise CheckpointError(f"{where}: model.backbone={theirs}, but this run has {backbone}; use another run.name")
    saved = manifest["skeleton"]["joints"]
    if list(saved) != list(joints):
        raise CheckpointError(
            f"{where}: {len(saved)} joints ({', '.join(saved)}), but the data has {len(joints)} ({', '.join(joints)})"
        )
    if manifest["epoch"] != epoch:
        raise CheckpointError(
            f"{where}: was epoch {manifest['epoch']:g}, but would be epoch {epoch:g} here; "
            "resume with the data and the optim.batch it was trained with, or use another run.name"
        )


def changes(manifest: Manifest, cfg: Config, shards: ShardSet) -> list[str]:
    """What ``cfg`` changes of the config it was saved with, outside the ``run`` section; of that the precision.

    Shards that are others at the same place, as after labels were corrected, are a change too.
    """
    return [*changed_values(manifest, cfg, shards), *precision.changed(_config_of(manifest).run, cfg.run)]


def changed_values(manifest: Manifest, cfg: Config, shards: ShardSet) -> list[str]:
    """The same without the precision, which another device changes: a run that is over needs no GPU to say so."""
    other = manifest.get("index") not in (None, shards.index_sha256)
    return [*configuration.changes(_config_of(manifest), cfg), *[OTHER_SHARDS][:other]]


def changed(found: Checkpoint | None, cfg: Config, shards: ShardSet) -> dict[str, list[str]]:
    """What a run has changed where it went on, for its checkpoints: ``from step 8 on: optim.lr=0.1 (was 0.2)``."""
    if found is None:
        return {}
    lines, now = list(found.manifest.get("changed", [])), ", ".join(changes(found.manifest, cfg, shards))
    lines += [f"from step {found.step} on: {now}"] if now else []
    return {"changed": lines} if lines else {}


def scoring(found: Checkpoint | None, cfg: Config, val: Sequence[ShardSet]) -> dict[str, Any]:
    """How the run is scored, and since which step, for its checkpoints: only scores of one way are compared.

    Else a score on fewer or other people stays the best one for good.
    """
    ways = {"codec": cfg.data.codec, "decode": cfg.eval.decode, "flip": cfg.eval.flip, "limit": cfg.eval.limit}
    now = {**ways, "refine_below": cfg.eval.refine_below, "sets": [one.index_sha256 for one in val]}
    since = 0
    if found is not None:
        same = found.manifest.get("scored_by", now) == now
        since = scored_since(found.manifest) if same else found.step
    return {"scored_by": now, "scored_since": since}


def _config_of(manifest: Manifest) -> Config:
    try:
        return configuration.from_dict(manifest["config"])
    except ConfigError as error:
        raise CheckpointError(f"checkpoint of step {manifest['step']}: its config: {error}; {OTHER}") from None


def require_same(manifest: Manifest, facts: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a run that stood on something else, such as other labelled people, naming the first."""
    for name, here in facts.items():
        if (there := manifest.get(name)) != here:
            theirs, ours = (json.dumps(fact, sort_keys=True) for fact in (there, here))
            raise CheckpointError(
                f"checkpoint of step {manifest['step']}: {name} was {theirs}, but is {ours} here; "
                f"resume with the {DECIDED_BY[name]} it was trained with, or use another run.name"
            )
